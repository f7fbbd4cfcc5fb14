"""The file of known events: what it says, and what is wrong with it."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kforecast.data.events.known import KnownEvent, KnownEvents
from kforecast.errors import ConfigError

NOON = 1_704_110_400  # 2024-01-01 12:00 UTC
TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12).filter(
    lambda text: not text.startswith("#") and text.casefold() != "incident"
)


def read(folder: Path, text: str, zone: str | None = None) -> KnownEvents:
    file = folder / "events.csv"
    file.write_text(text, encoding="utf-8")
    return KnownEvents.read(file, zone)


def problems(folder: Path, text: str, zone: str | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        read(folder, text, zone)
    return str(error.value)


@st.composite
def rows(draw: st.DrawFn) -> KnownEvent:
    begin = draw(st.integers(NOON, NOON + 10**7))
    incident = draw(st.booleans())
    return KnownEvent(
        begin,
        begin + draw(st.integers(1, 10**5)),
        draw(TEXTS),
        draw(TEXTS),
        None if incident else draw(st.sampled_from([None, 0.5, 3.0])),
        incident,
        draw(st.just("") | TEXTS),
        draw(st.just("") | TEXTS),
    )


@given(found=st.lists(rows(), min_size=1, max_size=5, unique_by=lambda row: row.name))
def test_what_is_written_is_read_again(
    found: list[KnownEvent], tmp_path_factory: pytest.TempPathFactory
) -> None:
    known = KnownEvents(()).and_those(found)
    folder = tmp_path_factory.mktemp("events")
    assert read(folder, known.to_csv()).rows == known.rows


@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused_in_words(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("events")
    with suppress(ConfigError):
        read(folder, "start,end,workload,name\n" + text)


def test_times_are_seconds_or_iso_8601(tmp_path: Path) -> None:
    known = read(
        tmp_path,
        "# promotions of the shop\n"
        "start,end,workload,name,factor\n"
        f"{NOON},{NOON + 3600},shop/web,sale,2.5\n"
        "2024-01-02T12:00Z,2024-01-02T14:00+01:00,*,sale\n"
        "\n"
        "2024-01-03 12:00Z,2024-01-03T13:00:00Z,shop/web,incident,\n",
    )
    first, second, third = known.rows
    assert first == KnownEvent(NOON, NOON + 3600, "shop/web", "sale", 2.5)
    assert second == KnownEvent(NOON + 86_400, NOON + 90_000, "*", "sale")
    assert third.incident
    assert known.events == (first, second)


def test_local_times_need_a_zone(tmp_path: Path) -> None:
    text = "start,end,workload,name\n2024-01-01T13:00,2024-01-01T14:00,*,sale\n"
    assert "line 2: start is 2024-01-01 13:00:00, without a time zone; give times with" in problems(
        tmp_path, text
    )
    (row,) = read(tmp_path, text, "Europe/Berlin").rows
    assert (row.begin, row.end) == (NOON, NOON + 3600)
    twice = "start,end,workload,name\n2024-10-27T02:30,2024-10-27T04:00,*,sale\n"
    assert "showed twice" in problems(tmp_path, twice, "Europe/Berlin")


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    said = problems(
        tmp_path,
        "start,end,workload,name,factor,kind\n"
        f"{NOON},{NOON},shop/web,sale,2,\n"
        f"yesterday,{NOON},shop/web,sale,-1,\n"
        f"{NOON},{NOON + 1},,,2_0,party\n"
        f"{NOON},{NOON + 1},shop/web,broken,2,incident\n"
        f"{NOON * 1000},{NOON * 1000 + 1},shop/web,sale,,\n",
    )
    for line, words in (
        (2, "not after its start"),
        (3, "start is 'yesterday', not a number or a date"),
        (3, "factor is -1; it must be between 0.01 and 100"),
        (4, "no workload"),
        (4, "no name"),
        (4, "factor is '2_0', not a number"),
        (4, "kind is 'party'; use event or incident"),
        (5, "an incident has no factor"),
        (6, "look like milliseconds"),
    ):
        assert any(f"line {line}: " in row and words in row for row in said.splitlines()), (line, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty; its first line names the columns: start,end,workload,name,factor"),
        ("start,end,workload\n", "no column name"),
        ("start,end,workload,name,factr\n", "unknown column 'factr'; did you mean factor?"),
        ("start,end,workload,name,name\n", "two columns name"),
        (f"start,end,workload,name\n{NOON},{NOON + 1},a,b,c\n", "line 2: 5 cells, but 4 columns"),
    ],
)
def test_a_wrong_head_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in problems(tmp_path, text)


def test_an_event_counts_once(tmp_path: Path) -> None:
    head = "start,end,workload,name\n"
    whole, part = f"{NOON},{NOON + 7200},*,sale\n", f"{NOON + 3600},{NOON + 9000},shop/web,sale\n"
    assert "line 3: 'sale' overlaps line 2" in problems(tmp_path, head + whole + part)
    read(tmp_path, head + whole + part.replace("sale", "advert"))
    read(tmp_path, head + whole.replace("sale", "incident") + part.replace("sale", "incident"))


def test_events_of_other_workloads_and_metrics_do_not_overlap(tmp_path: Path) -> None:
    head, times = "start,end,workload,name,metric\n", f"{NOON},{NOON + 7200}"
    apart = [f"{times},web{number},sale,{metric}\n" for number in range(2_000) for metric in ("qps", "cpu")]
    read(tmp_path, head + "".join(apart))
    assert "line 4002: 'sale' overlaps" in problems(tmp_path, head + "".join(apart) + f"{times},web7,sale,\n")
    assert "line 4002: 'sale' overlaps" in problems(tmp_path, head + "".join(apart) + f"{times},*,sale,cpu\n")
    assert "line 3: 'sale' overlaps line 2" in problems(
        tmp_path, head + f"{times},*,sale,cpu\n" + f"{times},web,sale,cpu\n" + f"{times},web,sale,qps\n"
    )


def test_the_first_wrong_time_of_a_long_file_is_named(tmp_path: Path) -> None:
    long = f"{NOON},{NOON + 1},web,x\n" * 2000 + f"{NOON},never,web,x\n" * 50_000
    said = problems(tmp_path, "start,end,workload,name\n" + long)
    assert said.endswith(
        "line 2002: end is 'never', not a number or a date; write ISO 8601 like "
        "2024-01-31T10:00:00Z, or unix seconds"
    )


@pytest.mark.parametrize("times", ["-1,2000000000", "1700000000,1e30", "0001-01-01T00:00Z,2024-01-01T00:00Z"])
def test_times_that_no_panel_can_hold_are_refused(tmp_path: Path, times: str) -> None:
    said = problems(tmp_path, f"start,end,workload,name\n{times},web,sale\n")
    assert "must be between the years 1970 and 9999" in said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.events: .*none\.csv: cannot be read"):
        KnownEvents.read(tmp_path / "none.csv")
