"""Comparison of a candidate with the champion, the artifact that serves today, and the champion's drift."""

import math
from dataclasses import dataclass
from typing import Any

from kforecast.artifact import Artifact
from kforecast.evaluation.backtest import Backtest
from kforecast.evaluation.skill import Skill, skill, wapes
from kforecast.files.untrusted import finite, inside
from kforecast.predictor import Predictor

CHAMPION = "champion"
# A champion has drifted when the ratio of its error to the best baseline's has grown by more than this share.
DRIFTED = 0.1


@dataclass(frozen=True)
class Champion:
    """The artifact that serves today, and its scores at the time of its training.

    Attributes
    ----------
    predictor:
        Its network, ready to forecast.
    wape, baseline_wape:
        Errors of the champion and of the best baseline on the test span of its own training; NaN if its
        metadata lacks them.
    used_until:
        Unix seconds at which the data used by its training ends; None if unknown.
    """

    predictor: Predictor
    wape: float = math.nan
    baseline_wape: float = math.nan
    used_until: int | None = None

    @classmethod
    def of(cls, artifact: Artifact, name: str) -> "Champion":
        """The champion in an artifact.

        Raises
        ------
        ArtifactError
            See :meth:`kforecast.predictor.Predictor.of`.
        """
        board = inside(artifact.metadata, "scores", "scoreboard")
        best = inside(board, "skill", "best_baseline")
        return cls(
            Predictor.of(artifact, name),
            _number(inside(board, "overall", "wape")),
            _number(inside(board, "baselines", best, "wape")),
            artifact.training_span[1],
        )


@dataclass(frozen=True)
class Comparison:
    """A candidate compared with the champion on the same span.

    Attributes
    ----------
    skill:
        Skill of the candidate over the champion: ``1 - WAPE / WAPE of the champion``, with its interval.
    strangers:
        Number of series that the champion does not know; the last value replaces its forecasts of them.
    wape, relative:
        The champion's error on the judged span, and its ratio to the best baseline's.
    wape_then, relative_then:
        The same on the test span of its own training; NaN if unknown.
    has_seen:
        Whether the champion was trained on a part of the judged span.
    """

    skill: Skill
    strangers: int
    wape: float
    relative: float
    wape_then: float
    relative_then: float
    has_seen: bool

    @property
    def drift(self) -> float:
        """Relative growth, since the champion's training, of the ratio of its error to the best baseline's.

        The ratio is used because some weeks are hard to forecast for every model. NaN if unknown.
        """
        return _over(self.relative, self.relative_then) - 1

    @property
    def drifted(self) -> bool:
        """Whether the drift is more than a tenth."""
        return bool(self.drift > DRIFTED)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain values; NaN is kept."""
        return {
            "skill": {"value": self.skill.value, "low": self.skill.low, "high": self.skill.high},
            "strangers": self.strangers,
            "wape": self.wape,
            "relative": self.relative,
            "wape_then": self.wape_then,
            "relative_then": self.relative_then,
            "drift": self.drift,
            "drifted": self.drifted,
            "has_seen": self.has_seen,
        }


def compare(found: Backtest, champion: Champion, best_baseline: str, seed: int) -> Comparison:
    """Compare the judged model of a backtest with the champion, whose forecasts are in it as ``CHAMPION``."""
    error = wapes(found)
    begins = found.panel.seconds(found.begin)
    return Comparison(
        skill=skill(found, seed, (CHAMPION,)),
        strangers=len(champion.predictor.unknown(found.panel.series)),
        wape=error[CHAMPION],
        relative=_over(error[CHAMPION], error[best_baseline]),
        wape_then=champion.wape,
        relative_then=_over(champion.wape, champion.baseline_wape),
        has_seen=champion.used_until is not None and champion.used_until > begins,
    )


def comparison_words(found: Comparison) -> list[str]:
    """The comparison in sentences: which model is better, the champion's drift, and caveats."""
    over, sure = found.skill, ""
    if math.isnan(over.value):
        words = "No comparison with the champion: there was no traffic to forecast."
    else:
        compared = f"its error is {abs(over.value):.1%} {'lower' if over.value > 0 else 'higher'}"
        if math.isnan(over.low):
            sure = ", but the span is too short to tell that from chance"
        else:
            sure = f"; 95% interval {over.low:.1%} to {over.high:.1%}"
        if over.low > 0:
            head = "Better than the champion"
        elif over.high < 0:
            head = "Worse than the champion"
        else:
            head = "Not better than the champion beyond chance"
        words = f"{head}: {compared}{sure}."
    return [words, _drift_words(found), *_notes(found)]


def _drift_words(found: Comparison) -> str:
    """The champion's error now and at its training."""
    if math.isnan(found.drift):
        return f"Champion: WAPE {found.wape:.2%} here; its WAPE at training is not known."
    verdict = f"it has drifted by {found.drift:.0%}" if found.drifted else "no drift"
    return (
        f"Champion: WAPE {found.wape_then:.2%} when it was trained, {found.wape:.2%} here; relative to the "
        f"best baseline {found.relative_then:.2f} then, {found.relative:.2f} now: {verdict}."
    )


def _notes(found: Comparison) -> list[str]:
    said = []
    if found.strangers:
        said.append(
            f"The champion does not know {found.strangers:,} series: the last value stands in for it."
        )
    if found.has_seen:
        said.append("The champion was trained on a part of this span, which flatters it.")
    return said


def _over(value: float, other: float) -> float:
    return value / other if other > 0 else math.nan


def _number(value: Any) -> float:
    found = finite(value)
    return math.nan if found is None else found
