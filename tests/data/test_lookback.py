"""The past that a network sees beyond its context, compared with lookups bin by bin."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from conftest import tensors_of
from kforecast.data.calendar import Calendar
from kforecast.data.panel import Panel
from kforecast.data.windows import Past, WindowDataset
from kforecast.window import FREQUENCIES, Frequency, Lookback, Window

MONDAY = 1_704_067_200  # 2024-01-01 00:00 UTC
# One series per zone: two with clock changes, one without, one off by half an hour, one by two in summer.
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Adelaide", "Antarctica/Troll")
VALUES = st.floats(-1000, 1000, width=32)
GAP = float("nan")


def panel_of(values, frequency, start=MONDAY):
    """A panel from an array, NaN where unobserved; its series are w0, w1, ..."""
    values = np.asarray(values, dtype=np.float32)
    observed = ~np.isnan(values)
    series = tuple((f"w{row}", "m") for row in range(len(values)))
    return Panel(np.where(observed, values, np.float32(0)), observed, start, frequency, series)


def cells_of(panel, window):
    """Every window that fits into the panel, observed or not."""
    origins = torch.arange(window.context_length, panel.num_bins - window.prediction_length + 1)
    return (torch.arange(panel.num_series)[:, None] * panel.num_bins + origins).flatten()


def past_of(panel, window, look, calendar=None, cells=None):
    dataset = WindowDataset(panel, window, "zero", lookback=look, calendar=calendar)
    past = dataset[cells_of(panel, window) if cells is None else torch.tensor(cells)].past
    assert past is not None
    return past


# The reference: bin by bin, with time zones and calendars of the standard library.


def middle(panel, position):
    """The local date of a bin that lasts a day is the date of its middle."""
    step = panel.frequency.step
    return panel.start + position * step + (step // 2 if step == 86_400 else 0)


def local(zone, second):
    return datetime.fromtimestamp(second, UTC).astimezone(ZoneInfo(zone))


def offset(zone, second):
    return local(zone, second).utcoffset().total_seconds()


def day_off(panel, zone, position):
    return local(zone, middle(panel, position)).weekday() >= 5


def looked_up(values, panel, window, look, zones):
    """The :class:`Past` of every window, as plain lists."""
    step, season = panel.frequency.step, panel.frequency.season
    found = Past(*([] for _ in Past._fields))
    for cell in cells_of(panel, window).tolist():
        row, origin = divmod(cell, panel.num_bins)
        zone = zones[row]

        def seen(position, row=row, origin=origin):
            return 0 <= position < origin and not np.isnan(values[row, position])

        def value(position, row=row, seen=seen):
            return values[row, position] if seen(position) else 0.0

        newest = range(origin - look.recent, origin)
        found.recent.append([value(position) for position in newest])
        found.recent_observed.append([seen(position) for position in newest])
        seasons, known, alike = [], [], []
        for number in range(1, look.seasons + 1):
            then = origin - number * season
            # Local time is undefined before the panel, where nothing is observed.
            change = offset(zone, panel.start + origin * step) - offset(
                zone, panel.start + max(then, 0) * step
            )
            then += round(change / step)
            positions = range(then - look.before, then + window.prediction_length + look.after)
            whole = positions[0] >= 0
            seasons.append([value(position) if whole else 0.0 for position in positions])
            known.append([whole and seen(position) for position in positions])
            now = range(origin - look.before, origin + window.prediction_length + look.after)
            alike.append(
                [
                    whole and day_off(panel, zone, one) == day_off(panel, zone, other)
                    for one, other in zip(positions, now, strict=True)
                ]
            )
        found.seasons.append(seasons)
        found.seasons_observed.append(known)
        found.alike.append(alike)
        clock = local(zone, panel.start + origin * step)
        seconds = clock.hour * 3600 + clock.minute * 60 + clock.second
        weekday = local(zone, middle(panel, origin)).weekday()
        found.moment.append([seconds / 86_400, weekday, float(weekday >= 5)])
    return found


@st.composite
def cases(draw):
    """Values with NaN for gaps, a frequency, a start near a clock change or not, and lengths."""
    frequency = FREQUENCIES[draw(st.sampled_from(["10min", "1H", "1H", "1D"]))]
    # The horizon may be longer than a season.
    longer = st.integers(1, frequency.season + 3) if frequency.season < 100 else st.nothing()
    window = Window(frequency, draw(st.integers(1, 5)), draw(st.integers(1, 4) | longer))
    look = Lookback(*(draw(st.integers(low, 5)) for low in (1, 1, 0, 0)))
    most = 3 * frequency.season if frequency.season < 100 else 330
    bins = window.length + draw(st.integers(0, 8) | st.integers(0, most))
    rows = draw(st.integers(1, 3))
    gaps = draw(st.sampled_from([VALUES, VALUES | st.just(GAP)]))
    values = draw(npst.arrays(np.float32, (rows, bins), elements=gaps, fill=st.just(7.0) | st.just(GAP)))
    near = draw(st.sampled_from([MONDAY, 1_711_760_400, 1_711_846_800, 1_729_904_400, 1_712_323_800]))
    start = (near + draw(st.integers(-60, 30)) * 3600) // frequency.step * frequency.step
    zones = draw(st.lists(st.sampled_from(ZONES), min_size=rows, max_size=rows))
    return values, panel_of(values, frequency, start), window, look, zones


@given(cases())
@settings(deadline=None, max_examples=80)
def test_the_past_is_that_of_looking_it_up_bin_by_bin(case):
    values, panel, window, look, zones = case
    calendar = Calendar.of({f"w{row}": zone for row, zone in enumerate(zones)})
    past = past_of(panel, window, look, calendar)
    expected = looked_up(values, panel, window, look, zones)
    for name in ("recent", "recent_observed", "seasons", "seasons_observed", "moment"):
        found = getattr(past, name)
        np.testing.assert_allclose(found, np.array(getattr(expected, name), dtype=found.numpy().dtype))
    seen = past.seasons_observed.numpy()
    np.testing.assert_array_equal(past.alike.numpy() & seen, np.array(expected.alike) & seen)
    width = look.width(window)
    count = len(cells_of(panel, window))
    assert past.recent.shape == past.recent_observed.shape == (count, look.recent)
    assert past.seasons.shape == past.alike.shape == (count, look.seasons, width)
    assert [part.dtype for part in past] == [*[torch.float32, torch.bool] * 2, torch.bool, torch.float32]


@given(cases(), st.data())
@settings(deadline=None, max_examples=80)
def test_nothing_at_or_behind_the_origin_nor_of_another_series_is_seen(case, data):
    values, panel, window, look, zones = case
    calendar = Calendar.of({f"w{row}": zone for row, zone in enumerate(zones)})
    cell = data.draw(st.sampled_from(cells_of(panel, window).tolist()))
    row, origin = divmod(cell, panel.num_bins)
    changed = np.full_like(values, data.draw(VALUES | st.just(GAP)))
    changed[row, :origin] = values[row, :origin]
    other = panel_of(changed, panel.frequency, panel.start)
    before, after = (past_of(one, window, look, calendar, [cell]) for one in (panel, other))
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_values_behind_unobserved_bins_are_never_read():
    rng = np.random.default_rng(0)
    hour = Frequency.parse("1H")
    values = np.where(rng.random((2, 200)) < 0.3, GAP, rng.uniform(1, 9, (2, 200)))
    panel = panel_of(values, hour)
    dirty = replace(panel, values=np.where(panel.observed, panel.values, np.float32(GAP)))
    window, look = Window(hour, 5, 3), Lookback(10, 6, 4, 2)
    one, two = past_of(panel, window, look), past_of(dirty, window, look)
    assert all(torch.equal(part, same) for part, same in zip(one, two, strict=True))


@pytest.mark.parametrize("frequency", FREQUENCIES.values(), ids=FREQUENCIES)
@pytest.mark.parametrize("bins", [2, 3, 9])
def test_a_panel_may_be_shorter_than_what_is_looked_for(frequency, bins):
    panel = panel_of(np.ones((1, bins)), frequency)
    window = Window(frequency, 1, 1)
    past = past_of(panel, window, Lookback(24, 28, 6, 2))
    assert past.recent_observed.sum(dim=1).tolist() == list(range(1, bins))
    assert not past.seasons_observed.any()
    assert (past.seasons == 0).all()


def test_a_season_that_the_history_does_not_reach_back_to_as_a_whole_is_not_seen():
    hour = Frequency.parse("1H")
    panel = panel_of(np.arange(1, 101)[None], hour)
    window, look = Window(hour, 4, 2), Lookback(2, 3, before=3, after=1)
    past = past_of(panel, window, look, cells=[26, 27, 51])
    assert past.seasons_observed.any(dim=2).tolist() == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
    ]
    assert past.seasons[2, :2].tolist() == [[25, 26, 27, 28, 29, 30], [1, 2, 3, 4, 5, 6]]
    assert past.recent[2].tolist() == [50, 51]


def test_of_a_horizon_longer_than_a_day_what_is_yet_to_come_is_not_seen():
    hour = Frequency.parse("1H")
    panel = panel_of(np.ones((1, 200)), hour)
    window = Window(hour, 4, 40)
    past = past_of(panel, window, Lookback(2, 2, before=3, after=2), cells=[100])
    assert past.seasons_observed.sum(dim=2).tolist() == [[3 + 24, 3 + 40 + 2]]


CHANGES = [
    ("Europe/Berlin", "2024-03-31"),
    ("Europe/Berlin", "2024-10-27"),
    ("Australia/Adelaide", "2024-04-07"),
    ("Australia/Adelaide", "2024-10-06"),
]


@pytest.mark.parametrize("name", ["10min", "1H"])
@pytest.mark.parametrize("zone, day", CHANGES)
def test_a_season_is_where_the_clock_showed_the_same_time(name, zone, day):
    """The value of a bin is its number, so that a value reveals its position."""
    frequency = Frequency.parse(name)
    change = int(datetime.fromisoformat(f"{day}T01:00+00:00").timestamp())
    start = change - 40 * 86_400
    bins = 60 * frequency.day
    panel = panel_of(np.arange(bins)[None], frequency, start)
    window, look = Window(frequency, 3, 2), Lookback(3, 28, before=6, after=2)
    origins = np.arange(30 * frequency.day, bins - 2, 7)
    past = past_of(panel, window, look, Calendar.of(zone), origins.tolist())
    where = past.seasons[:, :, look.before].long().numpy()
    assert past.seasons_observed[:, :, look.before].all()
    shifted = 0
    for origin, row in zip(origins.tolist(), where.tolist(), strict=True):
        now = local(zone, start + origin * frequency.step).replace(tzinfo=None)
        for number, bin_ in enumerate(row, start=1):
            asked = now - timedelta(days=number)
            then = local(zone, start + bin_ * frequency.step).replace(tzinfo=None)
            # One local hour is skipped by the clocks, another one occurs twice.
            exists = asked.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).astimezone(ZoneInfo(zone))
            if exists.replace(tzinfo=None) == asked:
                assert then == asked
            else:
                assert abs(then - asked) == timedelta(hours=1)
            shifted += bin_ != origin - number * frequency.day
    assert shifted > 500


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Auckland", "America/St_Johns"])
def test_a_change_of_clocks_moves_no_day(zone):
    day = Frequency.parse("1D")
    panel = panel_of(np.arange(400)[None], day)
    window, look = Window(day, 3, 2), Lookback(3, 8, before=6, after=2)
    origins = np.arange(80, 390)
    past = past_of(panel, window, look, Calendar.of(zone), origins.tolist())
    expected = origins[:, None] - 7 * np.arange(1, 9)
    np.testing.assert_array_equal(past.seasons[:, :, look.before], expected)


@pytest.mark.parametrize("name", ["10min", "1H"])
def test_days_off_are_alike(name):
    """Christmas 2024, on a Wednesday: a holiday resembles the weekend, a working day does not."""
    pytest.importorskip("holidays")
    frequency = Frequency.parse(name)
    start = int(datetime.fromisoformat("2024-12-10T00:00+00:00").timestamp())
    panel = panel_of(np.ones((2, 30 * frequency.day)), frequency, start)
    window, look = Window(frequency, 3, 2), Lookback(3, 14, before=1, after=1)
    calendar = Calendar.of({"w0": "Europe/Berlin", "w1": "Asia/Tokyo"}, "DE")
    noon = 15 * frequency.day + frequency.day // 2  # on the 25th, 21:00 in Tokyo
    past = past_of(panel, window, look, calendar, [noon, panel.num_bins + noon])
    # Back from the 24th (legally a working day) to the 11th.
    off = [(25 - number) in (14, 15, 21, 22) for number in range(1, 15)]
    for row in (0, 1):
        assert past.alike[row].tolist() == [[one] * look.width(window) for one in off]
    np.testing.assert_allclose(past.moment, [[13 / 24, 2, 1], [21 / 24, 2, 1]], rtol=1e-6)
    # A day later it is the 26th in Tokyo, which is still a holiday of the chosen country.
    later = past_of(panel, window, look, calendar, [panel.num_bins + noon + frequency.day])
    assert later.moment[0, 1:].tolist() == [3, 1]
    plain = past_of(panel, window, look, Calendar.of("Europe/Berlin"), [noon])
    assert plain.moment[0, 2] == 0
    assert plain.alike[0, :, 0].tolist() == [not one for one in off]


def test_a_window_may_touch_two_days_of_different_kinds():
    hour = Frequency.parse("1H")
    panel = panel_of(np.ones((1, 400)), hour)
    window, look = Window(hour, 3, 4), Lookback(3, 7, before=2, after=0)
    friday = 11 * 24 + 22  # the 12th, 22:00: two more bins of Friday, then Saturday begins
    past = past_of(panel, window, look, cells=[friday])
    thursday, _, _, _, sunday, saturday, last_friday = past.alike[0].tolist()
    assert thursday == [True] * 4 + [False] * 2
    assert sunday == [False] * 4 + [False] * 2  # the 7th, whose night belongs to Monday
    assert saturday == [False] * 4 + [True] * 2
    assert last_friday == [True] * 6


def test_bins_of_a_day_are_of_the_day_that_most_of_them_is_of():
    """A UTC day begins on the previous evening in New York, but counts as the same day."""
    day = Frequency.parse("1D")
    panel = panel_of(np.ones((1, 100)), day)
    window, look = Window(day, 3, 1), Lookback(3, 8, before=0, after=0)
    for zone in ("UTC", "America/New_York", "Pacific/Honolulu", "Asia/Kolkata"):
        past = past_of(panel, window, look, Calendar.of(zone), list(range(70, 77)))
        assert past.moment[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 6]
        assert past.moment[:, 2].tolist() == [0] * 5 + [1, 1]


def test_moving_to_a_device_changes_nothing():
    hour = Frequency.parse("1H")
    panel = panel_of(np.random.default_rng(0).uniform(1, 9, (2, 300)), hour, 1_711_760_400)
    window, look = Window(hour, 3, 2), Lookback(3, 7, before=2, after=1)
    calendar = Calendar.of("Europe/Berlin")
    still = WindowDataset(panel, window, "zero", lookback=look, calendar=calendar)
    moved = WindowDataset(panel, window, "zero", lookback=look, calendar=calendar).to(torch.device("cpu"))
    cells = cells_of(panel, window)
    pairs = zip(tensors_of(still[cells]), tensors_of(moved[cells]), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    batch = still[cells].to(torch.device("meta"))
    assert batch.past is not None
    assert all(part.device.type == "meta" for part in tensors_of(batch))
    assert still[cells]._replace(past=None).to(torch.device("cpu")).past is None
    elsewhere = still.to(torch.device("meta"))[cells]
    assert all(part.device.type == "meta" for part in tensors_of(elsewhere))


def test_the_arrays_of_a_panel_are_not_copied():
    hour = Frequency.parse("1H")
    panel = panel_of(np.ones((1, 300)), hour)
    dataset = WindowDataset(panel, Window(hour, 3, 2), "zero", lookback=Lookback(3, 7, before=2, after=1))
    panel.values[:] = 5
    assert dataset[torch.tensor([200])].context.tolist() == [[5, 5, 5]]


@pytest.mark.parametrize("horizon", [1, 1000, 10_000_000])
def test_windows_at_once_take_no_more_memory_for_a_long_horizon(horizon):
    minute = Frequency.parse("1min")
    panel, window, look = panel_of(np.ones((1, 30)), minute), Window(minute, 3, horizon), Lookback(3, 7, 2, 1)
    plain, dataset = WindowDataset(panel, window, "zero"), WindowDataset(panel, window, "zero", lookback=look)
    values = 7 * (horizon + 3)  # for one window
    at_once = [(plain.training_windows, dataset.training_windows)]
    at_once += [(plain.evaluation_windows, dataset.evaluation_windows)]
    for most, found in at_once:
        assert found == max(1, min(most, 8_000_000 // values))


def test_a_history_of_the_length_of_a_lookback_is_as_good_as_a_longer_one():
    """Also after clocks were set back, when a season ago is an hour more."""
    hour = Frequency.parse("1H")
    look, window = Lookback(24, 28, before=6, after=2), Window(hour, 12, 3)
    start = int(datetime.fromisoformat("2024-09-01T00:00+00:00").timestamp())
    for zone in ("UTC", "Europe/Berlin"):
        panel = panel_of(np.arange(1, 2001)[None], hour, start)
        calendar = Calendar.of(zone)
        origin = 60 * 24 + 5  # on 31 October
        length = look.length(window)
        end = origin + window.prediction_length
        tail = replace(
            panel,
            values=panel.values[:, origin - length : end],
            observed=panel.observed[:, origin - length : end],
            start=panel.start + (origin - length) * 3600,
        )
        whole = past_of(panel, window, look, calendar, [origin])
        short = past_of(tail, window, look, calendar, [length])
        assert whole.seasons_observed.all()
        assert all(torch.equal(one, two) for one, two in zip(whole, short, strict=True))
