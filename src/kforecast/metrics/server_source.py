"""What the sources behind a server share: keys, credentials, one fetch at one clock."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import pandas as pd
from pydantic import PrivateAttr

from kforecast.errors import ConfigError
from kforecast.metrics.credentials import SecretFile, SecretVariable, Tls, read_secret
from kforecast.metrics.fetch_report import FetchReport
from kforecast.metrics.fetching import Ask, FetchSettings, Question, fetch

log = logging.getLogger(__name__)

_SAFER = "source.tls.ca=FILE or source.tls.enabled=true protects it"


class ServerSource(FetchSettings, ABC):
    """What all sources behind a server share."""

    tls: Tls = Tls()
    """Whom to trust, and who we are."""
    token_file: SecretFile | None = None
    """A file with a bearer token."""
    token_env: SecretVariable | None = None
    """An environment variable with a bearer token."""

    repeatable: ClassVar[bool] = False
    _report: FetchReport | None = PrivateAttr(None)
    _warnings: list[str] = PrivateAttr(default_factory=list)

    @property
    @abstractmethod
    def server(self) -> str:
        """How messages call the server: its address."""

    @abstractmethod
    def questions(self, now: float) -> Sequence[Question[Any]]:
        """What to ask, up to the moment ``now``; raises ConfigError when there is nothing."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Ask[Any]]:
        """Open the one connection of a fetch; see :func:`fetch`."""

    @property
    @abstractmethod
    def is_plain_text(self) -> bool:
        """Whether others on the way could read what is fetched."""

    @property
    def report(self) -> FetchReport | None:
        """How the last fetch came about."""
        return self._report

    def check(self) -> None:
        """Say what is wrong as far as that is known without asking the server.

        Raises
        ------
        ConfigError
            When nothing is named to ask for, or there is no token where one is named.
        """
        self.questions(time.time() if self.end is None else float(self.end))
        self.token()

    def fetch(self) -> pd.DataFrame:
        """Ask for everything, up to one moment for all.

        Raises
        ------
        ConfigError
            When nothing is named to ask for.
        SourceError
            When the server cannot be reached, refuses, or has nothing.
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

    def warn(self, text: str) -> None:
        """Pass on what the server warns of, once."""
        if text not in self._warnings:
            self._warnings.append(text)
            log.warning("%s warns: %s", self.server, text)

    def token(self) -> str | None:
        """The bearer token; read when needed, because such files are renewed."""
        try:
            return read_secret(self.token_file, self.token_env)
        except ValueError as error:
            raise ConfigError(f"source: {error}") from error
