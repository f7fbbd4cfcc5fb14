"""Binning of long frames, compared with a slow reference in pandas."""

from itertools import pairwise
from statistics import median_high

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data.panel import CleaningReport, Panel, check_no_collision, item_key
from kforecast.errors import DataError
from kforecast.window import FREQUENCIES, Frequency

START = 1_700_000_000
HOUR = Frequency.parse("1H")
MIDNIGHT = 1_700_006_400
RULES = {"1min": "1min", "10min": "10min", "1H": "1h", "1D": "1D"}
SERIES = [("shop/b", "qps"), ("shop/a", "qps"), ("shop/a", "cpu"), ("ns/Ä", "m")]


def _frame(rows):
    return pd.DataFrame(rows, columns=["timestamp", "value", "workload", "metric"])


def _reference(frame, frequency):
    """Bins ``[time, series]`` by pivot and resample, NaN where unobserved."""
    known = frame.dropna(subset=["value"])
    known = known.assign(time=pd.to_datetime(np.floor(known["timestamp"]).astype("int64"), unit="s"))
    wide = known.pivot_table(index="time", columns=["workload", "metric"], values="value", aggfunc="mean")
    bins = wide.resample(RULES[frequency.name]).mean()
    count = wide.resample(RULES[frequency.name]).count()
    for pair in wide.columns:
        newest = count[pair][count[pair] > 0].index[-1]
        if _is_unfinished(wide[pair].dropna().index.as_unit("s").asi8.tolist(), frequency.step):
            bins.loc[newest, pair] = np.nan
    return bins.loc[: bins.dropna(how="all").index[-1]]


def _is_unfinished(seconds, step):
    gaps = [late - early for early, late in pairwise(seconds)]
    if len(gaps) < 2 or (usual := median_high(gaps)) >= step:
        return False
    newest = {second // step: second for second in seconds}  # of each bin
    *earlier, left = ((number + 1) * step - second for number, second in newest.items())
    return bool(earlier) and left > max(1.5 * usual, median_high(earlier) + usual / 2)


@st.composite
def frames(draw):
    """Irregular, duplicated, unsorted rows of a few series, some without a value, and a frequency."""
    frequency = FREQUENCIES[draw(st.sampled_from(sorted(FREQUENCIES)))]
    second = st.integers(0, 30 * frequency.step)
    if draw(st.booleans()):  # provoke duplicates and full bins
        second = st.integers(0, 60).map(lambda number: number * frequency.step // 3)
    row = st.tuples(
        (second | second.map(lambda number: number + 0.75)).map(lambda number: START + number),
        st.floats(-1e6, 1e6) | st.integers(0, 3).map(float) | st.just(float("nan")),
        st.sampled_from(SERIES[: draw(st.integers(1, len(SERIES)))]),
    )
    rows = draw(st.lists(row, min_size=1, max_size=80).filter(lambda rows: any(r[1] == r[1] for r in rows)))
    return _frame([(at, value, *pair) for at, value, pair in rows]), frequency


@given(frames())
@settings(deadline=None, max_examples=75)
def test_bins_are_those_of_pivot_and_resample(given_frame):
    frame, frequency = given_frame
    panel = Panel.from_frame(frame, frequency)
    expected = _reference(frame, frequency)
    assert panel.values.dtype == np.float32
    assert panel.observed.dtype == bool
    assert panel.values.shape == panel.observed.shape == (panel.num_series, panel.num_bins)
    assert panel.timestamps.tolist() == [int(stamp.timestamp()) for stamp in expected.index]
    assert set(panel.series) == set(zip(frame["workload"], frame["metric"], strict=True))
    for row, pair in enumerate(panel.series):
        column = expected[pair].to_numpy() if pair in expected else np.full(len(expected), np.nan)
        np.testing.assert_array_equal(panel.observed[row], ~np.isnan(column))
        np.testing.assert_allclose(panel.values[row], np.nan_to_num(column), rtol=1e-6, atol=1e-6)


@given(frames(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_the_order_of_rows_changes_nothing(given_frame, random):
    frame, frequency = given_frame
    frame["value"] = frame["value"].round()  # sums of integers are exact in any order
    order = list(range(len(frame)))
    random.shuffle(order)
    one, two = Panel.from_frame(frame, frequency), Panel.from_frame(frame.iloc[order], frequency)
    assert one.fingerprint() == two.fingerprint()
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.observed, two.observed)


def test_the_report_counts_what_was_mended():
    rows = [
        (0, 1.0, "a", "m"),
        (3600, 2.0, "a", "m"),
        (60, 2.0, "a", "m"),  # after a later row
        (90, 2.0, "a", "m"),
        (120, None, "a", "m"),
        (3600, 4.0, "a", "m"),  # a duplicate, in a bin that has only begun
        (0, 5.0, "b", "m"),  # of another series, so in order
        (0, 5.0, "b", "m"),
        (0, 5.0, "b", "m"),
    ]
    report = Panel.from_frame(_frame(rows), HOUR).report
    assert report == CleaningReport(rows=9, missing_values=1, duplicates=3, out_of_order=1, unfinished_bins=1)
    text = str(report)
    for words in (
        "9 rows",
        "1 without a value",
        "3 at a timestamp already seen",
        "1 earlier than the row before",
        "1 unfinished",
    ):
        assert words in text


def test_a_clean_frame_has_a_short_report():
    report = Panel.from_frame(_frame([(0, 1.0, "a", "m"), (3600, 1.0, "a", "m")]), HOUR).report
    assert str(report) == "2 rows"


def test_rows_of_the_same_second_count_once():
    rows = [(0, 1.0, "a", "m"), (0.9, 3.0, "a", "m"), (1800, 10.0, "a", "m")]
    panel = Panel.from_frame(_frame(rows), HOUR)
    assert panel.values.tolist() == [[6.0]]
    assert panel.report.duplicates == 1


def _minutes(count, workload="a", start=MIDNIGHT):
    return [(start + 60 * minute, 1.0 + minute, workload, "m") for minute in range(count)]


def test_the_newest_bin_is_dropped_when_it_has_only_begun():
    panel = Panel.from_frame(_frame(_minutes(150)), HOUR)
    assert panel.observed.tolist() == [[True, True]]
    assert panel.report.unfinished_bins == 1


def test_the_grid_reaches_to_the_newest_bin_of_any_series():
    rows = [*_minutes(150), *_minutes(240, workload="b")]
    panel = Panel.from_frame(_frame(rows), HOUR)
    assert panel.observed.tolist() == [[True, True, False, False], [True] * 4]
    assert panel.values[0, 2] == 0


def test_a_full_newest_bin_is_kept():
    panel = Panel.from_frame(_frame(_minutes(180)), HOUR)
    assert panel.observed.all()
    assert panel.report.unfinished_bins == 0


def test_the_newest_of_one_row_a_bin_is_kept():
    rows = [(MIDNIGHT + 3600 * hour, 1.0, "a", "m") for hour in range(5)]
    assert Panel.from_frame(_frame(rows), HOUR).observed.all()


def test_the_only_bin_of_a_series_is_kept():
    panel = Panel.from_frame(_frame(_minutes(5)), HOUR)
    assert panel.observed.tolist() == [[True]]


def test_one_missing_minute_does_not_drop_the_newest_hour_or_day():
    rows = _minutes(2880)
    del rows[-30]
    for name, bins in (("1H", 48), ("1D", 2)):
        panel = Panel.from_frame(_frame(rows), Frequency.parse(name))
        assert panel.observed.tolist() == [[True] * bins]


@pytest.mark.parametrize(("late", "kept"), [(59, True), (58, False), (57, False), (0, False)])
def test_a_bin_is_finished_when_a_row_reaches_its_last_step(late, kept):
    rows = [row for row in _minutes(180) if row[0] <= MIDNIGHT + 7200 + 60 * late + 20]
    # Rows come up to 22 s late.
    rows = [(at + (17 * number) % 23, *rest) for number, (at, *rest) in enumerate(rows)]
    assert Panel.from_frame(_frame(rows), HOUR).num_bins == (3 if kept else 2)


def test_a_bin_whose_rows_stop_as_early_as_ever_is_finished():
    # Office hours: rows from 8 to 18 only.
    rows = [row for row in _minutes(3 * 1440) if 8 <= (row[0] - MIDNIGHT) // 3600 % 24 < 18]
    day = Frequency.parse("1D")
    assert Panel.from_frame(_frame(rows), day).num_bins == 3
    assert Panel.from_frame(_frame(rows[:-120]), day).num_bins == 2
    # Two rows a minute, one right after the other.
    pairs = [(at + late, *rest) for at, *rest in _minutes(180) for late in (0, 1)]
    assert Panel.from_frame(_frame(pairs), HOUR).num_bins == 3
    assert Panel.from_frame(_frame(pairs[:-20]), HOUR).num_bins == 2


def test_an_unfinished_bin_can_be_kept():
    panel = Panel.from_frame(_frame(_minutes(150)), HOUR, keep_unfinished=True)
    assert panel.observed.tolist() == [[True] * 3]
    assert panel.values[0, 2] == pytest.approx(np.mean([1.0 + minute for minute in range(120, 150)]))
    assert panel.report.unfinished_bins == 0


def test_each_series_has_a_newest_bin_of_its_own():
    rows = _minutes(90, "early") + _minutes(240, "whole")
    panel = Panel.from_frame(_frame(rows), HOUR)
    assert panel.series == (("early", "m"), ("whole", "m"))
    assert panel.observed.tolist() == [[True, False, False, False], [True] * 4]


def test_a_series_that_starts_late_or_ends_early_is_masked_there():
    rows = _minutes(240, "whole") + _minutes(60, "late", MIDNIGHT + 3 * 3600) + _minutes(60, "soon_over")
    panel = Panel.from_frame(_frame(rows), HOUR)
    assert panel.observed.tolist() == [
        [False, False, False, True],  # late
        [True, False, False, False],  # soon_over
        [True, True, True, True],  # whole
    ]
    assert (panel.values[~panel.observed] == 0).all()


def test_the_grid_starts_on_a_whole_bin():
    panel = Panel.from_frame(_frame([(MIDNIGHT + 3600 + 59, 1.0, "a", "m")]), Frequency.parse("10min"))
    assert panel.start == MIDNIGHT + 3600
    panel = Panel.from_frame(_frame([(MIDNIGHT + 86_399, 1.0, "a", "m")]), Frequency.parse("1D"))
    assert panel.start == MIDNIGHT


def test_ids_follow_the_sorted_keys_of_contract_5():
    pairs = [("ns/b", "m"), ("ns/a", "z"), ("ns/a", "b"), ("ns/a-x", "a"), ("ns/B", "m"), ("ns/a", "Ω")]
    panel = Panel.from_frame(_frame([(0, 1.0 + i, *pair) for i, pair in enumerate(pairs)]), HOUR)
    keys = sorted(workload + metric for workload, metric in pairs)
    assert panel.item_ids == {key: number for number, key in enumerate(keys)}
    assert list(panel.item_ids) == keys
    for row, pair in enumerate(panel.series):
        assert panel.values[row, 0] == 1.0 + pairs.index(pair)


def test_the_key_has_no_separator():
    assert item_key("kapacity-test/nginx", "qps") == "kapacity-test/nginxqps"


def test_series_with_one_key_are_refused():
    rows = [(0, 1.0, "ns/ab", "c"), (0, 1.0, "ns/a", "bc")]
    with pytest.raises(DataError, match="same item key 'ns/abc'") as caught:
        Panel.from_frame(_frame(rows), HOUR)
    for name in ("'ns/ab' 'c'", "'ns/a' 'bc'"):
        assert name in str(caught.value)
    check_no_collision([("ns/ab", "c"), ("ns/ab", "d")])


def test_names_may_be_categories_with_unused_ones():
    frame = _frame([(0, 1.0, "a", "m"), (0, 2.0, "b", "n")]).astype(
        {"workload": "category", "metric": "category"}
    )
    panel = Panel.from_frame(frame.iloc[1:], HOUR)
    assert panel.series == (("b", "n"),)


def test_an_absurd_time_range_is_refused_before_memory_is_taken():
    rows = [(second, 1.0, name, "m") for second in (0, 9.9e10) for name in "abc"]
    with pytest.raises(DataError, match="is a timestamp wrong") as caught:
        Panel.from_frame(_frame(rows), Frequency.parse("1min"))
    for word in ("1970-01-01", "5107", "1,650,000,001 bins of 1min", "3 series"):
        assert word in str(caught.value)


def test_an_absurd_time_range_is_not_excused_by_many_rows_of_one_moment():
    frame = _frame([(0, 1.0, "a", "m")] * 13_000 + [(60 * 1_200_000, 1.0, "a", "m")])
    with pytest.raises(DataError, match=r"1,200,001 bins of 1min for 1 series are too many for 2 rows"):
        Panel.from_frame(frame, Frequency.parse("1min"))


def test_a_frame_of_many_rows_is_taken_once():
    count = 300_000  # more than one batch
    names = {"workload": "a", "metric": "m"}
    frame = pd.DataFrame({"timestamp": 60 * np.arange(count), "value": np.arange(count) % 7.0, **names})
    panel = Panel.from_frame(frame, Frequency.parse("1min"))
    assert panel.report == CleaningReport(rows=count)
    np.testing.assert_array_equal(panel.values[0], frame["value"].astype(np.float32))


def test_nothing_observed_is_refused():
    with pytest.raises(DataError, match="no row has a value"):
        Panel.from_frame(_frame([(0, float("nan"), "a", "m")]), HOUR)


def _panel(
    values=((1.0, 2.0), (3.0, 4.0)), observed=True, start=0, frequency=HOUR, series=(("a", "m"), ("b", "m"))
):
    values = np.array(values, dtype=np.float32)
    return Panel(values, np.broadcast_to(observed, values.shape), start, frequency, series)


def test_a_padded_panel_has_unobserved_bins_at_its_ends():
    panel = _panel(observed=np.array([[True, False], [True, True]]), start=36_000)
    padded = panel.padded(3, 1)
    assert padded.values.tolist() == [[0, 0, 0, 1, 2, 0], [0, 0, 0, 3, 4, 0]]
    assert padded.observed.tolist() == [
        [False, False, False, True, False, False],
        [False, False, False, True, True, False],
    ]
    assert padded.values.dtype == np.float32
    assert padded.observed.dtype == bool
    # Existing bins keep their timestamps.
    assert padded.timestamps.tolist() == [36_000 + 3600 * bin_ for bin_ in range(-3, 3)]
    assert (padded.frequency, padded.series, padded.report) == (panel.frequency, panel.series, panel.report)
    assert (panel.num_bins, panel.start) == (2, 36_000)


def test_a_panel_padded_by_nothing_is_the_same():
    assert _panel().padded(0, 0).fingerprint() == _panel().fingerprint()
    twice = _panel().padded(1, 0).padded(2, 5)
    assert twice.fingerprint() == _panel().padded(3, 5).fingerprint()


def test_some_series_of_a_panel_are_a_panel():
    panel = _panel(
        values=((1, 2), (3, 4), (5, 6)),
        observed=np.array([[True, False], [True, True], [False, True]]),
        start=7200,
        series=(("a", "m"), ("b", "m"), ("c", "m")),
    )
    chosen = panel.rows([0, 2])
    assert chosen.series == (("a", "m"), ("c", "m"))
    assert chosen.values.tolist() == [[1, 2], [5, 6]]
    assert chosen.observed.tolist() == [[True, False], [False, True]]
    assert chosen.item_ids == {"am": 0, "cm": 1}
    assert (chosen.start, chosen.frequency, chosen.report) == (7200, panel.frequency, panel.report)
    assert (chosen.num_series, chosen.num_bins) == (2, 2)
    # Also with numpy integers, and with all rows.
    assert panel.rows(np.array([1])).series == (("b", "m"),)
    assert panel.rows(range(3)).fingerprint() == panel.fingerprint()


def test_a_panel_of_some_series_is_a_copy():
    panel = _panel(observed=np.ones((2, 2), dtype=bool))
    chosen = panel.rows([1])
    chosen.values[:], chosen.observed[:] = 9, False
    assert panel.fingerprint() == _panel().fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"values": ((1.0, 2.0), (3.0, 4.0000005))},
        {"values": ((2.0, 1.0), (3.0, 4.0))},
        {"observed": np.array([[True, True], [True, False]])},
        {"start": 3600},
        {"frequency": Frequency.parse("10min")},
        {"series": (("a", "m"), ("b", "n"))},
        {"series": (("a", "m"), ("bm", ""))},
    ],
)
def test_the_fingerprint_sees_every_change(change):
    assert _panel(**change).fingerprint() != _panel().fingerprint()


def test_the_fingerprint_does_not_see_the_report():
    rows = _minutes(180)
    tidy, untidy = Panel.from_frame(_frame(rows), HOUR), Panel.from_frame(_frame(rows + rows[:9]), HOUR)
    assert tidy.report != untidy.report
    assert tidy.fingerprint() == untidy.fingerprint()
    assert len(tidy.fingerprint()) == 64


def test_a_known_fingerprint_is_that_of_this_panel_alone():
    panel = _panel()
    known = panel.known_as("abc")
    assert known.fingerprint() == "abc"
    computed = {one.fingerprint() for one in (panel, known.padded(0, 0), known.rows([0, 1]))}
    assert len(computed) == 1
    assert "abc" not in computed
