"""Generated traffic of many kinds, to learn from: services, jobs, utilisations, of many and of few clients.

A series is a rate, the mean number of requests or the like, and a measurement of it. The rate is a product of
rhythms (day, week), disturbances (days, hours), growth, level shifts, scheduled work, bursts and outages,
each present or not, with parameters drawn from wide ranges. Compare Dooley et al. 2023, "ForecastPFN"
(https://arxiv.org/abs/2311.01933) and Xie et al. 2024, "CauKer", for training on generated series alone.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

_DAY, _WEEK_DAYS = 86_400, 7
# Minutes of a day: the resolution of a daily rhythm.
_MINUTES = 1440
_KINDS = {"rhythm": 0.58, "weak rhythm": 0.14, "jobs": 0.08, "wandering": 0.12, "idle at times": 0.08}
_SHAPES = {"waves": 0.35, "office": 0.2, "peaks": 0.15, "smooth": 0.2, "flat": 0.1}
# Periods of scheduled work, in seconds; an hour is the most usual one.
_PERIODS = (600, 900, 1800, 3600, 3600, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
# Limit of noise, in standard deviations.
_MOST_NOISE = 6.0
# Limit of a rate, as a multiple of the usual one: hundreds of bursts at the same time have no other.
_LARGEST_RATE = 1e12
# Above this, counts are as good as rates.
_LARGEST_COUNT = 1e6
_MOST_BURSTS, _MOST_SOURCES = 600, 6


def traffic(seed: int, count: int, bins: int, step: int) -> np.ndarray:
    """Generate series.

    Parameters
    ----------
    seed:
        The same seed gives the same series; each has a generator of its own.
    count, bins:
        Number of series, and bins of each.
    step:
        Seconds per bin. The first bin begins at 00:00 of a Thursday, local time.

    Returns
    -------
    float32 ``[count, bins]``, NaN in gaps, at least 0.
    """
    made = np.empty((count, bins), np.float32)
    for number in range(count):
        made[number] = _Series(np.random.default_rng([seed, number]), bins, step).measured()
    return made


class _Series:
    """One series while it is made."""

    def __init__(self, rng: Generator, bins: int, step: int) -> None:
        self.rng, self.bins, self.step = rng, bins, step
        self.second = np.arange(bins, dtype=np.int64) * step
        self.per_day = max(1, _DAY // step)
        self.day = self.second // _DAY
        self.days = int(self.day[-1]) + 1
        self.rate = np.ones(bins)

    def likely(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def power(self, low: float, high: float) -> float:
        """A number whose decimal logarithm is uniform."""
        return float(10 ** self.rng.uniform(low, high))

    def measured(self) -> np.ndarray:
        """The series."""
        rng = self.rng
        kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
        level = self.power(-0.5, 4)
        self._rhythms(_strength(rng, kind))
        if kind == "wandering":
            self._wander()
        for share, change in self._changes():
            if self.likely(share):
                change()
        if kind == "jobs":
            self._jobs()
        if kind == "idle at times":
            quiet = self.rate < np.quantile(self.rate, rng.uniform(0.1, 0.8))
            self.rate = np.where(quiet, 0 if self.likely(0.7) else 0.02 * self.rate, self.rate)
        if self.likely(0.15):
            self._outages()
        rate = np.minimum(self.rate, _LARGEST_RATE)
        return self._with_gaps(self._measurement(level * rate)).astype(np.float32)

    def _changes(self) -> list[tuple[float, Callable[[], None]]]:
        """What may happen to the rate, and how likely it is."""
        return [
            (0.7, self._levels_of_days),
            (0.8, lambda: self._disturb(0.3, 2)),
            (0.6, lambda: self._disturb(2, 12)),
            (0.4, self._grow),
            (0.3, self._shift_levels),
            (0.45, self._scheduled_work),
            (0.45, self._bursts),
        ]

    # Rhythms.

    def _rhythms(self, strength: float) -> None:
        rng = self.rng
        shape = _flattened(_shape(rng), strength)
        factors, off_shape, off = np.ones(_WEEK_DAYS), shape, np.zeros(_WEEK_DAYS)
        week = rng.random()
        if week < 0.55:  # a weekend
            factors[5:] = rng.uniform(0.1, 1.3) if self.likely(0.9) else 0.0
            if self.likely(0.3):
                factors[6] *= rng.uniform(0.6, 1.1)
            if self.likely(0.6):  # with another rhythm
                other = _flattened(_shape(rng), strength)
                off_shape = rng.random() * shape + rng.random() * other
                off_shape = off_shape / max(float(off_shape.mean()), 1e-9)
                off[5:] = 1.0
        elif week < 0.75:
            factors *= np.exp(rng.normal(0, rng.uniform(0.02, 0.3), _WEEK_DAYS))
        if self.likely(0.3):
            factors *= np.exp(rng.normal(0, 0.05, _WEEK_DAYS))
        holiday = (rng.random(self.days) < rng.choice([0, 0.01, 0.04]))[self.day]
        weekday = np.where(holiday, 6, (self.day + 3) % _WEEK_DAYS)
        working, free = self._at_times(shape), self._at_times(off_shape)
        base = (1 - off[weekday]) * working + off[weekday] * free
        if self.likely(0.25):  # it is more pronounced at some times than at others
            base = np.maximum(base, 1e-6) ** np.exp(self.power(-1.3, -0.4) * self._by_day(self.power(0, 1.3)))
        self.rate = base * factors[weekday]

    def _at_times(self, shape: np.ndarray) -> np.ndarray:
        """The mean of a daily shape over each bin; some shapes drift."""
        if self.per_day == 1:
            return np.ones(self.bins)
        drift: np.ndarray | float = 0.0
        if self.likely(0.3):
            drift = self.rng.uniform(0, 0.02) * self._by_day(self.rng.uniform(0.5, 10))
        minute = (((self.second % _DAY) / _DAY - drift) % 1 * _MINUTES).astype(np.int64) % _MINUTES
        wide = max(1, self.step // 60)
        total = np.concatenate([[0], np.cumsum(np.tile(shape, 2))])
        found: np.ndarray = (total[minute + wide] - total[minute]) / wide
        return found

    def _by_day(self, memory_days: float) -> np.ndarray:
        """Noise that changes from day to day, interpolated to the bins."""
        noise = slow_noise(self.rng, self.days + 2, memory_days)
        found: np.ndarray = np.interp(np.arange(self.bins) / self.per_day, np.arange(self.days + 2), noise)
        return found

    # Changes of the rate.

    def _wander(self) -> None:
        rng = self.rng
        if self.likely(0.6):
            path = slow_noise(rng, self.bins, self.power(0.5, 3.5))
        else:
            path = _coloured_noise(rng, self.bins, rng.uniform(0.8, 2.2))
        if self.likely(0.5):
            self.rate *= np.exp(rng.uniform(0.05, 1.0) * path)
        else:
            self.rate *= np.maximum(1 + rng.uniform(0.02, 0.6) * path, 0)

    def _levels_of_days(self) -> None:
        size, memory = self.power(-2, -0.4), self.power(-1, 1.2)
        if self.likely(0.5):
            self.rate *= np.exp(size * self._by_day(memory))
        else:
            self.rate *= np.exp(size * slow_noise(self.rng, self.days, memory))[self.day]

    def _disturb(self, low: float, high: float) -> None:
        """Noise with a memory of some hours."""
        memory = self.power(np.log10(low), np.log10(high)) * 3600 / self.step
        self.rate *= np.exp(self.power(-2.2, -0.5) * slow_noise(self.rng, self.bins, memory))

    def _grow(self) -> None:
        months = min(self.bins / self.per_day / 30, 4)
        self.rate *= np.exp(self.rng.normal(0, 0.4) * months * np.linspace(0, 1, self.bins))

    def _shift_levels(self) -> None:
        for _ in range(self.rng.poisson(self.bins / self.per_day / 20) + 1):
            self.rate[self.rng.integers(self.bins) :] *= np.exp(self.rng.normal(0, 0.5))

    def _scheduled_work(self) -> None:
        rng = self.rng
        for _ in range(rng.integers(1, 4)):
            period = int(rng.choice(_PERIODS))
            if period < 2 * self.step:
                continue
            short = self.likely(0.7)
            length = rng.uniform(0.2, 2) * max(self.step, 120) if short else rng.uniform(0.05, 0.4) * period
            since = (self.second - rng.choice([0, 0, rng.random() * period])) % period
            share = np.clip((length - since) / self.step, 0, 1)
            size = self.power(-1.3, 0.7) if self.likely(0.5) else -0.7 * rng.random()
            if self.likely(0.5):
                share *= np.exp(rng.normal(0, rng.uniform(0, 0.3), self.bins))
            level = self.rate if self.likely(0.3) else np.median(self.rate)
            self.rate = np.maximum(self.rate + size * share * level, 0)

    def _bursts(self) -> None:
        """Bursts, campaigns and slumps: they decay, end at once, or rise slowly."""
        rng = self.rng
        for _ in range(min(rng.poisson(self.bins / self.per_day * self.power(-1.3, 0.6)), _MOST_BURSTS)):
            begin, length = int(rng.integers(self.bins)), max(1, int(self.power(0, 4.3) / self.step))
            size = self.power(-0.7, 0.8)
            since, form = np.arange(min(4 * length, self.bins - begin)), rng.random()
            if form < 0.5:
                shape = np.exp(-since / length)
            elif form < 0.8:
                shape = (since < length).astype(np.float64)
            else:
                shape = np.minimum(since / length, 1) * (since < 2 * length)
            change = size if self.likely(0.8) else -min(1.0, size)
            part = self.rate[begin : begin + len(since)]
            part[:] = np.clip(part * (1 + change * shape), 0, _LARGEST_RATE)

    def _jobs(self) -> None:
        """The work of a few sources that are busy or not."""
        rng = self.rng
        busy_bins, idle_bins = (self.power(2.5, 4.8) / self.step for _ in range(2))
        sources = int(rng.integers(1, _MOST_SOURCES))
        busy = np.zeros(self.bins)
        for _ in range(sources):
            at, is_busy = 0, self.likely(0.5)
            while at < self.bins:
                length = max(1, int(rng.exponential(busy_bins if is_busy else idle_bins)))
                busy[at : at + length] += is_busy
                at, is_busy = at + length, not is_busy
        self.rate *= rng.uniform(0, 0.5) + busy / sources * rng.uniform(0.5, 2)

    def _outages(self) -> None:
        """Outages, and the retries after them."""
        rng = self.rng
        for _ in range(rng.poisson(self.bins / self.per_day / 10) + 1):
            begin, length = int(rng.integers(self.bins)), max(1, int(self.power(2.5, 4.5) / self.step))
            self.rate[begin : begin + length] *= rng.choice([0, rng.random()])
            self.rate[begin + length : begin + length + max(1, length // 3)] *= rng.uniform(1, 2.5)

    # Measurement.

    def _measurement(self, value: np.ndarray) -> np.ndarray:
        rng = self.rng
        if self.likely(0.45):
            value = self._counted(value)
        else:
            size, noise = self.power(-2.5, -0.4), rng.standard_normal(self.bins)
            value = value * (np.exp(size * noise) if self.likely(0.5) else np.maximum(1 + size * noise, 0))
            if self.likely(0.15):  # heavy tails
                value = value * (1 + (rng.random(self.bins) < 0.01) * rng.exponential(1, self.bins))
        if self.likely(0.2):
            value = self._utilisation(value)
        if self.likely(0.1):
            unit = self.power(-2, 0) * max(float(np.median(value)), 1e-3)
            value = np.round(value / unit) * unit
        return value

    def _counted(self, value: np.ndarray) -> np.ndarray:
        """Counts of independent clients, or of clients that come together."""
        rng = self.rng
        rate = np.clip(value, 0, 1e8)
        if self.likely(0.5):
            spread = self.power(-3.5, 0)
            rate = rate * rng.gamma(1 / spread, spread, self.bins)
        counts: np.ndarray = np.where(
            rate < _LARGEST_COUNT, rng.poisson(np.minimum(rate, _LARGEST_COUNT)), rate
        )
        return counts * rng.uniform(0.01, 10) if self.likely(0.3) else counts.astype(np.float64)

    def _utilisation(self, value: np.ndarray) -> np.ndarray:
        """CPU or memory: a base, saturation, a slow leak that restarts end."""
        rng = self.rng
        load = value / (np.quantile(value, rng.uniform(0.8, 1.0)) + 1e-9)
        load = np.tanh(load) if self.likely(0.5) else np.minimum(load, 1)
        used = 50 * (rng.random() + rng.uniform(0.2, 2) * load)
        if self.likely(0.3):
            between = max(2, int(rng.uniform(0.2, 8) * self.per_day))
            used = used + rng.uniform(0, 10) * (np.arange(self.bins) % between) / self.per_day
        found: np.ndarray = np.maximum(used + rng.uniform(0, 2) * rng.standard_normal(self.bins), 0)
        return found

    def _with_gaps(self, value: np.ndarray) -> np.ndarray:
        rng = self.rng
        if not self.likely(0.25):
            return value
        if self.likely(0.5):
            value = np.where(rng.random(self.bins) < self.power(-3, -0.4), np.nan, value)
        for _ in range(rng.poisson(self.bins / self.per_day / 10)):
            begin = int(rng.integers(self.bins))
            value[begin : begin + max(1, int(self.power(2.8, 5) / self.step))] = np.nan
        return value


def slow_noise(rng: Generator, count: int, memory: float) -> np.ndarray:
    """Noise of standard deviation 1 whose correlation falls to 1/e in ``memory`` values, ``[count]``."""
    # A Fourier filter, because it needs no loop over time.
    frequency = np.fft.rfftfreq(count)
    gain = 1 / np.sqrt(1 + (2 * np.pi * frequency * memory) ** 2)
    return _scaled(np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * gain, n=count))


def _coloured_noise(rng: Generator, count: int, exponent: float) -> np.ndarray:
    """Noise of standard deviation 1 whose power falls with frequency to the ``exponent``."""
    frequency = np.fft.rfftfreq(count)
    frequency[0] = frequency[1]
    gain = frequency ** (-exponent / 2)
    return _scaled(np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * gain, n=count))


def _scaled(noise: np.ndarray) -> np.ndarray:
    spread = noise.std()
    # A few values with a long memory hardly differ: divided by their spread, all of them would be enormous.
    found: np.ndarray = np.clip(noise / spread, -_MOST_NOISE, _MOST_NOISE) if spread > 0 else noise
    return found


def _strength(rng: Generator, kind: str) -> float:
    """How pronounced the daily rhythm is."""
    if kind == "rhythm":
        return 1.0
    if kind == "weak rhythm":
        return float(rng.uniform(0, 0.5))
    if kind == "wandering":
        return float(rng.uniform(0, 0.6)) if rng.random() < 0.5 else 0.0
    return float(rng.random())


def _flattened(shape: np.ndarray, strength: float) -> np.ndarray:
    found: np.ndarray = np.maximum(1 + strength * (shape - 1), 0)
    return found


def _shape(rng: Generator) -> np.ndarray:
    """A daily rhythm with mean 1, at least 0, float64 [minutes]."""
    kind = str(rng.choice(list(_SHAPES), p=list(_SHAPES.values())))
    time = np.arange(_MINUTES) / _MINUTES
    made = {"waves": _waves, "office": _office, "peaks": _peaks, "smooth": _smooth, "flat": _flat}[kind](
        rng, time
    )
    found: np.ndarray = made / max(float(made.mean()), 1e-9)
    return found


def _waves(rng: Generator, time: np.ndarray) -> np.ndarray:
    made = np.zeros(len(time))
    for wave in range(1, rng.integers(2, 6)):
        size = rng.normal() * wave ** -rng.uniform(0.5, 1.5)
        made += size * np.cos(2 * np.pi * wave * (time - rng.random()))
    return np.exp(0.8 * rng.uniform(0.2, 1.2) * made / max(float(made.std()), 1e-6))


def _office(rng: Generator, time: np.ndarray) -> np.ndarray:
    begin, length, edge = rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.55), rng.uniform(0.01, 0.12)
    since = (time - begin) % 1
    made = 1 / (1 + np.exp(2 - 4 * since / edge)) / (1 + np.exp(4 * (since - length) / edge))
    lunch = np.exp(-(((since - length * rng.uniform(0.3, 0.6)) / 0.03) ** 2))
    share: np.ndarray = made / max(float(made.max()), 1e-6) * (1 - rng.uniform(0, 0.4) * lunch)
    return rng.uniform(0, 0.5) + share


def _peaks(rng: Generator, time: np.ndarray) -> np.ndarray:
    made = np.full(len(time), rng.uniform(0.02, 0.6))
    for _ in range(rng.integers(1, 5)):
        distance = (time - rng.random() + 0.5) % 1 - 0.5
        made += rng.uniform(0.2, 2) * np.exp(-0.5 * (distance / 10 ** rng.uniform(-2.2, -0.8)) ** 2)
    return made


def _smooth(rng: Generator, time: np.ndarray) -> np.ndarray:
    wave = np.arange(len(time) // 2 + 1)
    gain = np.where(wave > 0, np.exp(-wave / rng.uniform(1.5, 12)), 0)
    parts = rng.standard_normal(len(wave)) + 1j * rng.standard_normal(len(wave))
    return np.exp(rng.uniform(0.1, 0.9) * _scaled(np.fft.irfft(parts * gain, n=len(time))))


def _flat(rng: Generator, time: np.ndarray) -> np.ndarray:
    return 1 + rng.uniform(0, 0.05) * np.cos(2 * np.pi * (time - rng.random()))
