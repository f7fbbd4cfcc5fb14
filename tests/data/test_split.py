"""The split of usable windows, compared with a loop over every origin."""

from dataclasses import asdict

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kforecast.config.conf_dir import CONF_DIR
from kforecast.data.panel import Panel
from kforecast.data.split import SplitSettings, cells_between, split_windows
from kforecast.errors import DataError
from kforecast.window import Frequency, Window

HOUR = Frequency.parse("1H")


def _panel(values, observed):
    values = np.asarray(values, dtype=np.float32)
    series = tuple((f"w{row}", "m") for row in range(len(values)))
    return Panel(values, np.asarray(observed, dtype=bool), 0, HOUR, series)


def _full(bins, series=1):
    return _panel(np.ones((series, bins)), np.ones((series, bins)))


def _why_unused(panel, window, row, origin, settings):
    """None for a usable window, otherwise the reason; the rules written as simply as possible."""
    context = slice(origin - window.context_length, origin)
    horizon = slice(origin, origin + window.prediction_length)
    seen = panel.observed[row, context]
    if (~seen).sum() > settings["max_missing"] * window.context_length:
        return "with too much of the context missing"
    if settings["mask_gaps"] and not panel.observed[row, horizon].any():
        return "without an observed target"
    if settings["skip_zero_context"] and not (panel.values[row, context][seen] != 0).any():
        return "with a context of zeros"
    return None


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 40)))
    values = draw(npst.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0, -2.0])))
    observed = draw(
        st.sampled_from([np.ones(shape, bool)])
        | npst.arrays(bool, shape, fill=st.nothing())
        | npst.arrays(bool, shape, fill=st.just(True))
    )
    window = Window(HOUR, draw(st.integers(1, 5)), draw(st.integers(1, 4)))
    return (
        _panel(values, observed),
        window,
        {
            "validation": draw(st.sampled_from([0.0, 0.1, 0.3, 0.5])),
            "test": draw(st.sampled_from([0.0, 0.1, 0.3])),
            "max_missing": draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
            "mask_gaps": draw(st.booleans()),
            "skip_zero_context": draw(st.booleans()),
            "skip_newest_window": draw(st.booleans()),
        },
    )


@given(cases())
@settings(deadline=None, max_examples=100)
def test_the_split_is_that_of_a_loop_over_all_origins(case):
    panel, window, settings = case
    context, horizon = window.context_length, window.prediction_length
    end = panel.num_bins - (window.length if settings["skip_newest_window"] else 0)
    usable, unused = [], {}
    for row in range(panel.num_series):
        for origin in range(context, end - horizon + 1):
            reason = _why_unused(panel, window, row, origin, settings)
            if reason is None:
                usable.append((row, origin))
            else:
                unused[reason] = unused.get(reason, 0) + 1
    # The newest bins are test, the bins before them validation, each at least one horizon long.
    test_bins = max(round(settings["test"] * end), horizon) if settings["test"] else 0
    validation_bins = max(round(settings["validation"] * end), horizon) if settings["validation"] else 0
    ends = {"train": (context, end - test_bins - validation_bins)}
    ends["validation"] = (ends["train"][1], end - test_bins)
    ends["test"] = (end - test_bins, end)
    expected = {
        part: [(row, origin) for row, origin in usable if begin <= origin and origin + horizon <= stop]
        for part, (begin, stop) in ends.items()
    }

    if not expected["train"] or any(settings[part] and not expected[part] for part in ("validation", "test")):
        with pytest.raises(DataError, match="no window"):
            split_windows(panel, window, SplitSettings(**settings))
        return
    split = split_windows(panel, window, SplitSettings(**settings))
    for part, cells in expected.items():
        found = np.asarray(getattr(split, part))
        assert len(getattr(split, part)) == len(found)
        assert found.dtype == np.int64
        assert found.tolist() == [row * panel.num_bins + origin for row, origin in cells]
    assert (split.train_end, split.validation_end, split.end) == (
        ends["train"][1],
        ends["validation"][1],
        end,
    )
    assert split.unused == unused


@given(cases())
@settings(deadline=None, max_examples=75)
def test_parts_are_disjoint_and_in_the_order_of_time(case):
    panel, window, settings = case
    try:
        split = split_windows(panel, window, SplitSettings(**settings))
    except DataError:
        return
    newest = -1
    for cells, end in (
        (split.train, split.train_end),
        (split.validation, split.validation_end),
        (split.test, split.end),
    ):
        origins = np.asarray(cells) % panel.num_bins
        if not len(origins):
            continue
        assert origins.min() > newest  # no target belongs to two parts
        newest = int(origins.max()) + window.prediction_length - 1
        assert newest < end <= panel.num_bins
    if settings["skip_newest_window"]:
        assert newest < panel.num_bins - window.length


def test_the_defaults_are_those_of_the_configuration():
    configured = yaml.safe_load((CONF_DIR / "data" / "windows.yaml").read_text("utf-8"))
    assert asdict(SplitSettings()) == {name: configured[name] for name in asdict(SplitSettings())}


def test_what_stands_where_nothing_was_observed_is_no_traffic():
    values, observed = np.full((1, 6), 5.0), np.ones((1, 6))
    values[0, :2], observed[0, 2] = 0, 0
    split = split_windows(
        _panel(values, observed), Window(HOUR, 3, 1), SplitSettings(validation=0, test=0, max_missing=0.5)
    )
    assert np.asarray(split.train).tolist() == [4, 5]
    assert split.unused == {"with a context of zeros": 1}


def test_without_gaps_every_window_is_used_up_to_the_last_bin():
    split = split_windows(
        _full(12, series=2), Window(HOUR, 3, 2), SplitSettings(validation=0, test=0, max_missing=0)
    )
    assert np.asarray(split.train).tolist() == [*range(3, 11), *range(15, 23)]
    assert not split.unused


def test_skipping_the_newest_window_leaves_out_exactly_its_bins():
    window = Window(HOUR, 3, 2)
    settings = {"validation": 0, "test": 0, "max_missing": 0}
    everything = split_windows(_full(20), window, SplitSettings(**settings))
    older = split_windows(_full(20), window, SplitSettings(**settings, skip_newest_window=True))
    assert older.end == 15
    assert (
        np.asarray(older.train).tolist()
        == np.asarray(split_windows(_full(15), window, SplitSettings(**settings)).train).tolist()
    )
    assert {*np.asarray(everything.train)} - {*np.asarray(older.train)} == set(range(14, 19))


def test_shares_are_of_the_time_range():
    split = split_windows(
        _full(100), Window(HOUR, 5, 2), SplitSettings(validation=0.2, test=0.1, max_missing=0)
    )
    assert (split.train_end, split.validation_end, split.end) == (70, 90, 100)
    assert np.asarray(split.validation).tolist() == list(range(70, 89))
    assert np.asarray(split.test).tolist() == list(range(90, 99))


def test_a_part_holds_at_least_one_horizon():
    split = split_windows(
        _full(40), Window(HOUR, 5, 6), SplitSettings(validation=0.01, test=0.01, max_missing=0)
    )
    assert (split.train_end, split.validation_end, split.end) == (28, 34, 40)
    assert np.asarray(split.validation).tolist() == [28]
    assert np.asarray(split.test).tolist() == [34]


def _refusal(panel, window, **settings):
    with pytest.raises(DataError) as caught:
        split_windows(
            panel, window, SplitSettings(**{"validation": 0.1, "test": 0, "max_missing": 0.5} | settings)
        )
    return str(caught.value)


def test_too_short_a_series_is_refused_with_the_numbers():
    message = _refusal(_full(11), Window(HOUR, 7, 3))
    assert "series w0 m: 11 points at 1H, need context 7 + horizon 3 + validation 3" in message
    assert "give a longer history" in message
    assert "data.test=0" not in message
    settings = SplitSettings(validation=0.1, test=0, max_missing=0)
    assert len(split_windows(_full(13), Window(HOUR, 7, 3), settings).train) == 1


def test_the_test_part_counts_too():
    message = _refusal(_full(15), Window(HOUR, 7, 3), test=0.1)
    assert "15 points at 1H, need context 7 + horizon 3 + validation 3 + test 3" in message
    assert "set data.test=0" in message


def test_of_many_series_the_longest_is_named():
    observed = np.ones((3, 11), dtype=bool)
    observed[0, :6] = observed[2, :9] = False
    message = _refusal(_panel(np.ones((3, 11)), observed), Window(HOUR, 7, 3))
    assert "all 3 series are too short; the longest is series w1 m: 11 points" in message


def test_reasons_are_told_with_their_counts():
    message = _refusal(_panel(np.zeros((1, 40)), np.ones((1, 40))), Window(HOUR, 7, 3))
    assert "31 with a context of zeros" in message
    every_fifth = np.zeros((1, 40), dtype=bool)
    every_fifth[0, ::5] = True
    message = _refusal(_panel(np.ones((1, 40)), every_fifth), Window(HOUR, 7, 3))
    assert "8 points" in message
    assert "31 with too much of the context missing" in message


@pytest.mark.parametrize(
    "part, settings", [("validation", {"test": 0}), ("test", {"test": 0.25, "validation": 0})]
)
def test_a_part_where_nothing_was_observed_is_refused(part, settings):
    observed = np.ones((1, 40), dtype=bool)
    observed[0, 28:] = False
    message = _refusal(
        _panel(np.ones((1, 40)), observed), Window(HOUR, 4, 2), **({"validation": 0.25} | settings)
    )
    assert f"no window in the {part} part (25% of the time range)" in message
    assert f"set data.{part}=0" in message


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_cells_between_are_those_of_a_loop_over_all_origins(data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 40)))
    observed = data.draw(
        st.sampled_from([np.ones(shape, bool)]) | npst.arrays(bool, shape, fill=st.nothing())
    )
    panel = _panel(np.zeros(shape), observed)  # zeros count as observed
    window = Window(HOUR, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4)))
    begin, stop = sorted(data.draw(st.tuples(*[st.integers(0, shape[1])] * 2)))
    stride = data.draw(st.integers(1, 5))
    expected = []
    for row in range(shape[0]):
        for origin in range(begin, stop, stride):
            # Bins before the start of the panel are unobserved.
            seen = sum(
                observed[row, bin_] for bin_ in range(origin - window.context_length, origin) if bin_ >= 0
            )
            if origin + window.prediction_length <= stop and seen >= window.context_length / 2:
                expected.append(row * shape[1] + origin)
    cells = cells_between(panel, window, begin, stop, stride)
    assert cells.dtype == np.int64
    assert cells.tolist() == expected


def test_cells_between_reach_back_before_the_begin_and_the_panel_but_not_beyond_the_stop():
    panel, window = _full(20), Window(HOUR, 6, 2)
    assert cells_between(panel, window, 10, 15).tolist() == [10, 11, 12, 13]
    assert cells_between(panel, window, 0, 6).tolist() == [3, 4]  # at least half of the context exists
    assert cells_between(panel, window, 15, 20, stride=3).tolist() == [15, 18]
    assert cells_between(panel, window, 10, 11).size == 0
