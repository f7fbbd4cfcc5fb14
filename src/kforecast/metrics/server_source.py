"""Base class of the sources that ask a server: their settings, credentials, and a fetch up to one instant."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, ClassVar

import pandas as pd
from pydantic import PrivateAttr

from kforecast.errors import ConfigError
from kforecast.metrics.credentials import SecretFile, SecretVariable, Tls, read_secret
from kforecast.metrics.fetch_report import FetchReport
from kforecast.metrics.fetching import Ask, FetchSettings, Question, fetch
from kforecast.metrics.timerange import TimeRange

log = logging.getLogger(__name__)

_SAFER = "source.tls.ca=FILE or source.tls.enabled=true protects it"


class ServerSource(FetchSettings, ABC):
    """A source that asks a server; a subclass provides the questions and the connection."""

    tls: Tls = Tls()
    """Certificates: which server to trust, and how to authenticate to it."""
    token_file: SecretFile | None = None
    """File that holds a bearer token."""
    token_env: SecretVariable | None = None
    """Environment variable that holds a bearer token."""

    repeatable: ClassVar[bool] = False
    _report: FetchReport | None = PrivateAttr(None)
    _warnings: list[str] = PrivateAttr(default_factory=list)

    @property
    @abstractmethod
    def server(self) -> str:
        """The server's address, as messages name it."""

    @abstractmethod
    def questions(self, now: float) -> Sequence[Question[Any]]:
        """The questions to ask, up to the instant ``now`` (unix seconds); ConfigError when there are none."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Ask[Any]]:
        """Open the connection that a fetch shares; see :func:`fetch`."""

    @property
    @abstractmethod
    def is_plain_text(self) -> bool:
        """Whether the traffic crosses a network unencrypted."""

    @property
    def report(self) -> FetchReport | None:
        """The report of the last fetch; None before the first."""
        return self._report

    def check(self) -> None:
        """Check the settings without asking the server.

        Raises
        ------
        ConfigError
            When there are no questions, or a configured token cannot be read.
        """
        self.questions(time.time() if self.end is None else float(self.end))
        self.token()

    def fetch(self) -> pd.DataFrame:
        """Fetch all series, up to the same instant for all of them.

        Returns
        -------
        The long frame of contract 3.

        Raises
        ------
        ConfigError
            When there are no questions.
        SourceError
            When the server cannot be reached, refuses, or has no values.
        """
        questions = self.questions(time.time() if self.end is None else float(self.end))
        if self.is_plain_text:
            log.warning(
                "%s is asked in plain text, which others on the way can read (%s)", self.server, _SAFER
            )
        self._warnings.clear()
        frame, self._report = fetch(self.server, questions, self.connect, self)
        self._report.warnings += self._warnings
        return frame

    def series(self) -> list[tuple[str, str]]:
        """``(workload, metric)`` of each question."""
        return [(one.workload, one.metric) for one in self.questions(time.time())]

    def fetch_range(
        self, start: int, end: int, only: Collection[tuple[str, str]] | None = None
    ) -> tuple[pd.DataFrame, dict[tuple[str, str], str]]:
        """Fetch the rows of a time range, as a process does that fetches again and again.

        Parameters
        ----------
        start, end:
            Unix seconds; rows from ``start`` on and before ``end``.
        only:
            The series to fetch; None for all.

        Returns
        -------
        The long frame of contract 3, which may be empty, and why series failed.

        Raises
        ------
        SourceError
            When the server cannot be reached, or answers nothing.
        """
        step = self.step
        asked = TimeRange(-(-start // step) * step, (end - 1) // step * step, step)
        questions = [
            replace(one, range=asked)
            for one in self.questions(end)
            if only is None or (one.workload, one.metric) in only
        ]
        self._warnings.clear()
        frame, report = fetch(self.server, questions, self.connect, self, resident=True)
        return frame, {(one.workload, one.metric): one.problem for one in report.questions if one.problem}

    def warn(self, text: str) -> None:
        """Log a warning of the server, each one once."""
        if text not in self._warnings:
            self._warnings.append(text)
            log.warning("%s warns: %s", self.server, text)

    def token(self) -> str | None:
        """The bearer token; read at every use, because token files are rotated."""
        try:
            return read_secret(self.token_file, self.token_env)
        except ValueError as error:
            raise ConfigError(f"source: {error}") from error
