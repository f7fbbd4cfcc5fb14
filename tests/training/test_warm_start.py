"""``warm_start=ARTIFACT``: training starts from the weights of an artifact."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import run_command
from kforecast.artifact import Artifact
from kforecast.data.panel import Panel
from kforecast.errors import ConfigError
from kforecast.models import Fcnet, Network
from kforecast.models.seasonal_mlp import SeasonalMLP
from kforecast.training.warm_start import WarmStart
from kforecast.window import Frequency, Window
from test_artifact import make_artifact

WINDOW = Window(Frequency.parse("10min"), 7, 3)
SMALL = {"members": 1, "hidden": 4, "layers": 1}


def panel_of(*names: str) -> Panel:
    series = tuple((name, "qps") for name in names)
    values = torch.ones(len(names), 20).numpy()
    return Panel(values, values > 0, 0, WINDOW.frequency, series)


def save(net: Network, directory: Path, item_ids: dict[str, int]) -> None:
    config = replace(
        make_artifact().config, num_series=len(item_ids), model=type(net).__name__, network=net.settings()
    )
    Artifact(config, item_ids, net.artifact_state(), {"fill": "interpolate"}).save(directory)


def test_every_series_begins_with_its_own_row(tmp_path: Path) -> None:
    torch.manual_seed(1)
    old = Fcnet(WINDOW, 2)
    save(old, tmp_path / "model", {"ns/aqps": 0, "ns/bqps": 1})
    rows = old.get_parameter("static_embeddings.0.weight")
    net = Fcnet(WINDOW, 3)
    WarmStart.load(tmp_path / "model", WINDOW, net).give(net, panel_of("ns/b", "ns/new", "ns/a"))
    found = net.get_parameter("static_embeddings.0.weight")
    torch.testing.assert_close(found, torch.stack([rows[1], rows.mean(dim=0), rows[0]]))
    torch.testing.assert_close(net.lc.weight, old.lc.weight)
    shared = Fcnet(WINDOW, 3, shared_embedding=True)
    WarmStart.load(tmp_path / "model", WINDOW, shared).give(shared, panel_of("ns/a", "ns/b", "ns/c"))
    torch.testing.assert_close(
        shared.get_parameter("static_embeddings.0.weight"), rows.mean(dim=0, keepdim=True)
    )


def test_a_new_series_begins_like_one_that_was_not_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(1)
    old = SeasonalMLP(WINDOW, 2, **SMALL)
    save(old, tmp_path / "model", {"ns/aqps": 0, "ns/bqps": 1})
    net = SeasonalMLP(WINDOW, 2, **SMALL)
    WarmStart.load(tmp_path / "model", WINDOW, net).give(net, panel_of("ns/b", "ns/new"))
    torch.testing.assert_close(net.series, old.series[[1, 2, 2]])
    for name, value in old.state_dict().items():
        if name != "series":
            torch.testing.assert_close(net.state_dict()[name], value)


@pytest.mark.parametrize(
    "net",
    [
        Fcnet(Window(WINDOW.frequency, 8, 3), 1),
        SeasonalMLP(WINDOW, 1, **SMALL),
    ],
)
def test_another_network_is_refused(net: Network, tmp_path: Path) -> None:
    make_artifact().save(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"warm_start: .*model holds a Fcnet with a context of 7 bins"):
        WarmStart.load(tmp_path / "model", WINDOW, net)


def test_training_begins_where_the_artifact_ends(tmp_path: Path) -> None:
    source = ["source=synthetic", "source.workloads=2", "source.days=7", "source.step=600", "logger=none"]
    quick = [*source, "trainer=cpu", "trainer.max_epochs=6", "optimizer.lr=0.005"]
    quick.append("callbacks.forecast_figures=null")
    everything = ["data.validation=0", "data.test=0", "monitor=train/loss"]
    done = run_command("kforecast-train", *quick, *everything, "artifact_dir=model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one = [*quick, "trainer.max_epochs=1", "optimizer.lr=1e-6", "refit=true", "artifact_dir=other"]
    warm = run_command("kforecast-train", *one, "warm_start=model", cwd=tmp_path)
    assert warm.returncode == 0, warm.stderr
    assert "Training begins from the weights of model (warm_start)" in warm.stdout

    def losses(text: str) -> list[float]:
        return [float(value) for value in re.findall(r"Train Loss: ([\d.]+)", text)]

    # Almost no steps: as good as at the end of the earlier training, in the second training, too.
    before = losses(done.stdout)
    assert losses(warm.stdout) == pytest.approx([before[5], before[5]], rel=0.15)
    assert before[5] < 0.8 * before[0]
