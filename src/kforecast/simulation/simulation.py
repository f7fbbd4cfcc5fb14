"""One replay: load, drivers, an autoscaler and its services, step by step over many lanes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from kforecast.autoscaling.policy import Kind, Pods, Policy, Reading
from kforecast.simulation.drivers import Driver, Served, mimir, schedule, scheduled, sliding_max
from kforecast.simulation.load import Load
from kforecast.simulation.outcomes import Bins, Day, Outcomes, Prices
from kforecast.simulation.perfect import worthwhile
from kforecast.simulation.seen import MEANS, Other, Rings, View, Watched
from kforecast.simulation.service import Fleet, Service

# Steps whose inputs are computed together: few enough to stay in the cache.
_BLOCK = 240
# Steps that perfect knowledge orders for together, and those beyond that it knows: eight and four hours.
_KNOWN, _BEYOND = 1920, 960
_DAY = 86_400
# Amounts in the rings before those of other metrics: pods that serve, and the load that they serve.
_SERVED, _AMOUNTS = 1, 2


class Signal(BaseModel):
    """How late and how smooth the autoscaler sees the load."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    delay: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds until a value can be read: one scrape, and the adapter's cache."""
    window: Annotated[int, Field(ge=1, le=3600)] = 60
    """Seconds that a value is the mean of: the range of ``rate(...[1m])``, or metrics-server's window."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all services of a replay.

    Attributes
    ----------
    policy:
        The autoscaler.
    kind:
        What its own metric measures: the total load, or the mean utilisation of the pods.
    metric:
        The name of that metric.
    portraits:
        Whether drivers order replicas, as Kapacity's portraits do, in the place of a number to scale on.
    triggers:
        Names of the triggers of a formula that are the newest load and the forecast; None without a formula.
        A driver without the one has the other in its place.
    service, signal:
        How pods live, and how the autoscaler sees the load.
    drivers:
        What is compared.
    lead:
        Seconds ahead that Mimir's rule and the schedule look.
    prices:
        Costs of unserved load and of idle replicas.
    seed:
        Seed of starting times.
    trace:
        Whether the worst day of every driver is kept.
    """

    policy: Policy
    kind: Kind
    service: Service
    signal: Signal
    drivers: Sequence[Driver]
    lead: int
    prices: Prices
    seed: int = 0
    trace: bool = False
    metric: str = "load"
    portraits: bool = False
    triggers: tuple[str, str] | None = None


@dataclass(frozen=True)
class Services:
    """The services of a replay and what is known about each.

    Attributes
    ----------
    load:
        Their history and the span itself.
    capacity:
        Load that one pod serves at most, float64 ``[series]``.
    share:
        Utilisation of a pod at the autoscaler's target, float64 ``[series]``.
    floors:
        Lower limits of replicas, by the number that drivers name, int64 ``[floors, series]``.
    units:
        What the autoscaler's metric shows for the load of one fully used pod, float64 ``[series]``: the
        controller cuts its values to thousandths.
    forecasts:
        By the number that drivers name.
    others:
        The policy's other metrics.
    """

    load: Load
    capacity: np.ndarray
    share: np.ndarray
    floors: np.ndarray
    units: np.ndarray
    forecasts: Sequence[Served] = ()
    others: Sequence[Other] = ()

    def of(self, chosen: np.ndarray) -> "Services":
        """Some of the services, given by row numbers."""
        return Services(
            self.load.of(chosen),
            self.capacity[chosen],
            self.share[chosen],
            self.floors[:, chosen],
            self.units[chosen],
            [served.of(chosen) for served in self.forecasts],
            [other.of(chosen) for other in self.others],
        )


def simulate(
    setting: Setting,
    services: Services,
    begin: int,
    stop: int,
    going_on: Callable[[], None] = lambda: None,
    bins: Bins | None = None,
) -> Outcomes:
    """Replay the bins ``[begin, stop)`` of the load under every driver.

    Every lane begins with the replicas that its first load needs at the target.

    Parameters
    ----------
    going_on:
        Called about once an hour of traffic; it may raise to stop.
    bins:
        Gets the counts of every bin, too.
    """
    return _Replay(setting, services, begin, stop).run(going_on, bins)


def lead(service: Service, policy: Policy) -> int:
    """Seconds from a decision until the pods of the next decision serve."""
    return service.start + policy.interval


@dataclass
class _Replay:
    setting: Setting
    services: Services
    begin: int
    stop: int
    _fleet: Fleet = field(init=False)

    def __post_init__(self) -> None:
        services, setting, load = self.services, self.setting, self.services.load
        self._step, self._per_bin = load.step, load.width // load.step
        self._drivers = list(setting.drivers)
        self._shape = (len(self._drivers), len(load.values))
        signal = setting.signal
        delay, window = -(-signal.delay // self._step), max(1, -(-signal.window // self._step))
        self._view = View(delay, window, self._per_bin)
        self._start = -(-setting.service.start // self._step)
        self._decides = max(1, round(setting.policy.interval / self._step))
        self._bins = max(1, -(-_BLOCK // self._per_bin))
        self._floors = np.stack([services.floors[driver.floor] for driver in self._drivers])
        self._target = np.array([driver.target for driver in self._drivers])
        self._by_mean = setting.kind in MEANS
        self._perfect = np.array([driver.rule == "perfect" for driver in self._drivers])
        self._known_from = self._known_until = self.begin
        self._known = self._serving = np.zeros(0, np.int64)
        self._orders = np.array(
            [driver.rule in ("forecast", "mimir", "schedule") for driver in self._drivers]
        )
        self._reactive = np.array([driver.reactive for driver in self._drivers])
        self._others, self._means = self._watched()
        rules = {driver.rule for driver in self._drivers}
        self._week = schedule(load, self.begin) if "schedule" in rules else None

    def _watched(self) -> tuple[list[Watched], list[Watched]]:
        """The policy's other metrics, and those of them that are means over pods."""
        services, portraits = self.services, self.setting.portraits
        # The reactive portrait of Kapacity counts for drivers without orders.
        shown, hidden = (self._reactive & ~self._orders, np.nan) if portraits else (self._reactive, 0.0)
        if self.setting.triggers is not None:  # a formula needs all its values
            shown = np.ones_like(shown)
        others, means = list[Watched](), list[Watched]()
        for other in services.others:
            load = services.load.values.sum(axis=1, dtype=np.float64) / services.capacity
            amount = _AMOUNTS + len(means) if other.by_mean else None
            others.append(Watched(other, self._view, shown, hidden, load, amount))
            means += others[-1:] if other.by_mean else []
        return others, means

    def run(self, going_on: Callable[[], None], bins: Bins | None) -> Outcomes:
        load, setting = self.services.load, self.setting
        first = load.start + self.begin * load.width
        days = (load.start + self.stop * load.width - 1) // _DAY - first // _DAY + 1
        found = Outcomes.empty(self._drivers, len(load.values), first // _DAY, days, self._step)
        day = Day(setting.prices, self._shape, self._step) if setting.trace else None
        demand = self._demand(self.begin, min(self.begin + self._bins, self.stop))
        earlier = self._view.before(load, self.begin) / self.services.capacity
        self._begin_fleet(earlier)
        decision = 0
        for begin in range(self.begin, self.stop, self._bins):
            going_on()
            stop = min(begin + self._bins, self.stop)
            coming = self._demand(stop, min(stop + self._bins, self.stop))
            seen = np.concatenate([earlier, demand])
            if setting.triggers is None:
                numbers, unknown = self._numbers(seen, begin, stop)
            else:
                numbers, unknown = self._values(seen, begin, stop), None
            for other in self._others:
                other.look(begin, stop)
            orders = self._perfect_orders(begin, stop)
            second = load.start + begin * load.width
            observed = load.observed[:, begin:stop]
            for at in range(len(demand)):
                self._fleet.begin_step()
                if decision % self._decides == 0:
                    readings = self._readings(numbers[at], None if unknown is None else unknown[at])
                    readings += [other.reading(at, self._rings) for other in self._others]
                    self._decide(second, readings, None if orders is None else orders[at])
                decision += 1
                self._fleet.serve(demand[at])
                if self._by_mean or self._means:
                    used = [other.used(at, demand[at], self._fleet.served) for other in self._means]
                    self._rings.add([self._fleet.up, self._fleet.served, *used])
                if day is not None:
                    day.add(self._fleet.up, demand[at], second)
                if bins is not None:
                    bins.add(self._fleet.up)
                second += self._step
                if decision % self._per_bin == 0:
                    counted = observed[:, at // self._per_bin]
                    number = (second - 1) // _DAY - found.first_day
                    taken = self._fleet.taken()
                    if not counted.all():
                        taken *= counted
                    found.counts[number] += taken
                    if bins is not None:
                        bins.end(taken)
                    bin_load = demand[at + 1 - self._per_bin : at + 1].sum(axis=0) * counted
                    found.load[number] += bin_load
                    found.seconds[number] += counted * load.width
                    if day is not None and second % _DAY == 0:
                        day.end(found, number)
            earlier = seen[-self._view.reach :]
            demand = coming
        if day is not None:
            day.end(found, days - 1)
        found.queued = self._fleet.queue.copy()
        return found

    def _demand(self, begin: int, stop: int) -> np.ndarray:
        """Demand of the steps of some bins in pods at full capacity, float64 ``[steps, series]``."""
        load = self.services.load
        stop = min(stop, load.values.shape[1])
        if stop <= begin:
            return np.empty((0, self._shape[1]))
        made: np.ndarray = load.demand(begin * self._per_bin, stop * self._per_bin) / self.services.capacity
        return made

    def _begin_fleet(self, earlier: np.ndarray) -> None:
        setting, services = self.setting, self.services
        demand = earlier[-self._view.window :].mean(axis=0)
        needed = np.ceil(demand / services.share - 1e-9)
        replicas = np.maximum(needed / self._target[:, None], self._floors)
        for other in self._others if setting.triggers is None else self._means:
            np.maximum(replicas, other.needed(self.begin), out=replicas)
        replicas = np.minimum(np.ceil(replicas), setting.policy.max_replicas).astype(np.int64)
        self._fleet = Fleet(setting.service, replicas, self._step, setting.seed, services.load.rows)
        self._serving = replicas[-1]
        self._state = setting.policy.begin(replicas.reshape(-1), self._floors.reshape(-1))
        # Work and capacity of each lane, for means over pods.
        up = np.maximum(replicas, 1).astype(np.float64)
        served = np.minimum(demand, up)
        used = [other.used_of(other.before(self.begin), demand, served) for other in self._means]
        self._rings = Rings(self._view, np.stack([up, served, *used]))
        share = services.share * (100 if setting.kind == "utilization" else services.units)
        self._mean_target = (share * self._target[:, None]).reshape(-1)
        own = np.broadcast_to(services.units * services.share, self._shape)
        self._total_target = (own * self._target[:, None]).reshape(-1)
        # With a fallback, a policy counts how often a metric failed in a row.
        self._asks_always = getattr(setting.policy, "fallback", None) is not None

    def _numbers(self, seen: np.ndarray, begin: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """What each driver tells the autoscaler at every step, and where it should have known more.

        Returns
        -------
        float64 ``[steps, drivers, series]`` in the units of the metric; and bool of the same shape, None if
        nothing is unknown.
        """
        services, load = self.services, self.services.load
        count = (stop - begin) * self._per_bin
        newest = None
        if not self._by_mean or self.setting.portraits:
            newest = self._view.smoothed(seen, count)
        # Metrics have a gap where the history has one.
        missing = self._view.missing(load, begin, count)
        gap = bool(missing.any())
        made = np.zeros((count, *self._shape))
        unknown = np.zeros((count, *self._shape), bool)
        own = self._own_numbers(begin, stop)
        for number, driver in enumerate(self._drivers):
            mine = made[:, number]
            if driver.reactive and newest is not None:
                mine[:] = newest
            if driver.reactive and gap:
                unknown[:, number] = missing
                mine[missing] = 0.0
            told_by = own[number]
            if told_by is not None:
                if driver.rule == "forecast":
                    unknown[:, number] |= np.isnan(told_by)
                np.fmax(mine, told_by, out=mine)
        made *= services.units
        return made, unknown if unknown.any() else None

    def _own_numbers(self, begin: int, stop: int) -> list[np.ndarray | None]:
        """The number of each driver beside the newest load, in pods, ``[steps, series]``; NaN if unknown."""
        services, load = self.services, self.services.load
        seconds = load.start + begin * load.width + np.arange((stop - begin) * self._per_bin) * self._step
        forecasts: dict[int, np.ndarray] = {}
        found = list[np.ndarray | None]()
        for driver in self._drivers:
            if driver.rule == "forecast":
                if driver.forecast not in forecasts:
                    forecasts[driver.forecast] = (
                        services.forecasts[driver.forecast].at(seconds) / services.capacity
                    )
                found.append(forecasts[driver.forecast])
            elif driver.rule == "mimir":
                by_bin = mimir(load, begin, stop, self.setting.lead) / services.capacity
                found.append(np.repeat(by_bin, self._per_bin, axis=0))
            elif driver.rule == "schedule":
                assert self._week is not None
                found.append(scheduled(self._week, seconds, self.setting.lead) / services.capacity)
            else:
                found.append(None)
        return found

    def _values(self, seen: np.ndarray, begin: int, stop: int) -> np.ndarray:
        """The newest load and the forecast for a formula, ``[steps, 2, drivers, series]``; NaN if unknown."""
        services, count = self.services, (stop - begin) * self._per_bin
        newest = self._view.smoothed(seen, count)
        newest[self._view.missing(services.load, begin, count)] = np.nan
        made = np.empty((count, 2, *self._shape))
        for number, (driver, own) in enumerate(
            zip(self._drivers, self._own_numbers(begin, stop), strict=True)
        ):
            told = newest if own is None else own
            if driver.rule == "mimir":  # a rule over recorded values, which says nothing where there are none
                told = np.where(np.isnan(told), newest, told)
            made[:, 0, number] = newest if driver.reactive else told
            made[:, 1, number] = told
        made *= services.units
        return made

    def _perfect_orders(self, begin: int, stop: int) -> np.ndarray | None:
        """Replicas of perfect knowledge at the steps of some bins, int64 ``[steps, series]``.

        They follow no policy but the limits.
        """
        if not self._perfect.any():
            return None
        if begin >= self._known_until:
            self._look_ahead(begin)
        first = (begin - self._known_from) * self._per_bin
        return self._known[first : first + (stop - begin) * self._per_bin]

    def _look_ahead(self, begin: int) -> None:
        """Order for the next hours, from the load until some hours later."""
        setting, reach = self.setting, self._start + self._decides
        blocks = -(-_KNOWN // (self._bins * self._per_bin))
        self._known_from, self._known_until = begin, begin + blocks * self._bins
        beyond = -(-max(_BEYOND, 2 * reach) // self._per_bin)
        # Pods above the limit cannot be ordered, and each one would be a lane of its own.
        demand = np.minimum(
            self._demand(begin, self._known_until + beyond), float(setting.policy.max_replicas)
        )
        change = self._start + -(-setting.service.drain // self._step)
        prices = setting.prices
        # Twice a minute costs a few percent more than every step, and half the work.
        every = 2 if self._per_bin % 2 == 0 else 1
        serving = worthwhile(demand, self._serving, (prices.under, prices.over), change, every)
        serving = np.repeat(serving, every, axis=0)
        count = min((self._known_until - begin) * self._per_bin, len(serving))
        self._serving = serving[count - 1]
        padded = np.concatenate([serving[: count + reach], np.repeat(serving[-1:], reach, axis=0)])
        most = sliding_max(padded[: count + reach - 1], reach)
        floor = self._floors[int(np.flatnonzero(self._perfect)[0])]
        self._known = np.clip(most, floor, setting.policy.max_replicas)

    def _readings(self, numbers: np.ndarray, unknown: np.ndarray | None) -> list[Reading]:
        """What the autoscaler reads at a step; a metric that a driver lacks reads 0, which never wins."""
        name, triggers = self.setting.metric, self.setting.triggers
        if triggers is not None:
            return [
                Reading(value.reshape(-1), "value_per_pod_total", self._total_target, name=trigger)
                for value, trigger in zip(numbers, triggers, strict=True)
            ]
        mean = self._mean_reading() if self._by_mean else None
        if self.setting.portraits:
            return self._portraits(numbers, unknown, mean)
        total = numbers.reshape(-1)
        if mean is not None:
            # The number of a second metric, beside the mean.
            readings = [mean, Reading(total, "value_per_pod_total", self._total_target, name="number")]
        else:
            readings = [Reading(total, "value_per_pod_total", self._total_target, name=name)]
        if self._asks_always or (unknown is not None and unknown.any()):
            absent = np.zeros(self._shape) if unknown is None else np.where(unknown, np.nan, 0.0)
            flat = absent.reshape(-1)
            readings.append(Reading(flat, "value_per_pod_total", self._total_target, name="unknown"))
        return readings

    def _mean_reading(self) -> Reading:
        """The mean utilisation of the pods; 0 for drivers that do not see it."""
        mean = self._rings.per_pod(_SERVED)
        mean *= self._reactive[:, None]
        if self.setting.kind == "utilization":
            mean *= 100
        else:
            mean *= self.services.units
        return Reading(mean.reshape(-1), self.setting.kind, self._mean_target, name=self.setting.metric)

    def _portraits(
        self, numbers: np.ndarray, unknown: np.ndarray | None, mean: Reading | None
    ) -> list[Reading]:
        """Replicas that drivers order, and the metric of the reactive portrait for the one without any."""
        gone = np.zeros(self._shape, bool) if unknown is None else unknown
        target = self._total_target.reshape(self._shape)
        ordered = np.where(self._orders[:, None] & ~gone, np.ceil(numbers / target - 1e-9), np.nan)
        portrait = Reading(ordered.reshape(-1), "replicas", 1.0, name="portrait")
        seen = ~self._orders[:, None] & ~gone
        if mean is not None:
            value = np.where(seen.reshape(-1), mean.value, np.nan)
            return [portrait, replace(mean, value=value)]
        value = np.where(seen, numbers, np.nan).reshape(-1)
        return [
            portrait,
            Reading(value, "value_per_pod_total", self._total_target, name=self.setting.metric),
        ]

    def _decide(self, second: int, readings: list[Reading], orders: np.ndarray | None) -> None:
        fleet = self._fleet
        total = fleet.ready + fleet.starting
        pods = Pods(fleet.spec.reshape(-1), fleet.ready.reshape(-1), total.reshape(-1))
        desired = self.setting.policy.decide(self._state, second, pods, readings).reshape(self._shape)
        if orders is not None:
            desired[self._perfect] = orders
        fleet.order(desired)
