"""Fetching from a server: many questions at one clock, in chunks, bounded, retried, merged.

What is asked and how is the source's own; it hands in a way to ask. All that makes a fetch exact and
dependable is here, once for every protocol.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Annotated, Generic, Literal, TypeVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from kforecast.errors import SourceError, few
from kforecast.metrics.fetch_report import MOST_LINES, FetchReport, QuestionReport, labels_text
from kforecast.metrics.source import check_frame
from kforecast.metrics.timerange import MOST_POINTS, TimeRange, utc
from kforecast.window import parse_instant

log = logging.getLogger(__name__)

# Seconds from a first attempt to the second; it doubles from there.
FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0

_NOTHING = (np.empty(0, np.int64), np.empty(0))

Asked = TypeVar("Asked")


class PassingError(Exception):
    """A failure that may be gone at the next attempt."""


class TooLargeError(Exception):
    """An answer above the limit of what is received: half the range has half of it."""


@dataclass(frozen=True)
class Series:
    """One series of an answer.

    Attributes
    ----------
    labels:
        What tells it from the others.
    timestamps:
        Unix seconds, ``[points]``.
    values:
        float64 ``[points]``; NaN where the server knows none.
    """

    labels: Mapping[str, str]
    timestamps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Question(Generic[Asked]):
    """What one series of ours is made of.

    Attributes
    ----------
    workload, metric:
        The series' identity.
    words:
        How messages describe the query: type, metric, object, selector; or the PromQL.
    range:
        The moments to ask for.
    asked:
        The query itself, in the protocol's form.
    """

    workload: str
    metric: str
    words: str
    range: TimeRange
    asked: Asked

    def __str__(self) -> str:
        return f"workload {self.workload}, metric {self.metric} ({self.words}), {self.range}"


Ask = Callable[[Asked, TimeRange], Awaitable[Sequence[Series]]]
Connect = Callable[[], AbstractAsyncContextManager[Ask[Asked]]]


def _instant(value: int | float | str | None) -> int | None:
    return None if value is None else parse_instant(value)


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FetchSettings(BaseModel):
    """How to ask a server, whatever its protocol; the keys of a source."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    step: Annotated[int, Field(ge=1)] = 60
    """Seconds between points; start and end of every range are multiples of it."""
    end: Annotated[int | float | str | None, AfterValidator(_instant)] = None
    """The newest moment asked for, unix seconds or ISO 8601; null is now."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests in flight at once."""
    deadline: Seconds = 30.0
    """Seconds an answer may take."""
    attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    """How often a request is tried before the fetch is given up."""
    timeout: Seconds = 600.0
    """Seconds the whole fetch may take."""
    chunk_points: Annotated[int, Field(ge=1, le=MOST_POINTS)] = MOST_POINTS
    """Points asked for in one request; Prometheus answers 11,000 at most."""
    on_multiple: Literal["sum", "mean", "error"] = "sum"
    """What becomes of several series in one answer."""
    on_empty: Literal["error", "skip"] = "error"
    """What becomes of a target without any value."""


def fetch(
    name: str, questions: Sequence[Question[Asked]], connect: Connect[Asked], settings: FetchSettings
) -> tuple[pd.DataFrame, FetchReport]:
    """Ask all questions.

    Parameters
    ----------
    name:
        How messages call the server: its address.
    questions:
        At least one.
    connect:
        Opens the one connection, as a context; what it yields asks a question for one chunk. It raises
        :class:`PassingError` or :class:`TooLargeError` where asking again, or for less, may help, and
        :class:`~kforecast.errors.SourceError` where not.

    Returns
    -------
    The long frame of contract 3, and how it came about. A point without a value is a row with NaN.

    Raises
    ------
    SourceError
        When a request fails for good, an answer is empty or ambiguous and may not be, or time is up.
    """
    begun = time.monotonic()
    pieces = asyncio.run(_Fetch(name, questions, settings).run(connect))
    ranges = [question.range for question in questions]
    report = FetchReport(
        name, min(r.start for r in ranges), max(r.end for r in ranges), settings.step, settings.on_multiple
    )
    answers, problems = [], []
    for question, piece in zip(questions, pieces, strict=True):
        asked = QuestionReport(
            question.workload, question.metric, requests=piece.requests, retries=piece.retries
        )
        timestamps, values = _merge(piece.series, question.range, settings.on_multiple, asked.labels)
        asked.points, asked.nan = len(values), int(np.isnan(values).sum())
        report.questions.append(asked)
        answers.append((timestamps, values))
        if len(asked.labels) > 1 and settings.on_multiple == "error":
            problems.append(
                f"{question}: {len(asked.labels)} series answer where one is wanted: "
                f"{few([labels_text(labels) for labels in asked.labels])}; narrow the selector or query, or "
                "let them be combined: source.on_multiple=sum or mean"
            )
        elif (wrong := np.isinf(values)).any():
            problems.append(
                f"{question}: the value at {utc(timestamps[int(wrong.argmax())])} is infinite; does the "
                "query divide by zero?"
            )
    report.seconds = time.monotonic() - begun
    empty = [number for number, asked in enumerate(report.questions) if asked.points == asked.nan]
    if empty and (settings.on_empty == "error" or len(empty) == len(questions)):
        problems += [f"{questions[number]}: no value" for number in empty]
    if problems:
        raise SourceError(_problems_text(name, problems, len(empty)))
    for number in empty:
        log.warning("No value, skipped: %s", questions[number])
        answers[number] = _NOTHING
    for line in report.summary():
        log.info("%s", line)
    return check_frame(_frame(questions, answers), name), report


def _problems_text(name: str, problems: list[str], num_empty: int) -> str:
    text = (
        f"{name}: {problems[0]}"
        if len(problems) == 1
        else f"{name}: {len(problems)} problems:" + "".join(f"\n  {problem}" for problem in problems)
    )
    if num_empty:
        separator = "; " if len(problems) == 1 else "\n  "
        text += (
            f"{separator}check that the names and the selector are right, that the metric exists in that "
            "range and that the server may read it; source.on_empty=skip goes on without it"
        )
    return text


@dataclass
class _Piece:
    """What has come for one question so far."""

    series: list[Series] = field(default_factory=list)
    requests: int = 0
    retries: int = 0
    open_chunks: int = 0


class _Fetch(Generic[Asked]):
    """One fetch under way: workers take chunks from one queue until it is empty or one of them fails."""

    def __init__(self, name: str, questions: Sequence[Question[Asked]], settings: FetchSettings) -> None:
        self.name, self.questions, self.settings = name, questions, settings
        self.pieces = [_Piece() for _ in questions]
        self.queue = deque(
            (number, chunk)
            for number, question in enumerate(questions)
            for chunk in question.range.chunks(settings.chunk_points)
        )
        for number, _ in self.queue:
            self.pieces[number].open_chunks += 1
        self.answered = 0

    async def run(self, connect: Connect[Asked]) -> list[_Piece]:
        """Ask everything; raises the first error that is for good, when all else has been cancelled."""
        workers = min(self.settings.concurrency, len(self.queue))
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not Console(stderr=True).is_terminal,
        )
        try:
            with self.progress:
                self.bar = self.progress.add_task(f"Fetching from {self.name}", total=len(self.queue))
                async with asyncio.timeout(self.settings.timeout), connect() as ask, asyncio.TaskGroup() as g:
                    for _ in range(workers):
                        g.create_task(self._work(ask))
        except TimeoutError as error:
            raise SourceError(
                f"{self.name}: after source.timeout={self.settings.timeout:g} s only {self.answered:,} of "
                f"{len(self.questions):,} metrics were fetched; give it more time, or more requests at once "
                f"(source.concurrency={self.settings.concurrency})"
            ) from error
        except BaseExceptionGroup as group:
            raise _first(group) from None
        return self.pieces

    async def _work(self, ask: Ask[Asked]) -> None:
        while self.queue:
            number, chunk = self.queue.popleft()
            piece, question = self.pieces[number], self.questions[number]
            try:
                series = await self._ask(ask, question, chunk, piece)
            except TooLargeError as error:
                if chunk.num_points == 1:
                    raise SourceError(
                        f"{self.name}: {question}: the answer for one moment is above the limit: {error}"
                    ) from error
                halves = list(chunk.chunks((chunk.num_points + 1) // 2))
                self.queue.extendleft((number, half) for half in reversed(halves))
                piece.open_chunks += len(halves) - 1
                self.progress.update(self.bar, total=self.progress.tasks[0].total + len(halves) - 1)  # type: ignore[operator]
                continue
            piece.series += series
            piece.open_chunks -= 1
            self.progress.advance(self.bar)
            if not piece.open_chunks:
                self._say(question, piece)

    async def _ask(
        self, ask: Ask[Asked], question: Question[Asked], chunk: TimeRange, piece: _Piece
    ) -> Sequence[Series]:
        begun = 0.0
        pause = wait_exponential_jitter(multiplier=FIRST_PAUSE, max=_LONGEST_PAUSE, jitter=FIRST_PAUSE)

        def rest_of_pause(state: RetryCallState) -> float:
            # An attempt that took long has already given the server its pause.
            return max(0.0, pause(state) - (time.monotonic() - begun))

        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(self.settings.attempts),
                wait=rest_of_pause,
                retry=retry_if_exception_type(PassingError),
                reraise=True,
            ):
                with attempt:
                    begun = time.monotonic()
                    piece.requests += 1
                    piece.retries += attempt.retry_state.attempt_number > 1
                    try:
                        async with asyncio.timeout(self.settings.deadline):
                            return await ask(question.asked, chunk)
                    except TimeoutError as error:
                        raise PassingError(f"no answer within {self.settings.deadline:g} s") from error
        except PassingError as error:
            times = f"{self.settings.attempts} attempts" if self.settings.attempts > 1 else "one attempt"
            raise SourceError(f"{self.name}: {error} ({times}); asked for {question}") from error
        raise AssertionError("the loop above returns or raises")

    def _say(self, question: Question[Asked], piece: _Piece) -> None:
        """One line per question, or, where they are many, one for every tenth of them."""
        self.answered += 1
        total = len(self.questions)
        if total <= MOST_LINES:
            points = sum(len(series.values) for series in piece.series)
            log.info(
                "Fetched %d/%d: %s %s, %s points",
                self.answered,
                total,
                question.workload,
                question.metric,
                f"{points:,}",
            )
        elif self.answered * 10 // total > (self.answered - 1) * 10 // total:
            log.info("Fetched %s of %s metrics", f"{self.answered:,}", f"{total:,}")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a group of tasks; the others only followed from it."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _merge(
    series: Iterable[Series], asked: TimeRange, combine: str, labels: list[dict[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """All chunks of an answer as one series: unique moments in order, and their values.

    ``labels`` receives those of each series that had points.
    """
    by_labels: dict[tuple[tuple[str, str], ...], list[Series]] = {}
    for one in series:
        if len(one.timestamps):
            by_labels.setdefault(tuple(sorted(one.labels.items())), []).append(one)
    if not by_labels:
        return _NOTHING
    parts = [_in_order(by_labels[key], asked) for key in sorted(by_labels)]
    labels += [dict(key) for key in sorted(by_labels)]
    if len(parts) == 1:
        return parts[0]
    timestamps, position = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    values = np.concatenate([part[1] for part in parts])
    known = ~np.isnan(values)
    count = np.bincount(position[known], minlength=len(timestamps))
    total = np.bincount(position[known], weights=values[known], minlength=len(timestamps))
    total = total.astype(np.float64, copy=False)  # of nothing, numpy counts in integers
    if combine == "mean":
        total = np.divide(total, count, out=total, where=count > 0)
    return timestamps, np.where(count > 0, total, np.nan)


def _in_order(chunks: Sequence[Series], asked: TimeRange) -> tuple[np.ndarray, np.ndarray]:
    """The chunks of one series joined; of a moment that came twice the first value that is one counts."""
    timestamps = np.concatenate([chunk.timestamps for chunk in chunks])
    values = np.concatenate([chunk.values for chunk in chunks])
    if (np.diff(timestamps) <= 0).any():
        # Stable, and values before NaN, so that the first of equal moments is the one to keep.
        order = np.lexsort((np.isnan(values), timestamps))
        timestamps, values = timestamps[order], values[order]
        new = np.r_[True, np.diff(timestamps) > 0]
        timestamps, values = timestamps[new], values[new]
    # Some servers align a range to their own grid and answer a little beyond it.
    inside = (timestamps >= asked.start) & (timestamps <= asked.end)
    return (timestamps, values) if inside.all() else (timestamps[inside], values[inside])


def _frame(
    questions: Sequence[Question[Asked]], answers: Sequence[tuple[np.ndarray, np.ndarray]]
) -> pd.DataFrame:
    lengths = [len(values) for _, values in answers]

    def column(names: list[str]) -> "pd.Categorical[str]":
        # Repeating codes instead of names: there may be millions of rows.
        codes, categories = pd.factorize(pd.Index(names), sort=True)
        return pd.Categorical.from_codes(np.repeat(codes, lengths), categories=categories)

    return pd.DataFrame(
        {
            "timestamp": np.concatenate([timestamps for timestamps, _ in answers]),
            "value": np.concatenate([values for _, values in answers]),
            "workload": column([question.workload for question in questions]),
            "metric": column([question.metric for question in questions]),
        }
    )
