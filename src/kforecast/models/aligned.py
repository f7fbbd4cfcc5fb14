"""What a pretrained network sees of one step of a window: past days, aligned with the step.

All values are distances from the last value, in units of a scale of the step, so that levels, units and the
length of the horizon make no difference.

Shape suffixes: B windows, K steps, D seasons, R recent bins.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kforecast.data.windows import Past
from kforecast.window import Lookback, Window

# Seasons are days, or weeks if a bin is a day; a network has room for this many.
SEASONS, _WEEKS, _WEEK = 28, 8, 7
RECENT, _BEFORE, _AFTER = 48, 6, 2
# The newest bins one by one; those before them as means over six.
_ONE_BY_ONE, _MEANS, _OF = 24, 4, 6
# Bins around the step that are read of each season: two before, two after.
_AROUND = 2
# Ways in which a season says what the step will be, and numbers that say how like today it is.
VIEWS, COMPARED = 5, 6
# Values of the newest bins, and all other numbers.
NEWEST, OTHERS = _MEANS + _ONE_BY_ONE, 34
# Smallest unit as a share of the level, largest input, and limit of the ratio of today's level to a past one.
_LEAST_UNIT, _LARGEST_INPUT, _MOST_GROWTH = 0.003, 30.0, 5.0


class Aligned(NamedTuple):
    """The inputs of a network for steps of windows; 0 where unknown."""

    seasons: Tensor
    """float32 [B, K, D, VIEWS]: the step as each season has it, seen in five ways."""
    known: Tensor
    """bool [B, K, D, VIEWS]."""
    compared: Tensor
    """float32 [B, K, D, COMPARED]: how like today each season is."""
    newest: Tensor
    """float32 [B, K, NEWEST]: the newest bins."""
    others: Tensor
    """float32 [B, K, OTHERS]: what is known, movement and level, the step, the local time."""


class Scaled(NamedTuple):
    """A forecast is ``center + scale * output``."""

    center: Tensor
    """The last value, float32 [B, 1]."""
    scale: Tensor
    """float32 [B, K], above 0."""
    unit: Tensor
    """Mean movement from bin to bin, float32 [B, 1], above 0."""
    alive: Tensor
    """Whether the window moved at all or has a level, bool [B, 1]."""


def lookback(window: Window) -> Lookback:
    """The history that :func:`aligned` reads."""
    days = window.frequency.day > 1
    return Lookback(max(RECENT, window.context_length), SEASONS if days else _WEEKS, _BEFORE, _AFTER)


def aligned(past: Past, step_BK: Tensor, window: Window) -> tuple[Aligned, Scaled]:  # noqa: N803
    """The inputs for steps of windows.

    Parameters
    ----------
    past:
        History as :func:`lookback` reads it.
    step_BK:
        Steps of the horizon, counted from 0, int64 [B, K].
    """
    recent, recent_known = past.recent[:, -RECENT:], past.recent_observed[:, -RECENT:]
    center, age = _newest(past)
    scaled, moved_of_recent, pairs, level = _scaled(past, step_BK, center)
    seasons, known, compared = _seasons(past, step_BK, scaled, level)
    values, values_known = _newest_bins(recent, recent_known, center)
    scale = scaled.scale
    mean_of_recent = (moved_of_recent / pairs.clamp_min(1))[:, None]

    def shared(value_B: Tensor) -> Tensor:  # noqa: N803
        return value_B[:, None].expand_as(scale)

    seconds, ahead = window.frequency.step, (step_BK + 1).float()
    numbers = [
        0.2 * (center / scale).clamp(1e-3, 1e6).log(),
        0.2 * (level / scale).clamp(1e-3, 1e6).log(),
        (scaled.unit / scale).log(),
        (mean_of_recent / scaled.unit).clamp(1e-2, 1e2).log().expand_as(scale),
        shared((age / 12).clamp_max(4)),
        shared(pairs / RECENT),
        shared(past.seasons_observed.any(dim=2).sum(dim=1) / SEASONS),
        shared(past.seasons_observed[:, 0].float().mean(dim=1)),
        shared(past.seasons_observed[:, _WEEK - 1].float().mean(dim=1)),
        0.5 * ahead.log(),
        0.3 * (ahead * seconds / 3600).log(),
        torch.full_like(scale, 0.3 * math.log(seconds / 600)),
    ]
    others = [
        values_known[:, None, ::2].expand(-1, step_BK.shape[1], -1),
        torch.stack(numbers, dim=-1),
        _clock(past.moment, step_BK, window.frequency.day),
    ]
    newest = (values[:, None] / scale[..., None]).clamp(-_LARGEST_INPUT, _LARGEST_INPUT)
    return Aligned(seasons, known, compared, newest, torch.cat(others, dim=-1)), scaled


def asinh(values: Tensor) -> Tensor:
    """The inverse hyperbolic sine of values up to 1e15, five times faster than torch's and exact to 1e-6."""
    size = values.abs().clamp_max(1e15)
    return values.sign() * (size + (size.square() + 1).sqrt()).log()


def _newest(past: Past) -> tuple[Tensor, Tensor]:
    """The newest observed recent bin, else the mean of all observed seasons, else 0, [B, 1]; its age, [B]."""
    length = past.recent.shape[1]
    place = torch.arange(length, device=past.recent.device)
    newest = place.where(past.recent_observed, -1).amax(dim=1, keepdim=True)
    value = past.recent.gather(1, newest.clamp_min(0))
    mean = past.seasons.sum(dim=(1, 2)) / past.seasons_observed.sum(dim=(1, 2)).clamp_min(1)
    return value.where(newest >= 0, mean[:, None]), (length - 1 - newest[:, 0]).float()


def _moves(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of absolute differences of known neighbours along the last axis, and the number of such pairs."""
    both = known[..., 1:] & known[..., :-1]
    return (values.diff(dim=-1).abs() * both).sum(dim=-1), both.sum(dim=-1)


def _scaled(past: Past, step_BK: Tensor, center: Tensor) -> tuple[Scaled, Tensor, Tensor, Tensor]:  # noqa: N803
    """Scales; the movement of the recent bins and the number of its pairs, [B]; the level, [B, 1]."""
    recent, recent_known = past.recent[:, -RECENT:], past.recent_observed[:, -RECENT:]
    week, week_known = past.seasons[:, :_WEEK], past.seasons_observed[:, :_WEEK]
    moved, pairs = _moves(recent, recent_known)
    moved_of_week, pairs_of_week = _moves(week, week_known)
    count = week_known.sum(dim=(1, 2)) + recent_known.sum(dim=1)
    level = ((week.abs().sum(dim=(1, 2)) + recent.abs().sum(dim=1)) / count.clamp_min(1))[:, None]
    mean = (moved + moved_of_week.sum(dim=1)) / (pairs + pairs_of_week.sum(dim=1)).clamp_min(1)
    unit = torch.maximum(mean[:, None], _LEAST_UNIT * level)
    alive = unit > 0
    unit = unit.where(alive, 1.0)
    # The movement of past days from the time of the origin to that of the step; a random walk's without days.
    at = _places(step_BK, past.seasons.shape[1])
    moves = past.seasons.gather(2, at) - past.seasons[:, :, _BEFORE - 1, None]
    both = past.seasons_observed.gather(2, at) & past.seasons_observed[:, :, _BEFORE - 1, None]
    guess = unit * (step_BK + 1).float().sqrt()
    scale = unit + ((moves.abs() * both).sum(dim=1) + guess) / (both.sum(dim=1) + 1)
    return Scaled(center, scale, unit, alive), moved, pairs, level


def _places(step_BK: Tensor, seasons: int) -> Tensor:  # noqa: N803
    """The bins of steps in each season, [B, D, K]."""
    return (_BEFORE + step_BK)[:, None].expand(-1, seasons, -1)


def _seasons(
    past: Past,
    step_BK: Tensor,  # noqa: N803
    scaled: Scaled,
    level: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """:class:`Aligned`'s ``seasons``, ``known`` and ``compared``."""
    (count, steps), seasons = step_BK.shape, past.seasons.shape[1]
    width = 2 * _AROUND + 1
    around = torch.arange(-_AROUND, _AROUND + 1, device=step_BK.device)
    at = (_BEFORE + step_BK[..., None] + around).view(count, 1, steps * width).expand(-1, seasons, -1)

    def near_steps(values: Tensor) -> Tensor:
        return values.gather(2, at).view(count, seasons, steps, width).transpose(1, 2)

    value, there = near_steps(past.seasons), near_steps(past.seasons_observed)
    target, target_known = value[..., _AROUND], there[..., _AROUND]
    smooth = (value * there).sum(dim=3) / there.sum(dim=3).clamp_min(1)
    smooth_known = there.any(dim=3)
    # The bins before the origin, today and on that day, where both are known.
    recent, recent_known = past.recent[:, -_BEFORE:], past.recent_observed[:, -_BEFORE:]
    both = past.seasons_observed[:, :, :_BEFORE] & recent_known[:, None]
    pairs = both.sum(dim=2)
    then = (past.seasons[:, :, :_BEFORE] * both).sum(dim=2) / pairs.clamp_min(1)
    now = (recent[:, None] * both).sum(dim=2) / pairs.clamp_min(1)
    risen = now - then
    shape = past.seasons[:, :, :_BEFORE] - recent[:, None] + risen[..., None]
    unlike = (shape.abs() * both).sum(dim=2) / pairs.clamp_min(1)
    has_ratio = (then.abs() > 0.05 * level) & (pairs > 2)
    growth = (now / then.where(has_ratio, 1.0)).where(has_ratio, 1.0).clamp(1 / _MOST_GROWTH, _MOST_GROWTH)

    last, last_known = past.seasons[:, :, _BEFORE - 1], past.seasons_observed[:, :, _BEFORE - 1]
    center, scale = scaled.center[..., None], scaled.scale[..., None]
    of_day, some = (pairs > 0)[:, None], (pairs / _BEFORE)[:, None].expand(-1, steps, -1)
    views = [
        (target - center, target_known),
        (target - last[:, None], target_known & last_known[:, None]),
        (smooth - center, smooth_known),
        (smooth - then[:, None] + (now - scaled.center)[:, None], smooth_known & of_day),
        (smooth * growth[:, None] - center, smooth_known & has_ratio[:, None]),
    ]
    known = torch.stack([known for _, known in views], dim=-1)
    seen = torch.stack([value / scale for value, _ in views], dim=-1)
    seen = seen.clamp(-_LARGEST_INPUT, _LARGEST_INPUT) * known
    alike = past.alike.gather(2, _places(step_BK, seasons)).transpose(1, 2).float()
    compared = [
        asinh(risen[:, None] / scale),
        asinh(unlike[:, None] / scale),
        growth.log()[:, None].expand(-1, steps, -1),
        alike,
        asinh((target - smooth) / scale) * target_known,
        some,
    ]
    missing = (0, 0, 0, SEASONS - seasons)
    return (
        functional.pad(seen, missing),
        functional.pad(known, missing),
        functional.pad(torch.stack(compared, dim=-1), missing),
    )


def _newest_bins(recent: Tensor, known: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """The newest bins less the last value, older ones as means, and which are known; both [B, NEWEST]."""
    values = (recent - center) * known
    # Not len(), which would fix the number of windows in an export.
    older = (values.shape[0], _MEANS, _OF)
    count = known[:, :-_ONE_BY_ONE].reshape(older).sum(dim=2)
    means = values[:, :-_ONE_BY_ONE].reshape(older).sum(dim=2) / count.clamp_min(1)
    newest = slice(-_ONE_BY_ONE, None)
    return torch.cat([means, values[:, newest]], dim=1), torch.cat([count > 0, known[:, newest]], 1).float()


def _clock(moment_B3: Tensor, step_BK: Tensor, per_day: int) -> Tensor:  # noqa: N803
    """Sine waves of the step's local time, its weekend and Monday, and the origin's day off, [B, K, 8]."""
    time = moment_B3[:, :1] + step_BK / per_day
    day = (moment_B3[:, 1:2] + time.floor()) % _WEEK
    angle = 2 * math.pi * time
    waves = torch.stack([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], dim=-1)
    if per_day == 1:
        waves = torch.zeros_like(waves)
    days = torch.stack([day == 5, day == 6, day == 0, (moment_B3[:, 2:] > 0).expand_as(day)], dim=-1)
    return torch.cat([waves, days.float()], dim=-1)
