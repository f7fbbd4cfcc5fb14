"""The report: files read back equal, the page is self-contained, figures show the results."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pyarrow import csv

from kforecast.config.checks import CONF_DIR
from kforecast.data.panel import Panel
from kforecast.errors import OutputError
from kforecast.evaluation import capacity as short_form
from kforecast.evaluation.backtest import BacktestSettings, Span
from kforecast.evaluation.capacity import JUDGED
from kforecast.evaluation.report import files as report
from kforecast.evaluation.report import page as page_module
from kforecast.evaluation.report.figures import (
    NAMES,
    figures,
    middle,
    notable,
    reached,
    short_name,
)
from kforecast.evaluation.report.files import forecasts_frame, write_report
from kforecast.evaluation.report.page import ReportContext
from kforecast.evaluation.scoreboard import QUANTILES, judge
from kforecast.evaluation.scores import overall
from kforecast.forecaster import Forecaster
from kforecast.intervals import LEVELS
from kforecast.models.fcnet import Fcnet
from kforecast.pages.drawing import COLOURS, duration, percent
from kforecast.simulation.capacity import Capacity
from kforecast.window import Frequency, Window

pytestmark = pytest.mark.usefixtures("drawn")

HOUR = Frequency.parse("1H")
START = 1_700_006_400
BEGIN, STOP = 200, 300
SPAN = Span(BEGIN, STOP)
SCRIPT = "<script>alert(1)</script>"
# Sorted by item key, as in a panel.
NAMES_OF_ANY_KIND = (
    (SCRIPT, 'q"u,o"te'),
    ("a\nnew line, and a comma", "$x_1$ & 50 %"),
    ("日本語/サービス", "м" * 80),
)
CONTEXT = ReportContext(
    title="runs/<1>/artifact",
    verdict="Worth it & <proven>.",
    tone="good",
    facts={"source": "file <x>.csv", "window": "said by the caller"},
    warnings=("Mind the <gap>.",),
)


@pytest.fixture(scope="module", autouse=True)
def one_day(drawn):
    """Replicas of the newest day alone: a simulation of the whole span takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_form, "MOST_DAYS", 1)
        yield


def _plain_names(count):
    return tuple((f"w{row:02}", "m") for row in range(count))


def _panel(names, bins=310, gaps=0.1, frequency=HOUR):
    """Series with a daily cycle and large values in unobserved bins, which must not matter."""
    rng = np.random.default_rng(2)
    shape = len(names), bins
    season = frequency.season
    values = 10 * (4 + 3 * np.sin(2 * np.pi * np.arange(bins) / season) + rng.exponential(1, shape))
    observed = rng.random(shape) >= gaps
    return Panel(np.where(observed, values, 1e6).astype(np.float32), observed, START, frequency, tuple(names))


def _forecaster(panel, horizon=3):
    """An untrained network that forecasts about the level of its context."""
    window = Window(panel.frequency, 6, horizon)
    torch.manual_seed(1)
    net = Fcnet(window, panel.num_series).eval()
    with torch.no_grad():
        net.lc.weight *= 0.3
        net.lc.bias[:] = 1
    return Forecaster(window, panel.item_ids, "interpolate", net)


def _board(names=None, horizon=3, intervals=True, span=SPAN, panel=None, capacity=None, stride=1):
    panel = _panel(names or _plain_names(3)) if panel is None else panel
    forecaster = _forecaster(panel, horizon)
    if intervals:
        forecaster = forecaster.calibrated(panel, 10, BEGIN)
    content = yaml.safe_load((CONF_DIR / "capacity" / "default.yaml").read_text(encoding="utf-8"))
    del content["_target_"]
    settings = Capacity(**(content | (capacity or {})))
    return judge(forecaster, panel, span, BacktestSettings(stride, levels=QUANTILES), settings)


@pytest.fixture(scope="module")
def board():
    """Of series with gaps and names of any kind, by a forecaster with intervals."""
    return _board(NAMES_OF_ANY_KIND, span=Span(BEGIN, STOP, "the newest bins", START + BEGIN * 3600))


@pytest.fixture(scope="module")
def written(board, tmp_path_factory):
    """A directory with a report of the board."""
    directory = tmp_path_factory.mktemp("report") / "new" / "one"
    drawn = write_report(board, CONTEXT, directory, board.as_dict())
    assert list(drawn) == [*NAMES]
    return directory


@pytest.fixture(scope="module")
def page(written):
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def without_figures(monkeypatch):
    """Pages without figures, which are fast."""
    monkeypatch.setattr(report, "figures", lambda board: {})


def _text(directory):
    """The text of a page in one line."""
    text = (directory / "report.html").read_text(encoding="utf-8").split("<main>")[1]
    return " ".join(re.sub(r"<[^>]*>", " ", text).split()).replace("\N{NO-BREAK SPACE}", " ")


# forecasts.csv


def test_a_row_for_each_window_and_step():
    board = _board(horizon=2, span=Span(BEGIN, BEGIN + 9))
    found, panel = board.backtest, board.backtest.panel
    frame = forecasts_frame(board)
    quantiles = [name for name in frame if name.startswith("q")]
    assert [*frame] == ["workload", "metric", "origin", "step", "timestamp", "value", "actual", *quantiles]
    assert quantiles == ["q0.025", "q0.05", "q0.1", "q0.5", "q0.9", "q0.95", "q0.975"]
    rows = frame.itertuples(index=False)
    gaps = 0
    for window, (series, origin) in enumerate(zip(found.series, found.origin, strict=True)):
        for step in range(2):
            row, target = next(rows), origin + step
            assert (row.workload, row.metric) == panel.series[series]
            # The bin just before the first target.
            assert row.origin == panel.timestamps[origin - 1]
            assert row.step == step + 1
            assert row.timestamp == panel.timestamps[target] == row.origin + row.step * 3600
            assert row.value == found.forecasts["kforecast"][window, step]
            if panel.observed[series, target]:
                assert row.actual == panel.values[series, target]
            else:
                assert math.isnan(row.actual)
                gaps += 1
            assert list(row[7:]) == found.quantiles[window, step].tolist()
    assert next(rows, None) is None
    assert 0 < gaps < len(frame)
    assert len(frame) == 2 * len(found.cells)


def test_rows_are_sorted_and_small(board):
    frame = forecasts_frame(board)
    keys = frame[["origin", "step"]].assign(series=board.backtest.series.repeat(3))
    assert keys.equals(keys.sort_values(["series", "origin", "step"], kind="stable"))
    assert all(isinstance(frame[name].dtype, pd.CategoricalDtype) for name in ("workload", "metric"))
    assert {*frame.dtypes.iloc[5:]} == {np.dtype(np.float32)}


def test_without_intervals_there_are_no_quantiles():
    assert [*forecasts_frame(_board(intervals=False))][5:] == ["value", "actual"]


def test_forecasts_read_back_equal(board, written):
    read = pd.read_csv(written / "forecasts.csv")
    frame = forecasts_frame(board)
    assert {*read["workload"]} == {workload for workload, _ in NAMES_OF_ANY_KIND}
    assert {*read["metric"]} == {metric for _, metric in NAMES_OF_ANY_KIND}
    for name in frame:
        if name in ("workload", "metric"):
            assert read[name].tolist() == frame[name].tolist()
        else:
            np.testing.assert_array_equal(read[name].to_numpy().astype(frame[name].dtype), frame[name])
    assert read["actual"].isna().any()


@pytest.mark.parametrize("name", [" a ", "tab\there", "cr\r\nlf", "'", '""', ";", "\\", "#", "=1+1", "🚀"])
def test_names_of_any_kind_read_back_equal(name, tmp_path):
    frame = pd.DataFrame(
        {"workload": pd.Categorical([name, "x", name]), "value": np.float32([0.1, 2, np.nan])}
    )
    report._write_csv(frame, tmp_path / "frame.csv")
    read = pd.read_csv(tmp_path / "frame.csv")
    assert read["workload"].tolist() == [name, "x", name]
    np.testing.assert_array_equal(read["value"].astype(np.float32), frame["value"])


# The other files


def test_scores_read_back_equal(board, written):
    read = pd.read_csv(written / "scores.csv", dtype={"step": str})
    pd.testing.assert_frame_equal(
        read.astype(object), board.scores.astype(object), check_dtype=False, rtol=1e-15
    )


def test_the_document_is_the_callers(board, written):
    assert json.loads((written / "report.json").read_text(encoding="utf-8")) == board.as_dict()


def test_every_figure_is_a_png(written):
    files = sorted((written / "figures").iterdir())
    assert [path.name for path in files] == sorted(f"{name}.png" for name in NAMES)
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for path in files)
    assert {path.name for path in written.iterdir()} == {
        *("figures", "forecasts.csv", "report.html", "report.json", "scores.csv")
    }


def test_the_same_again_is_equal_to_the_byte(board, written, tmp_path):
    # The user's own style must not matter.
    with matplotlib.rc_context(
        {"axes.facecolor": "black", "savefig.bbox": "tight", "timezone": "Asia/Tokyo"}
    ):
        write_report(board, CONTEXT, tmp_path, board.as_dict())
    files = [path.relative_to(written) for path in written.rglob("*") if path.is_file()]
    assert len(files) == 4 + len(NAMES)
    for path in files:
        assert (tmp_path / path).read_bytes() == (written / path).read_bytes(), path


def test_figures_of_an_earlier_report_go(board, without_figures, tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("calibration.png", "my own.png"):
        (tmp_path / "figures" / name).write_bytes(b"old")
    assert write_report(board, CONTEXT, tmp_path, {}) == {}
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["my own.png"]


def test_a_write_that_fails_leaves_the_earlier_file(board, without_figures, tmp_path, monkeypatch):
    old = {name: f"old {name}" for name in ("forecasts.csv", "report.html", "report.json", "scores.csv")}
    for name, text in old.items():
        (tmp_path / name).write_text(text)

    def full_disk(table, path):
        path.write_text("half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "write_csv", full_disk)
    with pytest.raises(OutputError, match=r"forecasts\.csv: cannot be written: No space left"):
        write_report(board, CONTEXT, tmp_path, {})
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == old
    assert {path.name for path in tmp_path.iterdir()} <= {*old, "figures"}


# The page


class _Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps all tags and all text."""

    EMPTY = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_well_formed(page):
    reader = _Reader(page)
    headings = [tag for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1"] + ["h2"] * 6
    identities = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(identities) == len({*identities})
    for _, attributes in reader.tags:
        for name, value in attributes.items():
            if name.endswith("href") and value.startswith("#"):
                assert value[1:] in identities
            for reference in re.findall(r"url\(([^)]*)\)", value or ""):
                assert reference.startswith("#")
                assert reference[1:] in identities


def test_nothing_is_loaded_from_anywhere(page, written):
    reader = _Reader(page)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "img", "iframe", "image", "object", "embed"}
    links = set()
    for tag, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name, value in attributes.items():
            if not name.startswith("xmlns"):
                assert "//" not in (value or ""), (tag, name)
            if name in ("href", "src") and not value.startswith("#"):
                links.add(value)
    assert links == {"forecasts.csv", "scores.csv", "report.json", "figures/"}
    assert all((written / link).exists() for link in links)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_names_and_texts_are_escaped(page):
    assert SCRIPT not in page
    for text in ("runs/<1>/artifact", "Worth it & <proven>.", "file <x>.csv", "Mind the <gap>."):
        assert text not in page
        assert text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page
    texts = _Reader(page).texts
    for workload, metric in NAMES_OF_ANY_KIND:
        assert workload in texts
        assert metric in texts
    assert "said by the caller" in texts


def test_every_figure_is_in_the_page_in_both_modes(page):
    elements = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(elements) == len(NAMES)
    known = {f"--{name}" for name in COLOURS} | {"--sans"}
    for element in elements:
        root = ElementTree.fromstring(element)
        assert root.get("role") == "img"
        assert len(root.get("aria-label")) > 20
        assert root.get("viewBox")
        used = {*re.findall(r"var\((--[a-z-]*)\)", element)}
        assert {"--ink", "--sans"} <= used <= known
        # No colour is fixed to one mode.
        assert not re.search(r"(fill|stroke): #", element)
        assert not [text for text in re.findall(r"<text[^>]*>", element) if "fill: var" not in text]
    for name in known:
        assert page.count(f"  {name}:") == (1 if name == "--sans" else 2), name


def test_the_page_says_what_was_found(board, written):
    text = _text(written)
    model, best = board.model, board.skill.best_baseline
    assert f"{100 * model['wape']:.1f} %" in text
    assert f"best baseline, “{best}”: {100 * overall(board.scores, best)['wape']:.1f} %" in text
    assert f"95 % interval: {percent(board.skill.low)}".replace("\N{NO-BREAK SPACE}", " ") in text
    assert "1 to 100 are ordered, and serve 5 min later." in text
    assert "10 / (10 + 1) = 0.909" in text
    assert "The forecast is quantile 0.909 over the next 5 min 15 s" in text
    assert "kforecast-replay artifact_dir=... policy.manifest=hpa.yaml" in text
    assert "2,000 draws" in text
    table = board.orders.simulation.table
    for driver, row in table.iterrows():
        assert driver in text
        assert f"{100 * row['unserved_share']:.2f} %" in text


def test_the_worst_series_come_first_and_at_most_fifty(without_figures, tmp_path):
    board = _board(_plain_names(53))
    write_report(board, CONTEXT, tmp_path, {})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = re.findall(r'<th class="name" scope="row">(w\d\d)</th>', page)
    scores = board.series_scores().sort_values("wape", ascending=False, kind="stable")
    assert shown == scores["workload"].tolist()[:50]
    assert "The table shows 50 of 53; scores.csv has all of them." in _text(tmp_path).replace(" ;", ";")


def test_without_intervals_the_page_says_so(without_figures, tmp_path):
    board = _board(intervals=False)
    write_report(board, CONTEXT, tmp_path, {})
    text = _text(tmp_path)
    assert "the artifact has no intervals" in text
    assert "The forecast is the point forecast over the next 5 min 15 s" in text


def test_without_a_simulation_the_page_says_why(without_figures, tmp_path):
    board = _board(capacity={"lead_time": 86_400})
    assert board.orders.simulation is None
    assert {"replicas", "cost"}.isdisjoint(figures(board))
    write_report(board, CONTEXT, tmp_path, {})
    assert "No table: no order takes effect within the judged span" in _text(tmp_path)


def test_scores_that_are_no_numbers_are_dashes(board, without_figures, tmp_path):
    scores = board.scores.copy()
    scores.iloc[:, 4:-1] = np.nan
    write_report(replace(board, scores=scores), CONTEXT, tmp_path, {})
    text = _text(tmp_path)
    assert "nan" not in text.split()
    assert "No interval was judged." in text
    assert len(figures(replace(board, scores=scores))["calibration"].axes) == 1


# Figures


def _lines(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def test_figures_are_there_where_there_is_something_to_show(board):
    assert [*figures(board)] == [*NAMES]
    lonely = figures(_board(_plain_names(1), horizon=1, intervals=False, span=Span(BEGIN, BEGIN + 12)))
    assert [*lonely] == ["forecasts", "baselines", "replicas", "cost", "age"]
    assert len(lonely["forecasts"].axes) == 1
    assert "age" not in figures(replace(board, ages=board.ages[:1]))
    silent = _panel(_plain_names(2))
    silent = replace(silent, values=np.zeros_like(silent.values))
    assert "baselines" not in figures(_board(panel=silent))


def test_the_best_the_median_and_the_worst_are_drawn():
    board = _board(_plain_names(6))
    scores = board.series_scores().sort_values("wape", ignore_index=True)
    titles = [axis.get_title(loc="left") for axis in figures(board)["forecasts"].axes]
    expected = [
        f"{place}: {scores['workload'][at]} m, WAPE {100 * scores['wape'][at]:.1f} %"
        for place, at in (("best", 0), ("median", 3), ("worst", 5))
    ]
    assert [title.replace("\N{NO-BREAK SPACE}", " ") for title in titles] == expected
    assert middle(board).wape == scores["wape"][3]


def test_a_series_with_few_targets_is_passed_over():
    panel = _panel(_plain_names(4))
    panel.observed[2, BEGIN + 4 :] = False
    board = _board(panel=panel)
    assert 2 in board.backtest.scored_series
    assert {series.row for series in notable(board)} == {0, 1, 3}


@pytest.mark.parametrize("stride", [1, 4])
def test_lines_are_the_forecasts_of_the_last_step_with_gaps(stride):
    panel = _panel(_plain_names(1), gaps=0.0)
    panel.observed[0, 240:260] = False
    board = _board(panel=panel, stride=stride)
    found = board.backtest
    (axis,) = figures(board)["forecasts"].axes
    lines = _lines(axis)
    line = lines["forecast made 3 h ahead"]
    seconds = line.get_xdata().astype("datetime64[s]").astype(np.int64)
    assert {*np.diff(seconds)} == {stride * 3600}
    drawn = {int(at): value for at, value in zip(seconds, line.get_ydata(), strict=True) if value == value}
    target = panel.timestamps[found.origin + 2]
    made = {int(at): value for at, value in zip(target, found.forecasts["kforecast"][:, -1], strict=True)}
    assert drawn == {at: value for at, value in made.items() if at >= seconds[0]}
    assert np.isnan(line.get_ydata()).any()
    actual = lines["actual"]
    hours = (actual.get_xdata().astype("datetime64[s]").astype(np.int64) - START) // 3600
    np.testing.assert_array_equal(np.isnan(actual.get_ydata()), ~panel.observed[0, hours])
    assert len(axis.collections) == 2  # one band per interval


def test_steps_are_those_of_the_scores(board):
    lines = _lines(figures(board)["steps"].axes[0])
    assert {*lines} == {*board.backtest.forecasts}
    for name, line in lines.items():
        np.testing.assert_array_equal(line.get_ydata(), board.step_scores(name)["wape"])


def test_pods_and_costs_are_those_of_the_simulation(board):
    simulation = board.orders.simulation
    drawn = figures(board)
    lines = _lines(drawn["replicas"].axes[0])
    names = [driver.name for driver in simulation.setting.drivers]
    for name in ("reactive", JUDGED):
        # Every bin has two edges.
        shown = lines[name].get_ydata()[::2]
        serving = simulation.bins.serving[:, names.index(name)]
        np.testing.assert_array_equal(shown, serving[-len(shown) :])
    (axis,) = drawn["cost"].axes
    table = simulation.table.sort_values("cost")
    assert [label.get_text() for label in axis.get_yticklabels()] == list(table.index)
    idle, unserved = (np.array([bar.get_width() for bar in bars]) for bars in axis.containers)
    np.testing.assert_allclose(idle, table["idle"])
    np.testing.assert_allclose(idle + unserved, table["cost"])


def test_calibration_is_counted_by_hand(board):
    found, panel = board.backtest, board.backtest.panel
    quantiles = found.quantiles_at(LEVELS)
    shares = []
    for row in range(panel.num_series):
        mine = found.series == row
        seen = found.observed[mine]
        shares.append((found.actual[mine][seen][:, None] <= quantiles[mine][seen]).mean(axis=0))
    np.testing.assert_allclose(reached(board), np.mean(shares, axis=0))


def test_names_are_one_short_line(board):
    assert short_name(board, 1) == "a new line, and a comma $x_1$ & 50 %"
    long = short_name(board, 2)
    assert len(long) < 70
    assert long.startswith("日本語")
    assert "…" in long


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (90, "1 min 30 s"), (600, "10 min"), (5400, "1 h 30 min"), (604_800, "7 d")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "write, value, text",
    [
        (percent, 0.0463, "4.6 %"),
        (percent, -12.0, "−1,200.0 %"),
        (percent, math.nan, "–"),
        (page_module._number, 1604.4, "1,604"),
        (page_module._number, 12.84, "12.8"),
        (page_module._number, 26.0, "26.0"),
        (page_module._number, -0.01234, "−0.0123"),
        (page_module._number, 0.0, "0.00"),
        (page_module._number, math.nan, "–"),
        (page_module._signed_percent, 0.188, "+18.8 %"),
        (page_module._hours, 3410.0, "56 h 50 min"),
        (page_module._hours, 120.0, "2 h"),
        (page_module._hours, 0.0, "0 min"),
    ],
)
def test_numbers_are_for_people(write, value, text):
    assert write(value).replace("\N{NO-BREAK SPACE}", " ") == text
