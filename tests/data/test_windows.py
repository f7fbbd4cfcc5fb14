"""Batches of windows, compared with windows cut one by one."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from conftest import tensors_of
from kforecast.data.calendar import calendar_fields
from kforecast.data.fill import FILLS
from kforecast.data.loader import BatchOrder, window_loader
from kforecast.data.origins import Cells
from kforecast.data.panel import Panel
from kforecast.data.windows import WindowDataset
from kforecast.window import Frequency, Window

START = 1_704_067_200
VALUES = st.floats(-1000, 1000, width=32)


def _panel(values, frequency="1H"):
    """A panel from an array, NaN where unobserved."""
    values = np.asarray(values, dtype=np.float32)
    observed = ~np.isnan(values)
    series = tuple((f"w{row}", "m") for row in range(len(values)))
    return Panel(
        np.where(observed, values, np.float32(0)), observed, START, Frequency.parse(frequency), series
    )


def _panel_without_gaps(series, bins):
    return _panel(np.random.default_rng(0).uniform(1, 9, (series, bins)))


def _all_cells(panel, window):
    """Every window that fits into the panel, observed or not."""
    origins = torch.arange(window.context_length, panel.num_bins - window.prediction_length + 1)
    return (torch.arange(panel.num_series)[:, None] * panel.num_bins + origins).flatten()


def _cells(cells):
    """Cells from a list of single cells."""
    cells = np.asarray(cells)
    return Cells(cells, np.ones(len(cells), np.int64))


def _context(values, origin, length, policy):
    """The newest ``length`` bins before the origin, filled only from bins before the origin."""
    past = values[:origin].astype(np.float64)
    known = np.flatnonzero(~np.isnan(past))
    if policy == "zero" or not len(known):
        filled = np.nan_to_num(past)
    elif policy == "ffill":
        filled = pd.Series(past).ffill().bfill().to_numpy()
    else:
        filled = np.interp(np.arange(origin), known, past[known])
    return filled[-length:]


@st.composite
def cases(draw):
    context, horizon = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 3)), context + horizon + draw(st.integers(0, 20)))
    gaps = draw(st.sampled_from([VALUES, VALUES | st.just(float("nan"))]))
    values = draw(npst.arrays(np.float32, shape, elements=gaps))
    frequency = draw(st.sampled_from(["1min", "10min", "1H", "1D"]))
    return values, Window(Frequency.parse(frequency), context, horizon)


@given(cases(), st.sampled_from(FILLS), st.booleans())
@settings(deadline=None, max_examples=120)
def test_a_batch_is_that_of_cutting_window_by_window(case, fill, mask_gaps):
    values, window = case
    panel = _panel(values, window.frequency.name)
    cells = _all_cells(panel, window)
    batch = WindowDataset(panel, window, fill, mask_gaps)[cells]
    assert [part.dtype for part in tensors_of(batch)] == [
        torch.float32,
        torch.int64,
        torch.int64,
        torch.float32,
        torch.bool,
    ]
    assert batch.context.shape == (len(cells), window.context_length)
    calendar = calendar_fields(panel.timestamps, window.frequency)
    for number, cell in enumerate(cells.tolist()):
        row, origin = divmod(cell, panel.num_bins)
        horizon = slice(origin, origin + window.prediction_length)
        expected = _context(values[row], origin, window.context_length, fill)
        np.testing.assert_allclose(batch.context[number], expected, rtol=1e-5, atol=1e-3)
        np.testing.assert_array_equal(batch.target[number], np.nan_to_num(values[row, horizon]))
        observed = ~np.isnan(values[row, horizon]) if mask_gaps else np.ones(window.prediction_length, bool)
        np.testing.assert_array_equal(batch.observed[number], observed)
        np.testing.assert_array_equal(batch.calendar[number], calendar[horizon])
        assert batch.series[number] == row


@given(cases(), st.sampled_from(FILLS), st.data())
@settings(deadline=None, max_examples=120)
def test_nothing_at_or_after_the_origin_reaches_the_context(case, fill, data):
    values, window = case
    cells = _all_cells(_panel(values), window)
    cell = cells[data.draw(st.integers(0, len(cells) - 1))][None]
    row, origin = divmod(int(cell), values.shape[1])
    later = npst.arrays(np.float32, values.shape[1] - origin, elements=VALUES | st.just(float("nan")))
    changed = values.copy()
    changed[row, origin:] = data.draw(later)
    for other in range(len(values)):
        if other != row:
            changed[other] = data.draw(VALUES)
    before = WindowDataset(_panel(values), window, fill)[cell].context
    after = WindowDataset(_panel(changed), window, fill)[cell].context
    assert torch.equal(before, after)


def test_unmasked_gaps_are_zeros_that_count():
    nan = float("nan")
    panel = _panel([[1, 2, nan, nan, 5]])
    window = Window(panel.frequency, 2, 3)
    masked = WindowDataset(panel, window, "zero")[torch.tensor([2])]
    counted = WindowDataset(panel, window, "zero", mask_gaps=False)[torch.tensor([2])]
    assert masked.target.tolist() == counted.target.tolist() == [[0, 0, 5]]
    assert masked.observed.tolist() == [[False, False, True]]
    assert counted.observed.tolist() == [[True, True, True]]


def test_the_calendar_is_that_of_the_horizon():
    panel = _panel_without_gaps(2, 40)
    batch = WindowDataset(panel, Window(panel.frequency, 3, 2), "zero")[torch.tensor([40 + 23])]
    # 23:00 on Monday the 1st, then 00:00 on Tuesday the 2nd
    assert batch.calendar.tolist() == [[[23, 0, 1], [0, 1, 2]]]


@pytest.mark.parametrize("second", [float("nan"), 2.0])
def test_moving_to_a_device_changes_no_batch(second):
    panel = _panel([[1, second, 3, 4, 5, 6]])
    window = Window(panel.frequency, 2, 1)
    cells = torch.tensor([2, 3, 4])
    still = WindowDataset(panel, window, "interpolate")
    moved = WindowDataset(panel, window, "interpolate").to(torch.device("cpu"))
    pairs = zip(tensors_of(still[cells]), tensors_of(moved[cells]), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    if second == 2.0:  # the meta device has no values, so no gaps
        assert all(part.device.type == "meta" for part in tensors_of(still.to(torch.device("meta"))[cells]))


def _epoch(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    return [(batch.series, batch.context) for batch in loader]


def _contexts(batches):
    return torch.cat([context for _, context in batches])


@given(st.integers(1, 60), st.integers(1, 70), st.none() | st.integers(0, 2**32 - 1), st.integers(0, 5))
@settings(deadline=None, max_examples=100)
def test_an_epoch_has_every_window_once(count, batch_size, seed, epoch):
    cells = torch.arange(100, 100 + 3 * count, 3)
    order = BatchOrder(_cells(cells), batch_size, seed)
    order.set_epoch(epoch)
    batches = list(order)
    assert len(batches) == len(order)
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size
    assert sorted(torch.cat(batches).tolist()) == cells.tolist()


def test_without_a_seed_the_order_is_that_given():
    cells = torch.tensor([5, 3, 9, 1])
    for epoch in (0, 1):
        order = BatchOrder(_cells(cells), 3)
        order.set_epoch(epoch)
        assert [batch.tolist() for batch in order] == [[5, 3, 9], [1]]


def test_the_order_is_made_from_seed_and_epoch_alone():
    cells = torch.arange(200)

    def order_of(seed, epoch):
        order = BatchOrder(_cells(cells), 32, seed)
        order.set_epoch(epoch)
        return torch.cat(list(order)).tolist()

    torch.manual_seed(0)
    first = order_of(42, 3)
    torch.manual_seed(1)
    assert order_of(42, 3) == first
    others = [order_of(42, 4), order_of(43, 3), order_of(0, 0), cells.tolist()]
    assert all(other != first for other in others)


def test_going_through_twice_without_a_new_epoch_gives_the_same_order():
    order = BatchOrder(_cells(torch.arange(50)), 8, seed=1)
    first = [batch.tolist() for batch in order]
    assert [batch.tolist() for batch in order] == first
    order.set_epoch(0)  # the first epoch
    assert [batch.tolist() for batch in order] == first


@given(
    st.integers(1, 60),
    st.integers(1, 70),
    st.integers(1, 5),
    st.integers(1, 4),
    st.none() | st.integers(1, 80),
    st.none() | st.just(7),
)
@settings(deadline=None, max_examples=150)
def test_processes_share_every_batch(count, batch_size, at_once, world_size, most, seed):
    cells = _cells(np.arange(100, 100 + 3 * count, 3))

    def batches(rank, world_size):
        order = BatchOrder(cells, batch_size, seed, most, at_once, rank, world_size)
        parts = [chunk.split(order.share) for chunk in order]
        assert len(parts) == len(order)
        return [part.tolist() for chunk in parts for part in chunk]

    alone = batches(0, 1)
    assert sum(map(len, alone)) == min(count, most or count)
    assert len({cell for batch in alone for cell in batch}) == sum(map(len, alone))
    if batch_size < world_size:
        return
    shares = [batches(rank, world_size) for rank in range(world_size)]
    left_over = len(alone[-1]) if len(alone[-1]) < world_size > 1 else 0
    whole = alone[:-1] if left_over else alone
    assert [len(share) for share in shares] == [len(whole)] * world_size
    assert all(batch for share in shares for batch in share)
    for number, batch in enumerate(whole):
        for place, cell in enumerate(batch):
            assert shares[place % world_size][number][place // world_size] == cell


def test_an_epoch_of_some_windows_draws_from_every_stretch():
    cells = _cells(np.arange(1000))
    order = BatchOrder(cells, 50, seed=1, most=100)
    epochs = []
    for epoch in range(30):
        order.set_epoch(epoch)
        drawn = torch.cat(list(order)).tolist()
        assert drawn != sorted(drawn)
        assert [cell // 10 for cell in sorted(drawn)] == list(range(100))
        epochs.append(drawn)
    assert epochs[0] != epochs[1]
    assert len({cell for drawn in epochs for cell in drawn}) > 900
    uneven = torch.cat(list(BatchOrder(cells, 50, seed=1, most=300)))
    assert uneven.dtype == torch.int64
    bounds = np.arange(301) * 1000 // 300
    assert np.searchsorted(bounds, sorted(uneven.tolist()), side="right").tolist() == list(range(1, 301))
    fixed = BatchOrder(cells, 100, most=4)
    assert [batch.tolist() for batch in fixed] == [[125, 375, 625, 875]]


def test_a_loader_gives_whole_batches_in_the_order_of_the_epoch():
    panel = _panel_without_gaps(2, 30)
    window = Window(panel.frequency, 4, 2)
    dataset, cells = WindowDataset(panel, window, "zero"), _all_cells(panel, window)
    loader = window_loader(dataset, BatchOrder(_cells(cells), 7, seed=5))
    assert len(loader) == -(-len(cells) // 7)
    first, again, second = _epoch(loader, 0), _epoch(loader, 0), _epoch(loader, 1)
    assert [len(series) for series, _ in first] == [7] * (len(cells) // 7) + [len(cells) % 7]
    assert torch.equal(_contexts(first), _contexts(again))
    assert not torch.equal(_contexts(first), _contexts(second))
    in_order = _contexts(_epoch(window_loader(dataset, BatchOrder(_cells(cells), 7))))
    assert torch.equal(in_order, dataset[cells].context)
    for epoch in (first, second):
        assert torch.equal(_contexts(epoch).sort(dim=0).values, in_order.sort(dim=0).values)


def test_a_loader_has_workers_only_where_asked_for_and_keeps_them():
    panel = _panel_without_gaps(1, 9)
    dataset, order = WindowDataset(panel, Window(panel.frequency, 2, 1), "zero"), BatchOrder(_cells([2]), 1)
    assert window_loader(dataset, order).num_workers == 0
    loader = window_loader(dataset, order, num_workers=1)
    assert (loader.num_workers, loader.persistent_workers) == (1, True)


@pytest.mark.parametrize("fill", FILLS)
def test_a_context_of_nothing_observed_is_zero(fill):
    nan = float("nan")
    panel = _panel([[nan, nan, nan, 7, 8]])
    batch = WindowDataset(panel, Window(panel.frequency, 3, 2), fill)[torch.tensor([3])]
    assert batch.context.tolist() == [[0, 0, 0]]
