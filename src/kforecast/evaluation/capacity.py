"""Replicas that an autoscaler would have ordered with and without the forecasts of a backtest.

The short form of ``kforecast-replay``: its simulation and its drivers, with a horizontal pod autoscaler of
Kubernetes' defaults, the forecasts of the backtest, and the panel as the load.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kforecast.autoscaling.hpa import HpaPolicy
from kforecast.data.origins import middles
from kforecast.data.panel import Panel
from kforecast.evaluation.backtest import Backtest
from kforecast.evaluation.scores import ratio
from kforecast.evaluation.skill import Skill, saving
from kforecast.intervals import LEVELS
from kforecast.simulation.capacity import Capacity, per_replica, unfit
from kforecast.simulation.drivers import BOTH, REACTIVE, Served, spans, usual_drivers
from kforecast.simulation.forecasts import Question, largest
from kforecast.simulation.load import Load, held, step_of
from kforecast.simulation.outcomes import Bins, Outcomes, Prices
from kforecast.simulation.service import Service
from kforecast.simulation.simulation import Services, Setting, Signal, lead, simulate

# The driver that the verdict is on.
JUDGED = BOTH
# As kforecast-replay has them by default: seconds until a forecast is ready, and movement inside a bin.
SETTLE, VARIABILITY = 15, 0.1
# A fully used pod shows this much in the autoscaler's metric, whose values are cut to thousandths.
_UNIT = 1000.0
# A simulation of more takes more than some seconds: an evaluation shows this much, the newest and evenly.
MOST_SERIES, MOST_DAYS = 100, 14
_DAY = 86_400
# A quantile above this multiple of the largest value ever seen is no amount to order; a few may be.
_PLAUSIBLE, _FEW_IMPLAUSIBLE = 2.0, 0.01
# Smaller shares of the largest value of all series are rounding: a network's 1e-11 where there is no traffic.
_TRACE = 1e-6
# Columns of the results by the names that they have in reports.
_COLUMNS = {
    "short_minutes": "under_minutes",
    "unserved": "unserved",
    "unserved_share": "unserved_share",
    "busy_minutes": "busy_minutes",
    "replica_hours": "replica_hours",
    "idle": "idle",
    "idle_share": "over_share",
    "scalings": "scalings",
    "cost": "cost",
}


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulation of some series over the newest part of a span.

    Attributes
    ----------
    setting, services:
        What was simulated; the bins of its load are those of the panel.
    rows:
        Panel rows of its series, int64 ``[series]``.
    begin, stop:
        The simulated bins ``[begin, stop)``.
    outcomes:
        The outcomes of all drivers.
    bins:
        Counts of every bin, and the pods of the drawn series.
    drawn:
        The series of median traffic, as its place in ``rows``.
    """

    setting: Setting
    services: Services
    rows: np.ndarray
    begin: int
    stop: int
    outcomes: Outcomes
    bins: Bins
    drawn: int

    @property
    def table(self) -> pd.DataFrame:
        """The outcomes over all series and bins, one row per driver (the index).

        Columns: ``under_minutes`` (time with unserved load, summed over series), ``unserved`` (load that no
        pod served, in replica-hours), ``unserved_share`` (of the load; NaN without load), ``busy_minutes``
        (time with pods used above 80 %), ``replica_hours``, ``idle`` (replica-hours), ``over_share`` (idle
        share of the replica-hours), ``scalings`` (orders that change the count) and ``cost``.
        """
        frame = self.outcomes.of_drivers(self.setting.prices).set_index("driver")
        return frame[[*_COLUMNS]].rename(columns=_COLUMNS)

    @property
    def by_series(self) -> pd.DataFrame:
        """The same by ``policy`` and ``series`` (panel row)."""
        frame = self.outcomes.of_series(self.setting.prices)
        frame["series"] = self.rows[frame["series"]]
        return frame.rename(columns=_COLUMNS | {"driver": "policy"})

    @property
    def cost(self) -> np.ndarray:
        """Cost of every driver in each bin, over all series, float64 ``[bins, drivers]``."""
        return self.setting.prices.cost(self.bins.counts, self.outcomes.step)

    def saving(self, block: int, seed: int) -> Skill:
        """Saving of the judged driver over the reactive one, with an interval over blocks of bins."""
        names = [driver.name for driver in self.setting.drivers]
        seen = np.any(self.services.load.observed[:, self.begin : self.stop], axis=0)
        mine, reactive = (self.cost[:, names.index(name)] for name in (JUDGED, REACTIVE))
        return saving(mine, reactive, seen, block, seed)


@dataclass(frozen=True, eq=False)
class Orders:
    """The replicas that an autoscaler would have ordered.

    Attributes
    ----------
    settings:
        The scaling rules and costs.
    question:
        The forecast that it scales on: the quantile of the lowest cost, or the point forecast without
        intervals, over the next lead time.
    simulation:
        The simulation; None if there is none.
    lacking:
        Why there is none, as a clause; empty if there is one.
    possible:
        Whether bins of this width can be simulated at all; if not, a verdict rests on errors alone.
    notes:
        Caveats.
    """

    settings: Capacity
    question: Question
    simulation: Simulation | None = None
    lacking: str = ""
    possible: bool = True
    notes: tuple[str, ...] = ()

    @property
    def quantile_words(self) -> str:
        """The forecast that it scales on."""
        level = self.question.level
        return "the point forecast" if level is None else f"quantile {level:.3g}"


def order(found: Backtest, settings: Capacity, seed: int = 0) -> Orders:
    """Simulate an autoscaler with and without the forecasts of the judged model.

    Parameters
    ----------
    seed:
        Seed of the movements of the load inside bins.
    """
    policy = HpaPolicy(
        min_replicas=settings.min_replicas,
        max_replicas=settings.max_replicas,
        interval=settings.interval or HpaPolicy.model_fields["interval"].default,
    )
    service = Service(start=settings.lead_time)
    ahead, width = lead(service, policy), found.panel.frequency.step
    level = float(np.clip(settings.best_quantile, LEVELS[0], LEVELS[-1])) if found.levels else None
    question = Question(level, min(ahead, found.horizon * width))
    if reason := _unfit(found.panel):
        return Orders(settings, question, lacking=reason, possible=False)
    # Orders end with the last forecast, which counts until the next one would be made.
    stop = min(int(found.origin.max()) + found.stride, found.stop)
    begin = max(found.begin, stop - MOST_DAYS * _DAY // width)
    if (stop - begin) * width <= settings.lead_time:
        lacking = (
            "no order takes effect within the judged span, so its replicas cannot be judged: lower "
            "capacity.lead_time, or judge it on a longer span"
        )
        return Orders(settings, question, lacking=lacking)
    scored = found.scored_series
    rows = scored[middles(len(scored), min(len(scored), MOST_SERIES))]
    load = _load(found.panel, rows, seed)
    sizes, notes = _sizes(found, rows, settings)
    served, plausible = _served(found, question, rows, begin, stop)
    if not plausible:
        notes.append(
            f"More than a hundredth of the forecasts of quantile {level:.3g} exceed twice the largest value "
            "ever seen: do not scale on it."
        )
    oldest = ahead + (found.stride - 1) * width
    if oldest > found.horizon * width:
        notes.append(
            f"Pods that are ordered now serve up to {oldest:,} s later (capacity.lead_time, "
            f"capacity.interval, evaluate.stride), forecasts reach "
            f"{found.horizon * width:,} s: they cannot be early enough."
        )
    services = Services(
        load,
        sizes,
        np.full(len(rows), settings.share),
        np.full((1, len(rows)), settings.min_replicas),
        np.full(len(rows), _UNIT),
        [served],
    )
    setting = Setting(
        policy=policy,
        kind="value_per_pod_total",
        service=service,
        signal=Signal(),
        drivers=usual_drivers(),
        lead=ahead,
        prices=Prices(settings.cost_under, settings.cost_over),
        seed=seed,
    )
    drawn = _median(load.values[:, begin:stop].sum(axis=1, dtype=np.float64))
    bins = Bins((stop - begin, len(setting.drivers)), drawn, width // load.step)
    outcomes = simulate(setting, services, begin, stop, bins=bins)
    simulation = Simulation(setting, services, rows, begin, stop, outcomes, bins, drawn)
    return Orders(settings, question, simulation, notes=tuple(notes))


def _median(traffic: np.ndarray) -> int:
    """The place of the median among the series with traffic, or among all if none has any."""
    alive = np.flatnonzero(traffic > 0) if (traffic > 0).any() else np.arange(len(traffic))
    return int(alive[np.argsort(traffic[alive], kind="stable")[len(alive) // 2]])


def _unfit(panel: Panel) -> str:
    """Why replicas cannot be simulated in the bins of a panel; empty if they can."""
    reason = unfit(panel.frequency)
    if not panel.grid.is_uniform:
        reason = reason or f"not all bins are equally long in {panel.zone}"
    return f"{reason}, so replicas are not simulated" if reason else ""


def _sizes(found: Backtest, rows: np.ndarray, settings: Capacity) -> tuple[np.ndarray, list[str]]:
    """Load that one replica of some series serves, float64 ``[series]``, and caveats."""
    values, observed = found.panel.values[rows], found.panel.observed[rows]
    before, within = (
        _mean_load(values[:, part], observed[:, part])
        for part in (slice(found.begin), slice(found.begin, found.stop))
    )
    notes, unsized = [], np.count_nonzero(~(before > 0))
    if unsized and settings.per_replica is None:
        notes.append(
            f"{unsized:,} of {len(rows):,} series have no traffic before the span: their replicas are sized "
            "by their mean load in it; set capacity.per_replica to avoid this."
        )
    if (values < 0).any(where=observed):
        notes.append("Some load is below 0 and counts as 0 for replicas; is this traffic?")
    return per_replica(settings, np.where(before > 0, before, within)), notes


def _mean_load(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Mean absolute value of the observed bins, float64 ``[series]``; NaN if there are none."""
    return ratio(np.where(observed, np.abs(values), 0.0).sum(axis=1, dtype=np.float64), observed.sum(axis=1))


def _load(panel: Panel, rows: np.ndarray, seed: int) -> Load:
    """The history of some series as load; its bins are those of the panel."""
    observed = panel.observed[rows]
    values = np.maximum(held(panel.values[rows], observed), 0)
    return Load(values, observed, panel.start, panel.frequency.step, VARIABILITY, seed, rows)


def _served(
    found: Backtest, question: Question, rows: np.ndarray, begin: int, stop: int
) -> tuple[Served, bool]:
    """Answers of ``kforecast-serve`` with the forecasts of the backtest, and whether they are plausible.

    A forecast counts until the next one is made; its last step is repeated beyond its horizon.
    """
    panel, horizon, stride = found.panel, found.horizon, found.stride
    # The forecast before the first bin is still the newest one when that begins.
    first = max(begin - stride, found.begin)
    made = found.forecasts[found.model]
    plausible = True
    if question.level is not None:
        made = found.quantiles_at([question.level])[..., 0]
        seen = panel.values[:, : found.stop].max(axis=1, where=panel.observed[:, : found.stop], initial=0.0)
        most = _PLAUSIBLE * np.maximum(seen, _TRACE * seen.max())[found.series]
        plausible = bool(np.count_nonzero(made > most[:, None]) <= _FEW_IMPLAUSIBLE * made.size)
    place = np.full(panel.num_series, -1)
    place[rows] = np.arange(len(rows))
    mine = (place[found.series] >= 0) & (found.origin >= first) & (found.origin < stop)
    dense = np.full((len(rows), stop - first, horizon), np.nan, np.float32)
    dense[place[found.series[mine]], found.origin[mine] - first] = made[mine]
    newest = dense.copy()
    for ago in range(1, min(stride, horizon)):
        older = dense[:, :-ago]
        later = np.concatenate([older[..., ago:], np.repeat(older[..., -1:], ago, axis=2)], axis=2)
        empty = np.isnan(newest[:, ago:, 0])
        newest[:, ago:][empty] = later[empty]
    width = panel.frequency.step
    parts, kind = spans(width, step_of(width), question.window, SETTLE, horizon)
    values = largest(newest, parts, begin - first)
    return Served(values, kind, int(panel.seconds(begin)), width, step_of(width)), plausible
