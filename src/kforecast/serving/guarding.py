"""Guarding: which forecasts of a server are withdrawn, judged anew at every origin."""

from dataclasses import dataclass

import numpy as np

from kforecast.data.panel import Panel
from kforecast.following import Recent
from kforecast.guard import SERVED, Withdrawals, since, watch
from kforecast.predictor import Predictor
from kforecast.shadow import GuardSettings, bins_to_read, numbers_of, origins_to_keep


@dataclass(frozen=True)
class Withdrawn:
    """Why a series' forecast is withdrawn: the cause (:mod:`kforecast.guard`), and since when, unix seconds."""

    cause: int
    since: int


class Guard:
    """Judges the forecasts of one artifact.

    The history tells which forecasts are withdrawn. A withdrawal is kept here as well, because it may be older
    than the forecasts that are judged, and must not end with them.
    """

    def __init__(self, predictor: Predictor, settings: GuardSettings) -> None:
        self.predictor, self.settings = predictor, settings
        self.rules = settings.rules(predictor)
        self.keep = origins_to_keep(predictor)
        self.bins = bins_to_read(predictor, self.rules)
        self._known: dict[tuple[str, str], Withdrawn] = {}

    def judge(self, panel: Panel, recent: Recent) -> dict[int, Withdrawn]:
        """The withdrawn series of a panel, by row; ``recent`` has its forecasts up to its end."""
        numbers, first, _ = numbers_of(self.predictor, panel, recent, self.settings)
        shift = first - panel.first_bin
        state = np.zeros(panel.num_series, np.int8)
        begun = np.full(panel.num_series, numbers.actual.shape[1])
        for row, pair in enumerate(panel.series):
            if (one := self._known.get(pair)) is not None:
                # The bin of the alarm is the one before the first bin without the forecast.
                state[row], begun[row] = one.cause, panel.bin_at(one.since) - 1 - shift
        known = Withdrawals(state, begun)
        found = since(watch(self.rules, numbers, first, known), known)
        withdrawn = {
            row: Withdrawn(int(found.state[row]), int(panel.seconds(int(found.since[row]) + 1 + shift)))
            for row in np.flatnonzero(found.state != SERVED).tolist()
        }
        self._known = {panel.series[row]: one for row, one in withdrawn.items()}
        return withdrawn
