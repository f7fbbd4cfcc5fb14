"""BoostedTrees: gradient-boosted trees that see the same time of past days and weeks.

Shape suffixes: B windows, P horizon bins, D seasons, F features.
"""

from typing import Any

import torch
from torch import Tensor

from kforecast.data.windows import Past, WindowBatch
from kforecast.models.forest import Forest
from kforecast.models.network import Forecast, Network, Prepared
from kforecast.window import Lookback, Window

_RECENT, _BEFORE, _AFTER = 24, 6, 2
# Seasons are days, or weeks if a bin is a day. Those that are features of their own, and those of the week.
_DAYS, _WEEKS = 28, 8
_DAYS_SEEN, _WEEKS_SEEN = (0, 1, 2, 3, 4, 5, 6, 13, 20, 27), tuple(range(_WEEKS))
_WEEK, _SAME_DAYS = 7, (6, 13, 20, 27)
# Newest bins whose mean and dispersion are features.
_SPANS = (3, 6, 12, 24)
# Limit of the ratio between the levels of today and of past days.
_MOST_GROWTH = 5.0
# Smallest unit as a share of the level, and largest feature, as of SeasonalMLP.
_LEAST_UNIT, _LARGEST_INPUT = 0.003, 50.0
_LARGEST_TARGET = 10_000.0
# Stands for a missing feature: below all others, so that a tree can tell it from them with one threshold.
_MISSING = -100.0


class BoostedTrees(Network):
    """Gradient-boosted trees that forecast a correction to the last value, in units of the series' movement.

    One row of features is one step of one window, and all series share the trees. The features are:

    - the newest 24 bins;
    - the same time as the forecast one on each of the last 7 days and on the same weekday of 4 weeks: the
      value, and its movement since the time of the origin on that day;
    - means, medians and dispersion of both, over 7 days, 4 weeks, and like days (working days or days off);
    - the level of the newest bins against the same time yesterday, last week and over 7 days;
    - means and dispersion of the newest 3, 6, 12 and 24 bins;
    - the local time of the origin and of the step, and the number of the step.

    The last value is subtracted from all values, and they are divided by the mean movement of the series from
    bin to bin at this time of day, so that levels and units make no difference. Nothing tells one series from
    another otherwise: a series that training did not see is no different.

    It is not trained by gradients: :func:`kforecast.training.boosting.boost` grows the trees with LightGBM.
    Forecasting needs torch alone. See Ke et al. 2017, "LightGBM: a highly efficient gradient boosting
    decision tree".

    Parameters
    ----------
    window:
        Defines P and the season.
    num_series:
        Number of series in training.
    leaves, depth:
        Most leaves of a tree, and most splits on a path.
    rows:
        Most rows to grow the trees from, drawn at random: a row is a step of a window.
    least_rows:
        Fewest rows in a leaf.

    Raises
    ------
    ValueError
        When a setting is invalid.
    """

    windows_per_thread = 1
    parts = ("trees",)

    def __init__(
        self,
        window: Window,
        num_series: int,
        leaves: int = 31,
        depth: int = 8,
        rows: int = 200_000,
        least_rows: int = 50,
    ) -> None:
        super().__init__()
        sizes = {"leaves": leaves, "depth": depth, "rows": rows, "least_rows": least_rows}
        problems = [
            f"{name} is {value!r}, not a whole number above {least - 1}"
            for (name, value), least in zip(sizes.items(), (2, 1, 1, 1), strict=True)
            if isinstance(value, bool) or not isinstance(value, int) or value < least
        ]
        if problems:
            raise ValueError("; ".join(problems))
        self.window, self.num_series = window, num_series
        self.leaves, self.depth, self.rows, self.least_rows = leaves, depth, rows, least_rows
        days = window.frequency.day > 1
        self.lookback: Lookback = Lookback(
            recent=max(_RECENT, window.context_length),
            seasons=_DAYS if days else _WEEKS,
            before=_BEFORE,
            after=_AFTER,
        )
        self._seen = _DAYS_SEEN if days else _WEEKS_SEEN
        self._same_days = _SAME_DAYS if days else tuple(range(4))
        self.correction, self.spread = Forest(self.num_features), Forest(self.num_features)

    @property
    def count(self) -> int:
        """Number of trees."""
        return self.correction.count

    @property
    def num_features(self) -> int:
        """F."""
        of_step = 2 * len(self._seen) + 2 * 3 * 3 + 2 + 3
        return _RECENT + 2 * 3 + 3 * len(_SPANS) + 2 + 3 + of_step

    def prepare(self, batch: WindowBatch) -> Prepared:
        """Compute the features [B, P, F], see the class."""
        past = batch.past
        if past is None:
            raise ValueError("the windows have no past; give ForecastDataModule lookback=net.lookback")
        center = _newest(past)
        unit, level = _unit_and_level(past)
        alive = unit > 0
        unit = unit.where(alive, 1.0)
        horizon = self.window.prediction_length
        of_window = torch.cat(_of_window(past, center, unit, level), dim=1)
        of_steps = torch.cat(self._of_steps(past, center, unit, level), dim=2)
        rows = torch.cat([of_window[:, None].expand(-1, horizon, -1), of_steps], dim=2)
        return Prepared((rows,), center, unit, alive)

    def _of_steps(self, past: Past, center: Tensor, unit: Tensor, level: Tensor) -> list[Tensor]:
        """The features that differ from step to step, each [B, P, ...]."""
        horizon = self.window.prediction_length
        ahead, newest = _bins(0, horizon), _bins(-1, 0)
        value = past.seasons[:, :, ahead].transpose(1, 2)  # [B, P, D]
        known = past.seasons_observed[:, :, ahead].transpose(1, 2)
        then = past.seasons[:, :, newest].transpose(1, 2)
        then_known = past.seasons_observed[:, :, newest].transpose(1, 2)
        values = (value - center[:, :, None]).div_(unit[:, :, None]).clamp_(-_LARGEST_INPUT, _LARGEST_INPUT)
        moved = (value - then).div_(unit[:, :, None]).clamp_(-_LARGEST_INPUT, _LARGEST_INPUT)
        moved_known = known & then_known
        seen = torch.tensor(self._seen, device=value.device)
        made = [
            _with_missing(values.index_select(2, seen), known.index_select(2, seen)),
            _with_missing(moved.index_select(2, seen), moved_known.index_select(2, seen)),
        ]
        same = torch.tensor(self._same_days, device=value.device)
        alike = past.alike[:, :, ahead].transpose(1, 2)
        for found, there in ((values, known), (moved, moved_known)):
            made.append(_statistics(found[..., :_WEEK], there[..., :_WEEK]))
            made.append(_statistics(found.index_select(2, same), there.index_select(2, same)))
            made.append(_statistics(found, there & alike))
        made.append(self._scaled_like_days(past, center, unit, level))
        made.append(self._smooth(past, center, unit))
        step = torch.arange(horizon, device=value.device).float()
        time = past.moment[:, :1] + step / self.window.frequency.day
        day = (past.moment[:, 1:2] + time.floor()) % 7
        steps = step.expand(len(time), horizon)
        made.append(torch.stack([steps, time % 1, day], dim=2))
        return made

    def _scaled_like_days(self, past: Past, center: Tensor, unit: Tensor, level: Tensor) -> Tensor:
        """The mean over like days, scaled to the level of the newest bins; [B, P, 1]."""
        horizon = self.window.prediction_length
        counted = (past.seasons_observed & past.alike).float()
        times = counted.sum(dim=1)
        mean, has = (past.seasons * counted).sum(dim=1) / times.clamp_min(1), times > 0
        before, ahead = _bins(-_BEFORE, 0), _bins(0, horizon)
        both = has[:, before] & past.recent_observed[:, -_BEFORE:]
        now = past.recent[:, -_BEFORE:].where(both, 0.0).sum(dim=1, keepdim=True)
        then = mean[:, before].where(both, 0.0).sum(dim=1, keepdim=True)
        growth = (now / then).where(then.abs() > 1e-3 * level, 1.0)
        values = mean[:, ahead] * growth.clamp(1 / _MOST_GROWTH, _MOST_GROWTH)
        return _relative(values, has[:, ahead], center, unit)[..., None]

    def _smooth(self, past: Past, center: Tensor, unit: Tensor) -> Tensor:
        """The mean over 7 days of the bins from one before to one after the same time; [B, P, 1]."""
        horizon = self.window.prediction_length
        around = _bins(-1, horizon + 1)
        near = past.seasons_observed[:, :_WEEK, around].float().sum(dim=1)
        total = past.seasons[:, :_WEEK, around].sum(dim=1)
        count, total = near.unfold(1, 3, 1).sum(dim=2), total.unfold(1, 3, 1).sum(dim=2)
        return _relative(total / count.clamp_min(1), count > 0, center, unit)[..., None]

    def forward(self, rows_BPF: Tensor) -> Tensor:  # noqa: N803
        """The correction in units of the movement, float32 [B, P]."""
        made: Tensor = self.correction(rows_BPF.flatten(0, 1))
        return made.view(rows_BPF.shape[:2])

    def losses(self, made: Tensor, target_BP: Tensor) -> Tensor:  # noqa: N803
        """The absolute error."""
        return (target_BP.clamp(-_LARGEST_TARGET, _LARGEST_TARGET) - made).abs()

    def forecast(self, batch: WindowBatch) -> Forecast:
        """The last value and its correction; the spread is the expected size of the error.

        Forecasts are at least zero if no bin that the trees see is below zero.
        """
        past = batch.past
        assert past is not None
        prepared = self.prepare(batch)
        rows, alive = prepared.inputs[0], prepared.alive
        assert alive is not None
        values = prepared.center + prepared.scale * self(rows).where(alive, 0.0)
        lowest = torch.minimum(past.recent.amin(dim=1), past.seasons.amin(dim=(1, 2)))[:, None]
        # NaN stays NaN: a zero would be mistaken for a forecast.
        values = values.where((lowest < 0) | ~(values <= 0), 0.0)
        spread = self.spread(rows.flatten(0, 1)).view(values.shape).clamp_min(_LEAST_UNIT)
        return Forecast(values, prepared.scale * spread.where(alive, 0.0))

    def unknown_series(self) -> int:
        """Any id: the trees do not see which series it is."""
        return self.num_series

    def series_rows(self, table: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG002
        """There is no table of series."""
        return table

    def settings(self) -> dict[str, Any]:
        """Arguments of the class other than window and number of series."""
        return {
            "leaves": self.leaves,
            "depth": self.depth,
            "rows": self.rows,
            "least_rows": self.least_rows,
        }


def _bins(first: int, last: int) -> slice:
    """Bins of a season, counted from the local time of the origin."""
    return slice(_BEFORE + first, _BEFORE + last)


def _of_window(past: Past, center: Tensor, unit: Tensor, level: Tensor) -> list[Tensor]:
    """The features that all steps of a window share, each [B, ...]."""
    recent, known = past.recent[:, -_RECENT:], past.recent_observed[:, -_RECENT:]
    made = [_relative(recent, known, center, unit)]
    before = _bins(-_BEFORE, 0)
    # Today's level against that of yesterday, of a week ago and of the mean over 7 days.
    week = past.seasons_observed[:, :_WEEK, before]
    count = week.sum(dim=1)
    mean = past.seasons[:, :_WEEK, before].sum(dim=1) / count.clamp_min(1)
    for then, there in (
        (past.seasons[:, 0, before], week[:, 0]),
        (past.seasons[:, _WEEK - 1, before], week[:, _WEEK - 1]),
        (mean, count > 0),
    ):
        both = there & known[:, -_BEFORE:]
        pairs = both.sum(dim=1, keepdim=True)
        now = recent[:, -_BEFORE:].where(both, 0.0).sum(dim=1, keepdim=True) / pairs.clamp_min(1)
        was = then.where(both, 0.0).sum(dim=1, keepdim=True) / pairs.clamp_min(1)
        made.append(_relative(now - was + center, pairs > 0, center, unit))
        positive = (now > 0) & (was > 0)
        ratio = (now / was.where(positive, 1.0)).clamp_min(1e-6).log().clamp(-5, 5)
        made.append(_with_missing(ratio, positive & (pairs > 0)))
    for span in _SPANS:
        made.append(_mean_and_dispersion(recent[:, -span:], known[:, -span:], center, unit))
        made.append(_moves_of(recent[:, -span:], known[:, -span:], unit))
    made += [_log_ratio(center.abs(), unit), _log_ratio(level, unit), past.moment]
    return made


def _relative(values: Tensor, known: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """Values as distances from the last value in units of the movement; both [B, ...]."""
    made = ((values - center) / unit).clamp(-_LARGEST_INPUT, _LARGEST_INPUT)
    return _with_missing(made, known)


def _with_missing(made: Tensor, known: Tensor) -> Tensor:
    return made.where(known, _MISSING)


def _log_ratio(values: Tensor, unit: Tensor) -> Tensor:
    return (values / unit).clamp(1e-3, 1e6).log()


def _mean_and_dispersion(values: Tensor, known: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """Mean and standard deviation over known bins, [B, 2]."""
    count = known.sum(dim=1, keepdim=True)
    made = (values - center) / unit
    mean = made.where(known, 0.0).sum(dim=1, keepdim=True) / count.clamp_min(1)
    variance = (made - mean).square().where(known, 0.0).sum(dim=1, keepdim=True) / count.clamp_min(1)
    found = torch.cat([mean, variance.sqrt()], dim=1).clamp(-_LARGEST_INPUT, _LARGEST_INPUT)
    return _with_missing(found, count > 0)


def _moves_of(values: Tensor, known: Tensor, unit: Tensor) -> Tensor:
    """Mean absolute difference of known neighbours in units of the movement, [B, 1]."""
    both = known[:, 1:] & known[:, :-1]
    pairs = both.sum(dim=1, keepdim=True)
    mean = values.diff(dim=1).abs().where(both, 0.0).sum(dim=1, keepdim=True) / pairs.clamp_min(1)
    return _with_missing((mean / unit).clamp_max(_LARGEST_INPUT), pairs > 0)


def _statistics(values: Tensor, known: Tensor) -> Tensor:
    """Mean, median and standard deviation over the known of the last axis, [B, P, 3]."""
    count = known.sum(dim=2, keepdim=True)
    mean = values.where(known, 0.0).sum(dim=2, keepdim=True) / count.clamp_min(1)
    variance = (values - mean).square().where(known, 0.0).sum(dim=2, keepdim=True) / count.clamp_min(1)
    ordered = values.where(known, torch.inf).sort(dim=2).values
    last = values.shape[2] - 1
    low, high = ((count - 1).div(2, rounding_mode="floor"), count.div(2, rounding_mode="floor"))
    median = (ordered.gather(2, low.clamp(0, last)) + ordered.gather(2, high.clamp(0, last))) / 2
    return _with_missing(torch.cat([mean, median, variance.sqrt()], dim=2), count > 0)


def _newest(past: Past) -> Tensor:
    """The newest observed recent bin, else the mean of all observed seasons, else 0; [B, 1]."""
    length = past.recent.shape[1]
    age = torch.arange(length, device=past.recent.device)
    newest = age.where(past.recent_observed, -1).amax(dim=1, keepdim=True)
    value = past.recent.gather(1, newest.clamp_min(0))
    known = past.seasons_observed.sum(dim=(1, 2))
    mean = past.seasons.sum(dim=(1, 2)) / known.clamp_min(1)
    return value.where(newest >= 0, mean[:, None])


def _unit_and_level(past: Past) -> tuple[Tensor, Tensor]:
    """Mean movement from bin to bin, and mean absolute value, at this time of day; both [B, 1]."""
    week, known = past.seasons[:, :_WEEK], past.seasons_observed[:, :_WEEK]
    sums = []
    for values, there in ((past.recent[:, None], past.recent_observed[:, None]), (week, known)):
        both = there[..., 1:] & there[..., :-1]
        moves = values.diff(dim=2).abs().where(both, 0.0)
        sums.append(torch.stack([one.float().sum(dim=(1, 2)) for one in (moves, both, values.abs(), there)]))
    moves, pairs, total, count = (sums[0] + sums[1])[..., None]
    level = total / count.clamp_min(1)
    return torch.maximum(moves / pairs.clamp_min(1), _LEAST_UNIT * level), level
