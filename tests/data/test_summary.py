"""The data summary that is shown before training."""

import numpy as np
import pytest

from kforecast.data.origins import Cells
from kforecast.data.panel import CleaningReport, Panel
from kforecast.data.split import Split, SplitSettings, split_windows
from kforecast.data.summary import data_table, summarize
from kforecast.window import Frequency, Window

HOUR = Frequency.parse("1H")
START = 1_704_067_200
NAN = float("nan")


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def _panel(values, names=None, report=None):
    values = np.asarray(values, dtype=np.float32)
    observed = ~np.isnan(values)
    series = tuple((name, "qps") for name in names or [f"shop/w{row:02}" for row in range(len(values))])
    return Panel(np.nan_to_num(values), observed, START, HOUR, series, report or CleaningReport())


def _split(train, validation=(), test=(), unused=None):
    cells = [
        Cells(np.array(part, np.int64), np.ones(len(part), np.int64)) for part in (train, validation, test)
    ]
    return Split(*cells, train_end=6, validation_end=8, end=10, unused=unused or {})


def _hand_made():
    return _panel(
        [
            [NAN, 2, 0, NAN, 4, 0, 6, NAN, NAN, NAN],
            [-1, 1, 1, 1, 1, 1, 1, 1, 1, 13],
            [NAN] * 10,
        ],
        report=CleaningReport(rows=17, duplicates=2),
    )


def test_the_figures_of_a_hand_made_panel():
    summary = summarize(_hand_made(), _split([3, 4, 13], [15, 16], [18]))
    assert summary["workload"].tolist() == ["shop/w00", "shop/w01", "shop/w02"]
    assert summary["metric"].tolist() == ["qps"] * 3
    some, full, nothing = (summary.loc[row] for row in range(3))
    assert (some["points"], some["first"], some["last"]) == (5, START + 3600, START + 6 * 3600)
    assert some["missing"] == pytest.approx(1 / 6)
    assert some["zeros"] == pytest.approx(2 / 5)
    assert (some["min"], some["mean"], some["max"]) == (0, pytest.approx(12 / 5), 6)
    assert (full["points"], full["missing"], full["zeros"]) == (10, 0, 0)
    assert (full["first"], full["last"]) == (START, START + 9 * 3600)
    assert (full["min"], full["mean"], full["max"]) == (-1, pytest.approx(2.0), 13)
    assert (nothing["points"], nothing["missing"], nothing["zeros"]) == (0, 1, 0)
    assert np.isnan([nothing["min"], nothing["mean"], nothing["max"]]).all()
    assert summary[["train", "validation", "test"]].to_numpy().tolist() == [[2, 0, 0], [1, 2, 1], [0, 0, 0]]


def _cells(text, name):
    (line,) = (line for line in text.splitlines() if line.split()[:1] == [name])
    return line.split()


def test_the_table_says_what_the_figures_say():
    panel, split = _hand_made(), _split([3, 4, 13], [15, 16], [18], {"without an observed target": 1234})
    text = data_table(summarize(panel, split), panel, split)
    assert "3 series on one grid of 10 bins of 1H" in text
    first = [
        "shop/w00",
        "qps",
        "5",
        "2024-01-01",
        "01:00",
        "2024-01-01",
        "06:00",
        "16.7%",
        "40.0%",
        "0",
        "2.4",
        "6",
    ]
    assert _cells(text, "shop/w00") == [*first, "2", "0", "0"]
    assert _cells(text, "shop/w02")[2:5] == ["0", "-", "-"]
    assert _cells(text, "total") == ["total", "15", "3", "2", "1"]
    assert "17 rows; 2 at a timestamp already seen, averaged" in text
    assert "windows not used: 1,234 without an observed target" in text
    assert "1 of 3 series have no train window: shop/w02 qps" in text


def test_of_many_series_the_worst_ten_and_the_total_are_shown():
    values = np.ones((25, 40))
    for row in range(25):
        values[row, 1 : 1 + row] = NAN  # series 24 has the most missing
    panel = _panel(values)
    split = split_windows(panel, Window(HOUR, 2, 1), SplitSettings(validation=0.1, test=0, max_missing=0.5))
    summary = summarize(panel, split)
    text = data_table(summary, panel, split)
    shown = [line.split()[0] for line in text.splitlines() if line.lstrip().startswith("shop/")]
    assert shown == [f"shop/w{row}" for row in range(24, 14, -1)]
    assert "25 series" in text
    assert "the 10 with the most missing" in text
    points, train = 25 * 40 - sum(range(25)), len(split.train)
    assert _cells(text, "total") == ["total", f"{points:,}", f"{train:,}", f"{len(split.validation):,}", "0"]
    assert "have no" not in text


def test_ten_series_are_all_shown_in_their_order():
    panel = _panel(np.ones((10, 40)))
    split = split_windows(panel, Window(HOUR, 2, 1), SplitSettings(validation=0, test=0, max_missing=0))
    text = data_table(summarize(panel, split), panel, split)
    assert [line.split()[0] for line in text.splitlines() if "shop/" in line] == [
        f"shop/w{i:02}" for i in range(10)
    ]
    assert "most missing" not in text


def test_many_idle_series_are_named_in_part():
    values = np.full((8, 40), NAN)
    values[0] = 1
    panel = _panel(values)
    split = split_windows(panel, Window(HOUR, 2, 1), SplitSettings(validation=0, test=0, max_missing=0))
    text = data_table(summarize(panel, split), panel, split)
    names = ", ".join(f"shop/w{row:02} qps" for row in range(1, 6))
    assert f"7 of 8 series have no train window: {names} ..." in text


@pytest.mark.parametrize("name", ["shop/[red]cart", "[/x]", ":cart:", "購物車", 'a,"b"', "a[0]"])
def test_any_name_is_shown_as_it_is(name):
    panel = _panel(np.ones((1, 40)), [name])
    split = split_windows(panel, Window(HOUR, 2, 1), SplitSettings(validation=0, test=0, max_missing=0))
    assert name in data_table(summarize(panel, split), panel, split)
