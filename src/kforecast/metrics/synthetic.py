"""``source=synthetic``: seeded traffic shaped like that of web services, for trials without a cluster."""

from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kforecast.localtime import check_time_zone, utc_offsets
from kforecast.metrics.source import check_frame

_NAMES = ("cart", "checkout", "search", "catalog", "login", "payment", "media", "feed", "admin", "api")


class SyntheticSource(BaseModel):
    """Several workloads with daily and hourly cycles, a weekend effect, trend, noise, spikes and gaps."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    repeatable: ClassVar[bool] = True

    workloads: Annotated[int, Field(ge=1)]
    """Number of series."""
    days: Annotated[int, Field(ge=1)]
    """Length of the history."""
    step: Annotated[int, Field(ge=1)]
    """Seconds between rows."""
    start: Annotated[int, Field(ge=0)]
    """Unix seconds of the first row."""
    hourly: Annotated[float, Field(ge=0)]
    """Amplitude of the cycle within the hour (scheduled jobs), as a share of the level."""
    weekend: Annotated[float, Field(ge=0)]
    """Level on Saturday and Sunday, as a share of the weekday level."""
    trend: Annotated[float, Field(ge=-0.6)]
    """Relative growth over the whole history; each series gets 0.5 to 1.5 times this value."""
    noise: Annotated[float, Field(ge=0)]
    """Standard deviation of the autocorrelated noise, as a share of the level."""
    spikes: Annotated[float, Field(ge=0)]
    """Spikes per series and week; each lasts 5 to 60 minutes at two to four times the load."""
    gaps: Annotated[float, Field(ge=0)]
    """Gaps per series and week; each lasts 10 minutes to 3 hours and has no rows."""
    seed: Annotated[int, Field(ge=0)]
    """Random seed; the same seed gives the same rows."""
    timezone: Annotated[str, AfterValidator(check_time_zone)] = "UTC"
    """Time zone of the daily and hourly cycles and of the weekend."""

    def __str__(self) -> str:
        return f"synthetic traffic ({self.workloads} workloads, {self.days} days, seed {self.seed})"

    def fetch(self) -> pd.DataFrame:
        """Generate one row per series every ``step`` seconds, except inside gaps."""
        seconds = self.start + np.arange(0, self.days * 86_400, self.step)
        local = seconds + utc_offsets(self.timezone, seconds)
        frames = [self._series(number, seconds, local) for number in range(self.workloads)]
        frame = pd.concat(frames, ignore_index=True)
        frame["workload"] = frame["workload"].astype("category")
        frame["metric"] = frame["metric"].astype("category")
        return check_frame(frame, str(self), any_time=True)

    def _series(self, number: int, seconds: np.ndarray, local: np.ndarray) -> pd.DataFrame:
        # One generator per series, so that adding a workload does not change the others.
        rng = np.random.default_rng([self.seed, number])
        day = local / 86_400
        level = 20.0 * 2.0 ** rng.uniform(0, 5)
        phase, second_peak = rng.uniform(0.45, 0.7), rng.uniform(0.1, 0.4)
        daily = np.cos(2 * np.pi * (day - phase)) + second_peak * np.cos(4 * np.pi * (day - phase - 0.1))
        shape = np.exp(rng.uniform(0.4, 0.9) * daily)
        hourly = 1 + self.hourly * np.exp(-(local % 3600) / 600.0)
        weekend = np.where((local // 86_400 + 3) % 7 >= 5, self.weekend, 1.0)
        trend = 1 + self.trend * rng.uniform(0.5, 1.5) * np.linspace(0, 1, len(seconds))
        slow = _autoregressive(rng, len(seconds), memory_steps=max(1.0, 7200 / self.step))
        quick = rng.standard_normal(len(seconds))
        value = level * shape * hourly * weekend * trend
        value *= np.clip(1 + self.noise * (0.8 * slow + 0.6 * quick), 0.05, None)

        weeks = self.days / 7
        for _ in range(rng.poisson(self.spikes * weeks)):
            begin, length = rng.integers(len(seconds)), max(1, int(rng.uniform(300, 3600) / self.step))
            value[begin : begin + length] *= rng.uniform(2, 4)
        keep = np.ones(len(seconds), dtype=bool)
        for _ in range(rng.poisson(self.gaps * weeks)):
            begin, length = rng.integers(len(seconds)), max(1, int(rng.uniform(600, 10_800) / self.step))
            keep[begin : begin + length] = False
        name = _NAMES[number % len(_NAMES)] + (f"-{number // len(_NAMES)}" if number >= len(_NAMES) else "")
        return pd.DataFrame(
            {
                "timestamp": seconds[keep],
                "value": value[keep].round(3),
                "workload": f"shop/{name}",
                "metric": "qps",
            }
        )


def _autoregressive(rng: np.random.Generator, count: int, memory_steps: float) -> np.ndarray:
    """Noise with standard deviation 1 whose correlation falls to 1/e in ``memory_steps``; ``[count]``."""
    # A Fourier filter, because it needs no loop over time.
    frequency = np.fft.rfftfreq(count)
    gain = 1 / np.sqrt(1 + (2 * np.pi * frequency * memory_steps) ** 2)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * gain, n=count)
    spread = noise.std()
    return noise / spread if spread > 0 else noise
