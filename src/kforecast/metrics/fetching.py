"""Fetching from a server: questions are cut into chunks, asked concurrently, retried and merged.

A source provides its questions and a function that asks one of them. Everything that makes a fetch exact and
reliable is here, once for all protocols.
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

from kforecast.errors import DataError, SourceError, few
from kforecast.metrics.fetch_report import MOST_LINES, FetchReport, QuestionReport, labels_text
from kforecast.metrics.source import check_frame
from kforecast.metrics.timerange import MOST_POINTS, TimeRange, utc
from kforecast.metrics.units import EARLIEST, LATEST, guess_unit, number_text
from kforecast.window import parse_instant

log = logging.getLogger(__name__)

# Seconds between the first and the second attempt; later pauses double.
FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0

_NOTHING = (np.empty(0, np.int64), np.empty(0))

Query = TypeVar("Query")


class PassingError(Exception):
    """A transient failure: the next attempt may succeed."""


class TooLargeError(Exception):
    """An answer above the size limit; asking for half the range halves it."""


@dataclass(frozen=True)
class Series:
    """One series of an answer.

    Attributes
    ----------
    labels:
        Labels that distinguish it from the other series.
    timestamps:
        Unix seconds, ``[points]``.
    values:
        float64 ``[points]``; NaN where the server has no value.
    """

    labels: Mapping[str, str]
    timestamps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Question(Generic[Query]):
    """The query for one series of ours.

    Attributes
    ----------
    workload, metric:
        The series' identity.
    description:
        The query for messages: type, metric, object and selector, or the PromQL.
    range:
        The instants to ask for.
    query:
        The query itself, in the protocol's form.
    """

    workload: str
    metric: str
    description: str
    range: TimeRange
    query: Query

    def __str__(self) -> str:
        return f"workload {self.workload}, metric {self.metric} ({self.description}), {self.range}"


Ask = Callable[[Query, TimeRange], Awaitable[Sequence[Series]]]
Connect = Callable[[], AbstractAsyncContextManager[Ask[Query]]]


def _instant(value: int | float | str | None) -> int | None:
    if value is None:
        return None
    instant = parse_instant(value)
    if unit := guess_unit(np.array([instant])):
        raise ValueError(unit.words(instant))
    return instant


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FetchSettings(BaseModel):
    """How to ask a server of any protocol; these are keys of the source."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    step: Annotated[int, Field(ge=1)] = 60
    """Seconds between points; every range starts and ends at a multiple of it."""
    end: Annotated[int | float | str | None, AfterValidator(_instant)] = None
    """The newest instant to fetch, unix seconds or ISO 8601; null is now."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Concurrent requests."""
    deadline: Seconds = 30.0
    """Timeout of one request, seconds."""
    attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    """Attempts at a request before the fetch fails."""
    timeout: Seconds = 600.0
    """Timeout of the whole fetch, seconds."""
    chunk_points: Annotated[int, Field(ge=1, le=MOST_POINTS)] = MOST_POINTS
    """Points per request; Prometheus returns at most 11,000."""
    on_multiple: Literal["sum", "mean", "error"] = "sum"
    """How to treat several series in one answer."""
    on_empty: Literal["error", "skip"] = "error"
    """How to treat an answer without any value."""

    @property
    def way(self) -> str:
        """The end of a message about a failure: the proxy on the way to the server; empty without one."""
        return ""


def fetch(
    name: str,
    questions: Sequence[Question[Query]],
    connect: Connect[Query],
    settings: FetchSettings,
    *,
    resident: bool = False,
) -> tuple[pd.DataFrame, FetchReport]:
    """Ask all questions.

    Parameters
    ----------
    name:
        The server's address, as messages name it.
    questions:
        At least one.
    connect:
        Opens the connection as a context manager, which yields a function that asks one query for one chunk.
        The function raises :class:`PassingError` where another attempt may succeed, :class:`TooLargeError`
        where a smaller chunk may, and :class:`~kforecast.errors.SourceError` otherwise.
    resident:
        For a process that fetches again and again: a question that fails has a ``problem`` in the report and
        no rows, an answer may be empty, and nothing is logged. Only a server that answers nothing is an
        error.

    Returns
    -------
    The long frame of contract 3, and the report of the fetch. A point without a value is a row with NaN.

    Raises
    ------
    SourceError
        When a request fails permanently, an answer is empty or has several series although the settings
        forbid it, a value is infinite, or the timeout expires.
    """
    begun = time.monotonic()
    partials = asyncio.run(_Fetch(name, questions, settings, resident).run(connect))
    ranges = [question.range for question in questions]
    report = FetchReport(
        name, min(r.start for r in ranges), max(r.end for r in ranges), settings.step, settings.on_multiple
    )
    answers: list[tuple[np.ndarray, np.ndarray]] = []
    problems: list[str] = []
    for question, partial in zip(questions, partials, strict=True):
        asked = QuestionReport(
            question.workload, question.metric, requests=partial.requests, retries=partial.retries
        )
        timestamps, values = _merge(partial.series, question.range, settings.on_multiple, asked.labels)
        asked.points, asked.nan = len(values), int(np.isnan(values).sum())
        asked.problem = partial.problem
        report.questions.append(asked)
        answers.append((timestamps, values))
        told = len(problems)
        if len(asked.labels) > 1 and settings.on_multiple == "error":
            problems.append(
                f"{question}: {len(asked.labels)} series answer where one is wanted: "
                f"{few([labels_text(labels) for labels in asked.labels])}; narrow the selector or query, or "
                "combine them: source.on_multiple=sum or mean"
            )
        elif (wrong := np.isinf(values)).any():
            problems.append(
                f"{question}: the value at {utc(timestamps[int(wrong.argmax())])} is infinite; does the "
                "query divide by zero?"
            )
        if resident and len(problems) > told:
            asked.problem = problems.pop()
    report.seconds = time.monotonic() - begun
    if resident:
        return _checked_apart(name, questions, answers, report), report
    empty = [number for number, asked in enumerate(report.questions) if asked.points == asked.nan]
    if empty and (settings.on_empty == "error" or len(empty) == len(questions)):
        problems += [
            f"{questions[number]}: no value{_elsewhere(partials[number].series)}" for number in empty
        ]
    if problems:
        raise SourceError(_problems_text(name, problems, len(empty)))
    for number in empty:
        log.warning("No value, skipped: %s", questions[number])
        answers[number] = _NOTHING
    for line in report.summary():
        log.info("%s", line)
    # A range that the user gave may lie in any year, and all points lie in it.
    any_time = report.start < EARLIEST or report.end >= LATEST
    return check_frame(_frame(questions, answers), name, any_time=any_time), report


def _checked_apart(
    name: str,
    questions: Sequence[Question[Query]],
    answers: list[tuple[np.ndarray, np.ndarray]],
    report: FetchReport,
) -> pd.DataFrame:
    """The rows of all questions without a problem; rows that are refused are a problem of their question."""
    bad = [number for number, asked in enumerate(report.questions) if asked.problem]
    for number in bad:
        answers[number] = _NOTHING
    frame = _frame(questions, answers)
    try:
        return check_frame(frame, name) if frame["value"].notna().any() else frame
    except DataError:
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            try:
                if not np.isnan(answer[1]).all():
                    check_frame(_frame([question], [answer]), str(question))
            except DataError as error:
                report.questions[number].problem = str(error)
                answers[number] = _NOTHING
    return _frame(questions, answers)


def _elsewhere(series: Sequence[Series]) -> str:
    """Words about the points of an answer that lie outside the range asked for."""
    timestamps = np.concatenate([np.zeros(0), *(one.timestamps for one in series)])
    if not len(timestamps):
        return ""
    unit = guess_unit(timestamps)
    like = f"like {number_text(timestamps[0])}" if unit is None else unit.words(timestamps[0])
    return f", but {len(timestamps):,} points outside that range ({like})"


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
            "range and that the server may read it; source.on_empty=skip continues without it"
        )
    return text


@dataclass
class _Partial:
    """The part of an answer received so far."""

    series: list[Series] = field(default_factory=list)
    requests: int = 0
    retries: int = 0
    open_chunks: int = 0
    problem: str = ""


class _Fetch(Generic[Query]):
    """A running fetch: workers take chunks from one queue until it is empty or one of them fails."""

    def __init__(
        self, name: str, questions: Sequence[Question[Query]], settings: FetchSettings, resident: bool = False
    ) -> None:
        self.name, self.questions, self.settings, self.resident = name, questions, settings, resident
        self.failed = 0
        self.partials = [_Partial() for _ in questions]
        self.queue = deque(
            (number, chunk)
            for number, question in enumerate(questions)
            for chunk in question.range.chunks(settings.chunk_points)
        )
        for number, _ in self.queue:
            self.partials[number].open_chunks += 1
        self.answered = 0

    async def run(self, connect: Connect[Query]) -> list[_Partial]:
        """Ask all questions; on a permanent error, cancel the other requests and raise it."""
        workers = min(self.settings.concurrency, len(self.queue))
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=self.resident or not Console(stderr=True).is_terminal,
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
                f"{len(self.questions):,} metrics were fetched{self.settings.way}; give it more time, or "
                f"more requests at once (source.concurrency={self.settings.concurrency})"
            ) from error
        except BaseExceptionGroup as group:
            raise _first(group) from None
        return self.partials

    async def _work(self, ask: Ask[Query]) -> None:
        while self.queue:
            number, chunk = self.queue.popleft()
            partial, question = self.partials[number], self.questions[number]
            if partial.problem:
                continue
            try:
                series = await self._ask(ask, question, chunk, partial)
            except TooLargeError as error:
                if chunk.num_points == 1:
                    raise SourceError(
                        f"{self.name}: {question}: the answer for a single point is above the limit: {error}"
                    ) from error
                halves = list(chunk.chunks((chunk.num_points + 1) // 2))
                self.queue.extendleft((number, half) for half in reversed(halves))
                partial.open_chunks += len(halves) - 1
                self.progress.update(self.bar, total=self.progress.tasks[0].total + len(halves) - 1)  # type: ignore[operator]
                continue
            except SourceError as error:
                self.failed += 1
                silent = not self.answered and self.failed >= min(
                    self.settings.concurrency, len(self.questions)
                )
                if not self.resident or silent:
                    raise
                partial.problem = str(error)
                continue
            partial.series += series
            partial.open_chunks -= 1
            self.progress.advance(self.bar)
            if not partial.open_chunks:
                self._log_progress(question, partial)

    async def _ask(
        self, ask: Ask[Query], question: Question[Query], chunk: TimeRange, partial: _Partial
    ) -> Sequence[Series]:
        begun = 0.0
        pause = wait_exponential_jitter(multiplier=FIRST_PAUSE, max=_LONGEST_PAUSE, jitter=FIRST_PAUSE)

        def rest_of_pause(state: RetryCallState) -> float:
            # The time of a slow attempt counts as pause: the server had it already.
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
                    partial.requests += 1
                    partial.retries += attempt.retry_state.attempt_number > 1
                    try:
                        async with asyncio.timeout(self.settings.deadline):
                            return await ask(question.query, chunk)
                    except TimeoutError as error:
                        raise PassingError(f"no answer within {self.settings.deadline:g} s") from error
        except PassingError as error:
            times = f"{self.settings.attempts} attempts" if self.settings.attempts > 1 else "one attempt"
            raise SourceError(
                f"{self.name}: {error} ({times}){self.settings.way}; asked for {question}"
            ) from error
        raise AssertionError("the loop above returns or raises")

    def _log_progress(self, question: Question[Query], partial: _Partial) -> None:
        """Log one line per question, or one for every tenth of them when there are many."""
        self.answered += 1
        total = len(self.questions)
        if self.resident:
            return
        if total <= MOST_LINES:
            points = sum(len(series.values) for series in partial.series)
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
    """The error that ended a group of tasks; the others are its consequences."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _merge(
    series: Iterable[Series], asked: TimeRange, combine: str, labels: list[dict[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """All chunks of an answer as one series: ascending unique timestamps and their values.

    The labels of each series that has points are appended to ``labels``.
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
    total = total.astype(np.float64, copy=False)  # numpy returns integers for empty input
    if combine == "mean":
        total = np.divide(total, count, out=total, where=count > 0)
    return timestamps, np.where(count > 0, total, np.nan)


def _in_order(chunks: Sequence[Series], asked: TimeRange) -> tuple[np.ndarray, np.ndarray]:
    """Join the chunks of one series; a repeated timestamp keeps its first value that is not NaN."""
    timestamps = np.concatenate([chunk.timestamps for chunk in chunks])
    values = np.concatenate([chunk.values for chunk in chunks])
    if (np.diff(timestamps) <= 0).any():
        # A stable sort with values before NaN: the first of equal timestamps is the one to keep.
        order = np.lexsort((np.isnan(values), timestamps))
        timestamps, values = timestamps[order], values[order]
        new = np.r_[True, np.diff(timestamps) > 0]
        timestamps, values = timestamps[new], values[new]
    # Some servers align the range to a grid of their own and return points just outside it.
    inside = (timestamps >= asked.start) & (timestamps <= asked.end)
    return (timestamps, values) if inside.all() else (timestamps[inside], values[inside])


def _frame(
    questions: Sequence[Question[Query]], answers: Sequence[tuple[np.ndarray, np.ndarray]]
) -> pd.DataFrame:
    lengths = [len(values) for _, values in answers]

    def column(names: list[str]) -> "pd.Categorical[str]":
        # Repeat codes instead of names: there may be millions of rows.
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
