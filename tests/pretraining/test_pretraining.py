"""The generator of traffic, and a training of the weights that goes on where it was interrupted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kforecast.files.torch_file import read_tensors
from kforecast.intervals import LEVELS
from kforecast.models.pretrained import OFFSETS, TrafficNet
from kforecast.pretraining import run, samples
from kforecast.pretraining.samples import Mix, generated
from kforecast.pretraining.traffic import traffic
from kforecast.pretraining.training import Pretraining, Schedule, judged, offsets_of

TINY = (Mix("10min", 20 * 144, 3, 100), Mix("1D", 300, 2, 60))


@pytest.fixture(autouse=True)
def tiny_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MIX", TINY)


def network() -> TrafficNet:
    torch.manual_seed(3)
    return TrafficNet(members=2, hidden=8, layers=2, heads=2, weighing=4)


def train(folder: Path, interrupt_at: int | None = None) -> dict[str, Tensor]:
    """The averaged weights after two shards; an interruption ends it while a shard is judged."""
    calls = []

    def judge(net: TrafficNet) -> dict[str, float]:
        calls.append(net)
        if len(calls) == interrupt_at:
            raise KeyboardInterrupt
        return {}

    folder.mkdir(exist_ok=True)
    schedule = Schedule(shards=2, batch=64, seed=5)
    return Pretraining(folder, schedule, network()).run(judge, lambda _: None).state_dict()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1 << 40), st.sampled_from([60, 300, 3600, 86_400]), st.integers(1, 3))
def test_generated_traffic_is_finite_and_the_same_for_the_same_seed(seed: int, step: int, count: int) -> None:
    made = traffic(seed, count, 400, step)
    assert made.shape == (count, 400)
    assert made.dtype == np.float32
    known = made[~np.isnan(made)]
    assert np.isfinite(known).all()
    assert (known >= 0).all()
    np.testing.assert_array_equal(made, traffic(seed, count, 400, step))
    # A series does not depend on how many there are.
    np.testing.assert_array_equal(made[:1], traffic(seed, 1, 400, step))


def test_a_short_history_does_not_make_enormous_noise() -> None:
    made = traffic(3_538_557, 1, 400, 300)
    assert np.nanmax(made) < 1e12


def test_other_seeds_give_other_traffic() -> None:
    made = traffic(1, 30, 400, 3600)
    assert not np.array_equal(np.nan_to_num(made), np.nan_to_num(traffic(2, 30, 400, 3600)))
    assert len({one.tobytes() for one in made}) == 30


def test_samples_are_finite_and_the_same_for_the_same_seed() -> None:
    made, again = generated(4), generated(4)
    assert len(made) > 300
    for one, other in zip((*made.inputs, made.target), (*again.inputs, again.target), strict=True):
        assert len(one) == len(made)
        assert torch.isfinite(one.float()).all()
        assert torch.equal(one, other)


def test_an_interrupted_training_gives_the_same_weights(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", interrupt_at=2)
    resumed = train(tmp_path / "cut")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert not torch.equal(whole["linear"], network().state_dict()["linear"])
    lines = (tmp_path / "cut" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["shard"] for line in lines] == [1, 2]


def test_a_training_with_other_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(ValueError, match="holds a training with other settings"):
        Pretraining(tmp_path, Schedule(shards=3, batch=64, seed=5), network())


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    held_out, net = generated(9), network()
    before = judged(net, held_out)
    schedule = Schedule(shards=6, batch=32, rate=5e-3)
    after = judged(Pretraining(tmp_path, schedule, net).run(lambda _: {}, lambda _: None), held_out)
    assert after[0] < before[0]
    assert (offsets_of(net, held_out).diff() >= 0).all()


def test_the_script_writes_weights_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(samples, "MIX", (Mix("1H", 60 * 24, 4, 800),))
    threads = torch.get_num_threads()
    asked = ["pretrain.py", "--out", str(tmp_path), "--shards", "1", "--hidden", "8", "--members", "1"]
    monkeypatch.setattr("sys.argv", asked)
    run.main()
    torch.set_num_threads(threads)
    assert "sha256" in capsys.readouterr().out
    state = read_tensors((tmp_path / "pretrained.pth").read_bytes())
    assert state[OFFSETS].shape == (len(LEVELS),)
    assert state["first_weight"].dtype == torch.float16
