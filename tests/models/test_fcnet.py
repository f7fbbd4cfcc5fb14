"""Fcnet, compared with forward outputs computed elsewhere (contract 5)."""

import json
import math
from pathlib import Path

import pytest
import torch

from kforecast.models.fcnet import Fcnet
from kforecast.window import CALENDAR_TABLE_SIZES, Frequency, Window

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "fcnet_forward.json").read_text())


def window_of(case: dict) -> Window:
    return Window(Frequency.parse(case["freq"]), case["context_length"], case["prediction_length"])


@pytest.mark.parametrize(
    "case", GOLDEN, ids=lambda c: f"{c['freq']}-C{c['context_length']}-S{c['num_series']}"
)
def test_forward_equals_golden(case: dict) -> None:
    window, series, batch = window_of(case), case["num_series"], case["batch"]
    net = Fcnet(window, series)
    state = net.state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == case["state_dict_shapes"]
    assert list(state) == list(case["state_dict_shapes"])
    for j, (name, value) in enumerate(state.items()):
        flat = 0.1 * torch.sin(0.37 * torch.arange(value.numel(), dtype=torch.float64) + j)
        state[name] = flat.reshape(value.shape).float()
    net.load_state_dict(state)

    length, horizon = window.context_length, window.prediction_length
    context = torch.tensor(
        [[1 + 0.5 * math.sin(0.9 * t + 0.7 * b) for t in range(length)] for b in range(batch)]
    )
    sizes = [CALENDAR_TABLE_SIZES[field] for field in window.frequency.calendar_fields]
    calendar = torch.tensor(
        [[[(7 * b + length + t) % size for size in sizes] for t in range(horizon)] for b in range(batch)]
    )
    output = net(context, calendar, torch.arange(batch) % series)
    torch.testing.assert_close(output, torch.tensor(case["output"]), atol=1e-6, rtol=0)


def test_scale_is_the_mean_absolute_value_and_never_zero() -> None:
    context = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    torch.testing.assert_close(Fcnet.scale(context), torch.tensor([[2.0], [1e-10]]))


def test_shared_embedding_is_written_out_for_every_series() -> None:
    window = Window(Frequency.parse("1H"), 4, 2)
    net = Fcnet(window, num_series=3, shared_embedding=True)
    state = net.artifact_state()
    assert state["static_embeddings.0.weight"].shape == (3, 4)
    served = Fcnet(window, num_series=3)
    served.load_state_dict(state)
    context, calendar = torch.rand(3, 4), torch.randint(0, 7, (3, 2, 3))
    expected = net(context, calendar, torch.arange(3))
    torch.testing.assert_close(served(context, calendar, torch.arange(3)), expected)
    torch.testing.assert_close(served(context, calendar, torch.zeros(3, dtype=torch.int64)), expected)


def test_days_of_the_month_that_share_a_row_are_written_out_for_every_day() -> None:
    window = Window(Frequency.parse("10min"), 4, 2)
    net = Fcnet(window, num_series=1, day_of_month=False)
    context, calendar = torch.rand(3, 4), torch.zeros(3, 2, 4, dtype=torch.int64)
    days = calendar.clone()
    days[..., 3] = torch.tensor([1, 15, 31])[:, None]
    series = torch.zeros(3, dtype=torch.int64)
    expected = net(context, calendar, series)
    torch.testing.assert_close(net(context, days, series), expected)
    served = Fcnet(window, num_series=1)
    served.load_state_dict(net.artifact_state())
    torch.testing.assert_close(served(context, days, series), expected)
    # The other calendar fields still matter.
    assert not torch.equal(net(context, calendar + 1, series), expected)


def test_a_row_that_all_days_share_is_not_mixed_with_those_that_none_uses() -> None:
    net = Fcnet(Window(Frequency.parse("10min"), 7, 3), 1, day_of_month=False)
    before = net.artifact_state()["dynamic_embeddings.3.weight"]
    net.settle([torch.arange(len(table.weight)) < 5 for table in net.dynamic_embeddings])
    assert torch.equal(net.artifact_state()["dynamic_embeddings.3.weight"], before)


def test_series_have_embeddings_of_their_own_when_not_shared() -> None:
    net = Fcnet(Window(Frequency.parse("1H"), 4, 2), num_series=2)
    context, calendar = torch.rand(1, 4).expand(2, 4), torch.zeros(2, 2, 3, dtype=torch.int64)
    first, second = net(context, calendar, torch.arange(2))
    assert not torch.equal(first, second)


def test_a_context_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="GiB; use at most 512"):
        Fcnet(Window(Frequency.parse("1min"), 1440, 2), num_series=1)


def test_what_training_never_saw_is_the_mean_of_what_it_did() -> None:
    net = Fcnet(Window(Frequency.parse("10min"), 7, 3), 1)
    before = [table.weight.detach().clone() for table in net.dynamic_embeddings]
    seen = [torch.arange(len(rows)) < 14 for rows in before]
    net.settle(seen)
    for table, rows, known in zip(net.dynamic_embeddings, before, seen, strict=True):
        assert torch.equal(table.weight[known], rows[known])
        torch.testing.assert_close(
            table.weight[~known], rows[known].mean(dim=0).expand(int((~known).sum()), -1)
        )


def test_on_request_it_stays_what_it_was() -> None:
    net = Fcnet(Window(Frequency.parse("10min"), 7, 3), 1, mean_of_seen=False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.settle([torch.zeros(len(table.weight), dtype=torch.bool) for table in net.dynamic_embeddings])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
