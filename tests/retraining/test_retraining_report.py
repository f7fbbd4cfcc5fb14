"""The report on a champion over time."""

from pathlib import Path
from typing import Any

import pytest

from kforecast.retraining.report import publish, summary
from kforecast.retraining.store import Cycle, Store
from test_artifact import make_artifact

pytestmark = pytest.mark.usefixtures("drawn")

TIMES = ("2026-01-05T03:17:00+00:00", "2026-01-12T03:17:00+00:00")
FIRST = {"decision": "first", "champion": 1, "candidate": 1, "candidate_wape": 0.05, "baseline_wape": 0.09}
BESIDE = {"candidate": 2, "champion_wape": 0.06, "baseline_wape": 0.09, "champion_wape_then": 0.05}
KEPT = BESIDE | {"decision": "kept", "champion": 1, "candidate_wape": 0.06, "skill": 0.0, "low": -0.1}
KEPT |= {"high": 0.1, "drift": 0.02}
PROMOTED = BESIDE | {"decision": "promoted", "champion": 2, "candidate_wape": 0.03, "skill": 0.5, "low": 0.4}
PROMOTED |= {"high": 0.6, "drift": 0.3}


def store_of(root: Path, *cycles: dict[str, Any]) -> Store:
    with Store(root / "shop").writing("a test") as store:
        for number, cycle in enumerate(cycles, start=1):
            make_artifact(number / 10).save(store.version(number))
            span = {"span_start": 7 * number * 86_400, "span_end": (7 * number + 3) * 86_400}
            store.decide(Cycle(time=TIMES[number - 1], **(span | cycle)), (), keep=5)
    return store


@pytest.mark.parametrize(
    ("newest", "words"),
    [
        ({}, "Version 1 is the first champion."),
        (KEPT, "Version 1 stays the champion: the candidate is not better beyond doubt."),
        (
            KEPT | {"drift": 0.25},
            "with drift: relative to the best baseline its error is 25\N{NO-BREAK SPACE}% larger",
        ),
        (
            KEPT
            | {"low": 0.7, "drift": 15.0, "reason": "gate not passed (gate.champion=a/b): it is a counter"},
            "Version 1 stays the champion; the candidate must not serve: it is a counter.",
        ),
        (PROMOTED, "Version 2 is the new champion: its error is 50.0\N{NO-BREAK SPACE}% lower"),
        (
            PROMOTED | {"baseline_wape": 0.02},
            "Do not scale on it for now: its error on the newest span, 3.0\N{NO-BREAK SPACE}%, is higher",
        ),
        (KEPT | {"baseline_wape": 0.02}, "Do not scale on it for now: its error on the newest span, 6.0"),
    ],
)
def test_the_verdict(newest: dict[str, Any], words: str, tmp_path: Path) -> None:
    store = store_of(tmp_path, FIRST, *([newest] if newest else []))
    assert words in summary(store).replace("\n", " ")
    assert words in publish(store).read_text(encoding="utf-8")


def test_without_a_champion(tmp_path: Path) -> None:
    store = store_of(
        tmp_path, FIRST | {"decision": "rejected", "champion": None, "reason": "gate not passed"}
    )
    assert "No champion yet. Gate not passed." in summary(store)
    assert "serves" not in summary(store)
    assert summary(store).endswith(f"  report  {tmp_path / 'shop' / 'report.html'}")
    page = publish(store).read_text(encoding="utf-8")
    assert "1 cycle<" in page
    assert "<svg" not in page


def test_the_page_shows_every_cycle_and_loads_nothing(tmp_path: Path) -> None:
    page = publish(store_of(tmp_path, FIRST, KEPT | {"reason": "<b>reason</b>", "low": None})).read_text(
        encoding="utf-8"
    )
    assert page.count("<svg") == 1
    assert page.index("2026-01-12 03:17") < page.index("2026-01-05 03:17")  # newest first
    assert "&lt;b&gt;reason" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
