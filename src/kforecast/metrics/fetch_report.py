"""The report of a fetch: its lines on the console, and its part of ``report.json``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kforecast.errors import few
from kforecast.metrics.timerange import utc

# Up to this many metrics, each has a line of its own.
MOST_LINES = 20


@dataclass
class QuestionReport:
    """The answer to one question: counts, and in ``labels`` the labels of each series in it.

    ``problem`` says why a question failed where others go on.
    """

    workload: str
    metric: str
    points: int = 0
    nan: int = 0
    requests: int = 0
    retries: int = 0
    labels: list[dict[str, str]] = field(default_factory=list)
    problem: str = ""


@dataclass
class FetchReport:
    """The answers to all questions of a fetch, and how long it took (seconds)."""

    source: str
    start: int
    end: int
    step: int
    on_multiple: str
    seconds: float = 0.0
    questions: list[QuestionReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def empty(self) -> list[QuestionReport]:
        """The questions whose answer has no value."""
        return [question for question in self.questions if question.points == question.nan]

    @property
    def multiple(self) -> list[QuestionReport]:
        """The questions whose answer has several series."""
        return [question for question in self.questions if len(question.labels) > 1]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return asdict(self)

    def summary(self) -> list[str]:
        """The lines for the console."""
        points = sum(question.points for question in self.questions)
        requests = sum(question.requests for question in self.questions)
        retries = sum(question.retries for question in self.questions)
        lines = [
            f"Fetched {points:,} points of {len(self.questions):,} metrics, {utc(self.start)} to "
            f"{utc(self.end)} every {self.step} s, in {self.seconds:.1f} s ({requests:,} requests, "
            f"{retries:,} retried)"
        ]
        if self.multiple:
            done = {"sum": "summed", "mean": "averaged"}[self.on_multiple]
            lines.append(
                f"{len(self.multiple):,} of {len(self.questions):,} answers had several series, which were "
                f"{done} (source.on_multiple={self.on_multiple}):"
            )
            for question in self.multiple[:MOST_LINES]:
                labels = few([labels_text(labels) for labels in question.labels])
                lines.append(
                    f"  {question.workload} {question.metric}: {len(question.labels):,} series {labels}"
                )
            if len(self.multiple) > MOST_LINES:
                lines.append(f"  ... and {len(self.multiple) - MOST_LINES:,} more")
        return lines


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as text, for messages."""
    return "{" + ", ".join(f"{name}={value}" for name, value in labels.items()) + "}"
