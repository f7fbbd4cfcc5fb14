"""The page for people: what it says in each state, names of any kind, paging, search and drawings."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from statistics import NormalDist
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kforecast.errors import SourceError
from kforecast.pages.colours import COLOURS
from kforecast.serving.board import AskDefaults, Board
from kforecast.serving.page import ROWS, page
from kforecast.serving.snapshot import AskError, Snapshot, UnknownSeriesError

STEP, BINS, HORIZON = 600, 144, 6
ORIGIN = 1_700_000_400  # 2023-11-14 22:20:00
NOW = ORIGIN + 190.0


def snapshot(series: Sequence[tuple[str, str]] = (("shop", "qps"),), seed: int = 0) -> Snapshot:
    """The forecast of row ``r`` is ``100 r + 10, 100 r + 11 ...``; its newest value is ``100 r + 5``."""
    rng, count = np.random.default_rng(seed), len(series)
    base = 100.0 * np.arange(count)[:, None]
    values = (base + 10 + np.arange(HORIZON)).astype(np.float32)
    observed = base + rng.uniform(1, 9, (count, BINS))
    observed[:, -1] = base[:, 0] + 5

    def quantiles_of(levels: Sequence[float]) -> np.ndarray:
        z = np.array([NormalDist().inv_cdf(level) for level in levels])
        return np.asarray(values[..., None] + z, np.float32)

    return Snapshot(
        series=tuple(series),
        starts=ORIGIN + STEP * np.arange(HORIZON + 1),
        values=values,
        observed=observed[:, -1],
        observed_end=np.full(count, ORIGIN),
        missing={},
        notes={},
        artifact="0123456789abcdef" * 4,
        quantiles_of=quantiles_of,
        past=(ORIGIN - STEP * np.arange(BINS, 0, -1), observed, observed + 1),
    )


def board(of: Snapshot | None, now: float = NOW, **values: Any) -> Board:
    return Board(**{"clock": lambda: now, "snapshot": of, "reason": "", **values})


def many(count: int) -> tuple[tuple[str, str], ...]:
    return tuple((f"service-{number:04d}", "qps") for number in range(count))


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps all tags, their attributes and all text."""

    EMPTY = ("meta", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("th", "td"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "svg" not in self.open and {"th", "td"} & {*self.open}:
            self.cells[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def links(self) -> dict[str, dict[str, list[str]]]:
        """Query of each link, by the link."""
        found = [str(attributes["href"]) for tag, attributes in self.tags if tag == "a"]
        return {link: parse_qs(urlsplit(link).query, keep_blank_values=True) for link in found}

    def rows(self) -> dict[str, list[str]]:
        """Cells of the table, by the first one; without the head."""
        return {cells[0]: cells[1:] for cells in self.cells[1:]}


def says(text: str) -> str:
    """The visible text of a page, without its style sheet."""
    return Reader(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)).text


def drawings(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)]


def paths(drawing: ElementTree.Element) -> dict[str, str]:
    return {path.attrib["class"]: path.attrib["d"] for path in drawing.iter("path")}


# States


def test_before_the_first_forecast_it_says_why_and_what_to_do() -> None:
    starting = says(page(Board(clock=lambda: NOW)))
    assert "Not ready: starting: no history has been read yet." in starting
    assert "This page asks again" in starting
    assert 'http-equiv="refresh"' in page(Board(clock=lambda: NOW))
    failing = Board(clock=lambda: NOW)
    failing.failed("fetch", SourceError("http://metrics:9090 refused the connection"))
    said = says(page(failing, workload="any", metric="any"))
    assert "Not ready: fetch: http://metrics:9090 refused the connection." in said
    assert "Check that the source runs" in said
    assert "Failures so far: fetch 1." in said


def test_a_ready_server_shows_its_state() -> None:
    of = board(snapshot(many(3)), fetches=[1_200.0, 9.0, 0.25], forecasts=[7.0, 1.0, 0.5])
    text = page(of)
    said = says(text)
    assert "At 2023-11-14 22:23:10. All times are UTC." in said
    assert "Ready: 3 of 3 series have a number to scale on." in said
    assert "2023-11-14 22:20:00 3.2 min ago; its last bin ends 2023-11-14 23:20:00" in said
    assert "0123456789ab the beginning" in said
    assert "Failures by cause none" in said
    assert "1,200 and 7 the newest took 0.25 s and 0.50 s" in said
    assert 'class="verdict good"' in text
    assert "refresh" not in text


def test_a_failure_after_the_first_forecast_is_a_doubt() -> None:
    of = board(snapshot(), refused_artifact="model/meta.json: not JSON")
    of.failed("fetch", SourceError("connection refused"))
    text = page(of)
    assert 'class="verdict unsure"' in text
    said = says(text)
    assert "A newer forecast could not be made: fetch: connection refused." in said
    assert "A new artifact was refused, and the earlier one serves: model/meta.json: not JSON." in said
    assert "Failures by cause fetch 1" in said


def test_the_table_shows_the_number_that_programs_get() -> None:
    of = board(snapshot(many(3)))
    of.snapshot.notes[1] = "a guess"  # type: ignore[union-attr]
    for defaults in (AskDefaults(), AskDefaults("forecast", None, 0.0), AskDefaults(quantile=0.01, window=0)):
        of.defaults = defaults
        rows = Reader(page(of)).rows()
        for workload, metric in many(3):
            newest, value, highest, _, note = rows[f"{workload} {metric}"]
            number = 100 * int(workload[-1])
            assert newest == f"{number + 5}2023-11-14 22:20:00, 3.2 min ago"
            assert float(value) == pytest.approx(of.ask(workload, metric).value, rel=1e-3)
            assert highest == f"{number + 15}"
            assert note == ("a guess" if number == 100 else "")


def test_a_series_without_a_number_is_first_and_says_why() -> None:
    past = snapshot(many(4))
    past.observed_end[2] = ORIGIN - 2 * 86_400
    past.observed_end[3], past.observed[3] = 0, np.nan
    past.missing[3] = "no value is known"
    of = board(past)
    text = page(of)
    assert "Ready: 2 of 4 series" in says(text)
    assert 'class="verdict unsure"' in text
    rows = Reader(text).rows()
    assert list(rows) == [f"service-{number:04d} qps" for number in (2, 3, 0, 1)]
    stale = "stale: the newest value is 2 d old, more than the horizon of 60 min"
    assert rows["service-0002 qps"][1:] == ["–", "–", "", stale]
    assert rows["service-0003 qps"] == ["none", "–", "–", "", "no value is known"]
    assert [{*paths(drawing)} for drawing in drawings(text)] == [{"observed"}] * 2 + [
        {"observed", "forecast"}
    ] * 2

    alone = page(of, workload="service-0002", metric="qps")
    assert f"There is no number to scale on: {stale}." in says(alone)
    assert "Number to scale on now" not in alone
    assert {*paths(drawings(alone)[0])} == {"observed", "earlier"}
    assert "<table" not in alone


@pytest.mark.parametrize("now", [ORIGIN - 1.0, ORIGIN + 3600.0, ORIGIN + 1e6])
def test_no_number_is_shown_at_another_time(now: float) -> None:
    of = board(snapshot(many(2)), now)
    text = page(of)
    assert "Ready, but no series has a number to scale on." in says(text)
    assert 'class="verdict bad"' in text
    for cells in Reader(text).rows().values():
        assert cells[1:4] == ["–", "–", ""]
        assert cells[4]
    alone = page(of, workload="service-0001", metric="qps")
    assert "There is no number to scale on" in alone
    assert "forecast" not in paths(drawings(alone)[0])


# One series


def test_one_series_shows_its_forecast_step_by_step() -> None:
    of = board(snapshot(many(2)), ORIGIN + 650.0)
    text = page(of, workload="service-0001", metric="qps")
    reader = Reader(text)
    assert reader.cells[0] == [
        "bin begins (UTC)",
        "lead",
        "point forecast",
        *(f"quantile {level}" for level in (0.05, 0.5, 0.9, 0.95)),
    ]
    rows = reader.rows()
    assert len(rows) == HORIZON - 1, "the first bin is over"
    assert rows["2023-11-14 22:30:00"] == ["under way", "111", "109.4", "111", "112.3", "112.6"]
    assert rows["2023-11-14 22:40:00"][:2] == ["9.2 min", "112"]
    said = says(text)
    answer = of.ask("service-0001", "qps").value
    assert f"Number to scale on now {answer:.4g} the highest forecast at quantile 0.9 until 2023" in said
    assert "Newest observation 105 2023-11-14 22:20:00, 10.8 min ago" in said
    assert "Over 144 past bins, the forecasts made when each bin began were off by 0.9%" in said
    assert reader.links["forecast?workload=service-0001&metric=qps"]
    assert {"metrics", "healthz", "readyz", "openapi.json"} <= {*reader.links}


def test_the_number_says_when_the_newest_observation_is_higher() -> None:
    past = snapshot()
    past.observed[0] = 1234.0
    said = says(page(board(past), workload="shop", metric="qps"))
    assert "1,234 the newest observation; the highest forecast at quantile 0.9 until 2023" in said


def test_an_artifact_without_intervals_has_no_quantiles() -> None:
    of = board(replace(snapshot(), quantiles_of=None), defaults=AskDefaults(quantile=None))
    text = page(of, workload="shop", metric="qps")
    assert Reader(text).cells[0] == ["bin begins (UTC)", "lead", "point forecast"]
    assert "no calibrated intervals" in text
    assert {*paths(drawings(text)[0])} == {"observed", "earlier", "forecast"}
    assert "the highest point forecast until" in text


def test_the_drawing_marks_the_moment() -> None:
    # The day before the origin and an hour after it, from 72 to 972.
    (drawing,) = drawings(page(board(snapshot(), ORIGIN + 1800.0), workload="shop", metric="qps"))
    (mark,) = (line for line in drawing.iter("line") if line.attrib["class"] == "now")
    assert float(mark.attrib["x1"]) == pytest.approx(72 + 900 * 24.5 / 25, abs=0.1)
    times = {str(label.text): float(label.attrib["x"]) for label in drawing.iter("text")}
    assert times["14 Nov"] == times["00:00"] == pytest.approx(72 + 900 * (5 / 3) / 25, abs=0.1)


def test_questions_without_an_answer_are_refused() -> None:
    with pytest.raises(AskError, match="workload and metric"):
        page(board(snapshot()), workload="shop")
    with pytest.raises(UnknownSeriesError, match="known: shop qps"):
        page(board(snapshot()), workload="shop", metric="other")


# Drawings

amounts = st.one_of(st.just(np.nan), st.floats(-1e12, 1e12), st.floats(0, 1e-6))


@given(
    past=st.lists(st.tuples(amounts, amounts), max_size=30),
    forecast=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=8),
    step=st.sampled_from([10, 60, 600, 3600, 86_400]),
    share=st.floats(0, 0.99),
)
def test_drawings_lie_inside_their_boxes(
    past: list[tuple[float, float]], forecast: list[float], step: int, share: float
) -> None:
    count, values = len(past), np.array([forecast], np.float32)
    observed, earlier = np.array(past).reshape(count, 2).T.reshape(2, 1, count)
    of = replace(
        snapshot(),
        starts=ORIGIN + step * np.arange(len(forecast) + 1),
        values=values,
        past=(ORIGIN - step * np.arange(count, 0, -1), observed, earlier),
        quantiles_of=lambda levels: values[..., None] * (1 + 1e3 * np.array(levels)),
    )
    now = ORIGIN + share * step
    for text in (page(board(of, now)), page(board(of, now), workload="shop", metric="qps")):
        (drawing,) = drawings(text)
        _, _, width, height = map(float, drawing.attrib["viewBox"].split())
        known = np.isfinite(observed[0])
        for kind, path in paths(drawing).items():
            commands = re.findall(r"([MHVZ])([-0-9.e]*) ?([-0-9.e]*)", path)
            assert "".join("".join(one) for one in commands) == path.replace(" ", "")
            across = [float(first) for name, first, _ in commands if name in "MH"]
            down = [float(second or first) for name, first, second in commands if name in "MV"]
            assert all(0 <= x <= width for x in across)
            assert all(0 <= y <= height for y in down)
            if kind == "observed":
                # A piece begins wherever a value follows a gap, and each value has its level.
                assert path.count("M") == (known & ~np.append(False, known[:-1])[: len(known)]).sum()
                assert len(down) == known.sum()
            if kind == "forecast":
                assert len(down) == len(forecast)
        for label in drawing.iter("text"):
            assert label.text
            assert 0 <= float(label.attrib["x"]) <= width
            assert 0 <= float(label.attrib["y"]) <= height


def test_a_gap_breaks_the_line_and_a_peak_stays() -> None:
    past = snapshot()
    observed = np.ones((1, 1440))
    observed[0, 700] = 50.0
    observed[0, 1000:1200] = np.nan
    begins = ORIGIN - 60 * np.arange(1440, 0, -1)
    of = board(replace(past, past=(begins, observed, np.full_like(observed, np.nan))))
    (small,) = drawings(page(of))
    path = paths(small)["observed"]
    assert path.count("M") == 2
    assert len(path) < 1200, "as many steps as the small drawing can show"
    (large,) = drawings(page(of, workload="shop", metric="qps"))
    assert paths(large)["observed"].count("M") == 2
    tops = [
        min(float(level) for level in re.findall(r"V([0-9.]+)", one))
        for one in (path, paths(large)["observed"])
    ]
    assert tops[0] <= 5  # of 36
    assert "earlier" not in paths(large)


def test_colours_follow_the_page_in_both_modes() -> None:
    text = page(board(snapshot()), workload="shop", metric="qps")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "prefers-color-scheme: dark" in style
    known = {f"--{name}" for name in COLOURS} | set(re.findall(r"(--[a-z-]+):", style))
    assert set(re.findall(r"var\((--[a-z-]+)\)", text)) <= known
    for drawing in drawings(text):
        assert not any("#" in value for part in drawing.iter() for value in part.attrib.values())
        assert drawing.attrib["role"] == "img"
        assert drawing.find("title") is not None


# Names


@given(
    names=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5, unique=True),
    search=st.text(max_size=3),
    reason=st.text(),
)
def test_names_of_any_kind_are_text_and_their_links_lead_to_them(
    names: list[tuple[str, str]], search: str, reason: str
) -> None:
    of = board(snapshot(names), reason=reason)
    plain = {tag for tag, _ in Reader(page(board(snapshot(many(2))))).tags} | {"input"}
    text = page(of)
    reader = Reader(text)
    assert {tag for tag, _ in reader.tags} <= plain
    queries = [query for link, query in reader.links.items() if link.startswith("?")]
    assert {(query["workload"][0], query["metric"][0]) for query in queries} == {*names}
    found = [query for link, query in Reader(page(of, search=search)).links.items() if "workload" in query]
    expected = [pair for pair in names if search.casefold() in " ".join(pair).casefold()]
    assert sorted((query["workload"][0], query["metric"][0]) for query in found) == sorted(expected)
    for workload, metric in names:
        alone = Reader(page(of, workload=workload, metric=metric))
        query = next(query for link, query in alone.links.items() if link.startswith("forecast?"))
        assert query == {"workload": [workload], "metric": [metric]}


def test_hostile_names_do_nothing() -> None:
    names = (
        ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'),
        ("{{ 7 * 7 }}", "a&b=c#d?e/../f"),
        ("\x1b[2J\0\u202e", "javascript:alert(1)"),
        ("x" * 5000, "命名"),
        ("half \ud800", "qps"),
    )
    of = board(snapshot(names), reason="fetch: <b>no</b>", refused_artifact="<i>")
    assert "{{ 7 * 7 }} a&b=c#d?e/../f" in says(page(of))
    for text in (
        page(of, search='"<x>'),
        page(of),
        *(page(of, workload=one, metric=two) for one, two in names),
    ):
        assert text.encode()
        for part in ("<script", "<img", "<b>no", "<i>", "<x>", "\x1b", "\0", "\u202e"):
            assert part not in text
        reader = Reader(text)
        for tag, attributes in reader.tags:
            assert not any(name.startswith("on") for name in attributes), tag
        assert all(
            re.match(r"(\./$|\?|forecast\?|metrics$|healthz$|readyz$|openapi\.json$)", link)
            for link in reader.links
        )


def test_nothing_is_loaded_from_anywhere() -> None:
    of = board(snapshot(many(120)))
    for text in (page(of), page(of, workload="service-0001", metric="qps"), page(Board())):
        reader = Reader(text)
        assert not {tag for tag, _ in reader.tags} & {"script", "link", "img", "iframe", "image", "object"}
        for tag, attributes in reader.tags:
            for name, value in attributes.items():
                assert name.startswith("xmlns") or "//" not in (value or ""), (tag, name)
                assert name != "src"
        style = text[text.index("<style>") : text.index("</style>")]
        assert "url(" not in style
        assert "@import" not in style
        assert "default-src 'none'" in text


# Pages and search


def test_all_series_are_on_some_page_once() -> None:
    of = board(snapshot(many(2 * ROWS + 7)))
    text, seen, turns = page(of), list[str](), 0
    while True:
        rows = Reader(text).rows()
        assert len(rows) <= ROWS
        seen += rows
        after = next((q for tag, q in Reader(text).tags if q.get("rel") == "next"), None)
        if after is None:
            break
        query = parse_qs(urlsplit(str(after["href"])).query)
        text, turns = page(of, first=int(query["first"][0])), turns + 1
    assert turns == 2
    assert seen == [f"{workload} {metric}" for workload, metric in many(2 * ROWS + 7)]
    before = next(q for tag, q in Reader(text).tags if q.get("rel") == "prev")
    assert before["href"] == f"?first={ROWS}"
    assert f"{2 * ROWS + 1} to {2 * ROWS + 7} of {2 * ROWS + 7}" in says(text)


def test_a_full_last_page_has_no_next_page() -> None:
    of = board(snapshot(many(2 * ROWS)))
    assert 'rel="next"' in page(of)
    assert 'rel="next"' not in page(of, first=ROWS)
    assert 'rel="prev"' not in page(of)


@pytest.mark.parametrize("first", [-5, 107, 10**12])
def test_a_page_that_does_not_exist_is_the_nearest_one(first: int) -> None:
    of = board(snapshot(many(107)))
    assert page(of, first=first) == page(of, first=0 if first < 0 else 100)


def test_search_finds_parts_of_names_and_keeps_its_words_on_the_next_page() -> None:
    of = board(snapshot((*many(60), ("Other & more", "CPU"))))
    text = page(of, search="SERVICE")
    assert f"1 to {ROWS} of 60 that match" in says(text)
    after = next(q["href"] for tag, q in Reader(text).tags if q.get("rel") == "next")
    assert parse_qs(urlsplit(str(after)).query) == {"search": ["SERVICE"], "first": [str(ROWS)]}
    assert list(Reader(page(of, search="& MORE cpu")).rows()) == ["Other & more CPU"]
    field = next(q for tag, q in Reader(page(of, search='a"b')).tags if tag == "input")
    assert field["value"] == 'a"b'
    assert "No series matches." in page(of, search='a"b')


def test_the_page_is_of_one_moment_and_one_snapshot() -> None:
    later = snapshot((("other", "qps"),))
    of = board(snapshot(many(3)))

    def clock() -> float:
        of.snapshot = later
        return NOW

    of.clock = clock
    rows = Reader(page(of)).rows()
    assert list(rows) == ["other qps"]
    moments = iter([NOW])
    of.clock = lambda: next(moments)
    page(of)
