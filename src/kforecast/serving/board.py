"""Board: the newest snapshot and how the server fares, shared by all its answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kforecast.errors import KforecastError
from kforecast.serving.snapshot import Answer, AskError, NothingHonestError, Rule, Snapshot


@dataclass(frozen=True)
class AskDefaults:
    """``serve.value``, ``serve.quantile`` and ``serve.window``: where a request does not say."""

    rule: Rule = "max"
    quantile: float | None = 0.9
    window: float | None = None


@dataclass
class Board:
    """What all answers are made from.

    The snapshot is replaced as a whole, between two answers.

    Attributes
    ----------
    snapshot:
        None until a first forecast exists.
    reason:
        Why there is no snapshot, or no newer one; empty if all is well.
    failures:
        Failures so far, by cause: ``fetch``, ``data``, ``artifact``, ``events`` and
        ``forecast``.
    fetches, forecasts:
        Durations in seconds of the fetches and forecasts so far: count, sum, newest.
    refused_artifact:
        Why a new artifact was not taken over; empty otherwise.
    refused_events:
        Why the file of known events was not taken over; empty otherwise.
    """

    defaults: AskDefaults = field(default_factory=AskDefaults)
    clock: Callable[[], float] = time.time
    snapshot: Snapshot | None = None
    reason: str = "starting: no history has been read yet"
    failures: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("fetch", "data", "artifact", "events", "forecast"), 0)
    )
    fetches: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    forecasts: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    refused_artifact: str = ""
    refused_events: str = ""

    def failed(self, cause: str, error: BaseException) -> None:
        """Count a failure, and keep its words."""
        self.failures[cause] += 1
        self.reason = f"{cause}: {error if isinstance(error, KforecastError) else repr(error)}"

    def ask(
        self,
        workload: str,
        metric: str,
        *,
        quantile: float | None = None,
        lead: float | None = None,
        window: float | None = None,
    ) -> Answer:
        """Answer a question with the defaults where it does not say.

        Raises
        ------
        UnknownSeriesError, AskError, NothingHonestError
            As :meth:`Snapshot.answer` and :meth:`Snapshot.row`.
        """
        snapshot = self.snapshot
        if snapshot is None:
            raise NothingHonestError(self.reason)
        if lead is not None and window is not None:
            raise AskError("give lead or window, not both")
        if lead is None and window is None:
            window = snapshot.horizon if self.defaults.window is None else self.defaults.window
        level = self.defaults.quantile if quantile is None else quantile
        row = snapshot.row(workload, metric)
        return snapshot.answer(
            row, self.clock(), quantile=level, lead=lead, window=window, rule=self.defaults.rule
        )
