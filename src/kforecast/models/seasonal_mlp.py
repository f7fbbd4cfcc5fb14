"""SeasonalMLP: small residual MLPs that see the same time of past days and weeks.

Shape suffixes: B windows, P horizon bins, D seasons, W bins of a season, F features, M members, Q quantiles.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kforecast.data.windows import Past, WindowBatch
from kforecast.models.aligned import RECENT
from kforecast.models.context_mlp import ContextMLP, LongMaskDropout
from kforecast.models.network import Forecast, Network, Prepared, pinball
from kforecast.models.pretrained import beyond, fixed_net, forecast_with
from kforecast.window import Lookback, Window

# The outer quantiles bound an interval of 90 %; the median is in the middle.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MEDIAN = QUANTILES.index(0.5)
_RECENT, _BEFORE, _AFTER = 24, 6, 2
# Seasons are days, or weeks if a bin is a day. Each attention head starts as the mean over some of them.
_DAYS, _DAY_HEADS = 28, (tuple(range(7)), (6, 13, 20, 27), tuple(range(28)))
_WEEKS, _WEEK_HEADS = 8, (tuple(range(4)), tuple(range(8)), tuple(range(8)))
# The last head starts with like days only: working days for working days, days off for days off.
_LIKE, _UNLIKE = 5.0, -5.0
_WEEK = 7
# A season is compared by level, shape and whether it is a like day; and the width of the comparison.
_COMPARED, _COMPARING = 3, 8
_DAILY_WAVES, _WEEKLY_WAVES = 4, 3
# Number of features of the local time.
_CLOCK = 2 * (_DAILY_WAVES + _WEEKLY_WAVES) + _WEEK + 1
# Limit of the ratio between the levels of today and of past days.
_MOST_GROWTH = 5.0
# Smallest scale as a share of the level, and largest input: a flat window must not produce huge inputs.
_LEAST_SCALE, _LARGEST_INPUT = 0.003, 50.0
# Limit of scaled targets: one sudden rise to a million times the traffic must not dominate the loss.
_LARGEST_TARGET = 10_000.0
# Weight of the members that see past days, unless weights were fitted to validation data.
_SHARE = 0.8
# Largest weight of a window in the gradient of the part that sees the context alone.
_LARGEST_WEIGHT = 5.0
# Limits for damaged or hostile artifacts, more than anyone needs.
_MOST_LAYERS, _MOST_BYTES = 64, 2**30


class SeasonalMLP(Network):
    """Several small MLPs; the mean of their outputs is the forecast, as a correction to the last value.

    The inputs are:

    - the newest bins;
    - the bins around the horizon one season ago, and weighted means of them over 28 days;
    - the mean over like days (working days or days off), scaled to the level of the newest bins;
    - the local time;
    - an embedding of the series.

    The weights of the means are an attention over days. It depends on the number of days since, on whether it
    is a like day, and on the distance of level and shape before the origin from today's. The heads start as
    the means over 7 days, over the same weekday, and over like days.

    The last value is subtracted from all values, and they are divided by the mean movement of the series from
    bin to bin at this time of day, so that levels and units make no difference. Unobserved bins are left out
    of all means and are the last value elsewhere, so that a short history makes forecasts worse but not
    impossible. One more MLP sees only the context and the local time
    (:class:`kforecast.models.context_mlp.ContextMLP`).

    Compare Oreshkin et al. 2020 (https://arxiv.org/abs/1905.10437) for residual MLPs and their ensembles,
    Lim et al. 2021 (https://arxiv.org/abs/1912.09363) for quantile outputs, and Bahdanau et al. 2015
    (https://arxiv.org/abs/1409.0473) for the attention.

    Parameters
    ----------
    window:
        Defines P, C and the season.
    num_series:
        Rows of the series embedding; one more row is for series that were not in training.
    members:
        Number of MLPs whose forecasts are averaged.
    hidden:
        Width of their layers.
    layers:
        Number of their layers.
    dropout:
        Share of a layer's outputs left out in training.
    embedding:
        Width of the series embedding.
    series_dropout:
        Share of training windows whose series is hidden.
    history_dropout:
        Share of training windows whose older history is hidden.
    prior:
        Whether the pre-trained weights (:class:`kforecast.models.pretrained.TrafficNet`, one member) stand
        beside it (:meth:`prior_forecast`); without effect for windows that they are not for. The sizes of
        such a network, whose weights will be loaded, stand for true in an artifact.

    Raises
    ------
    ValueError
        When a setting is invalid, or when the network would exceed 1 GiB.
    """

    windows_per_thread = 128
    parts: tuple[str, ...] = ("past days", "context")
    series_table = "series"

    def __init__(
        self,
        window: Window,
        num_series: int,
        members: int = 4,
        hidden: int = 96,
        layers: int = 2,
        dropout: float = 0.1,
        embedding: int = 8,
        series_dropout: float = 0.2,
        history_dropout: float = 0.2,
        prior: bool | Mapping[str, int] = False,
    ) -> None:
        super().__init__()
        sizes = {"members": members, "hidden": hidden, "layers": layers, "embedding": embedding}
        shares = {"dropout": dropout, "series_dropout": series_dropout, "history_dropout": history_dropout}
        _check(sizes, shares)
        self.window, self.num_series = window, num_series
        self.members, self.hidden, self.layers, self.embedding_dim = members, hidden, layers, embedding
        self.dropout, self.series_dropout = dropout, series_dropout
        self.history_dropout = history_dropout
        if not isinstance(prior, bool | Mapping):
            raise ValueError(f"prior is {prior!r}, not true or false")
        days = window.frequency.day > 1
        self.with_prior = prior is not False and not beyond(window)
        self._recent = max(_RECENT, window.context_length)
        self.lookback: Lookback = Lookback(
            recent=max(RECENT, window.context_length) if self.with_prior else self._recent,
            seasons=_DAYS if days else _WEEKS,
            before=_BEFORE,
            after=_AFTER,
        )
        heads = _DAY_HEADS if days else _WEEK_HEADS
        width = self.lookback.width(window)
        inputs = self._num_features() + len(heads) * (width + 1) + embedding
        outputs = window.prediction_length * len(QUANTILES)
        weights = hidden * (inputs + (layers - 1) * hidden + outputs) + inputs * window.prediction_length
        of_context = hidden * (2 * hidden + window.context_length + _CLOCK + outputs)
        if (size := 4 * (members * weights + of_context)) > _MOST_BYTES:
            raise ValueError(
                f"{members} members of {layers} layers of {hidden} with {inputs} inputs make a network of "
                f"{size / 2**30:.1f} GiB; at most 1"
            )

        def uniform(*shape: int) -> nn.Parameter:
            """Initial weights like those of nn.Linear."""
            return nn.Parameter((torch.rand(shape) * 2 - 1) / math.sqrt(shape[-2]))

        self.compare = nn.Linear(_COMPARED, _COMPARING)
        self.weigh = nn.Parameter(torch.zeros(_COMPARING, len(heads)))
        ago = torch.full((self.lookback.seasons, len(heads)), _UNLIKE)
        for head, seasons in enumerate(heads):
            ago[list(seasons), head] = 0.0
        self.ago = nn.Parameter(ago)
        self.like = nn.Parameter(torch.tensor([0.0] * (len(heads) - 1) + [_LIKE]))
        self.dropped = LongMaskDropout(dropout)
        self.series = nn.Parameter(torch.randn(num_series + 1, embedding) * 0.1)
        self.first_weight = uniform(inputs, members * hidden)
        self.first_bias = nn.Parameter(torch.zeros(members * hidden))
        self.weight = nn.ParameterList([uniform(members, hidden, hidden) for _ in range(layers - 1)])
        self.bias = nn.ParameterList(
            [nn.Parameter(torch.zeros(members, 1, hidden)) for _ in range(layers - 1)]
        )
        self.context = ContextMLP(window.context_length, _CLOCK, outputs, hidden, self.dropped)
        # With zeros, training starts from the last-value forecast.
        self.last_weight = nn.Parameter(torch.zeros(members, hidden, outputs))
        self.last_bias = nn.Parameter(torch.zeros(members, 1, outputs))
        self.linear = nn.Parameter(torch.zeros(inputs, members * window.prediction_length))
        if self.with_prior:
            self.prior = fixed_net(None if isinstance(prior, bool) else prior, members=1)

    def prepare(self, batch: WindowBatch) -> Prepared:
        """Compute the features, see the class."""
        past = batch.past
        if past is None:
            raise ValueError("the windows have no past; give ForecastDataModule lookback=net.lookback")
        past = past._replace(
            recent=past.recent[:, -self._recent :], recent_observed=past.recent_observed[:, -self._recent :]
        )
        if self.training and self.history_dropout:
            past = self._shortened(past)
        # Masks as floats, to count and multiply without conversions.
        seen, known, alike = past.seasons, past.seasons_observed.float(), past.alike.float()
        recent_known = past.recent_observed.float()
        center = _newest(past)
        # Movement and level of the series at this time of day.
        moves_of_recent, pairs_of_recent = _moves(past.recent, recent_known)
        moves_of_week, pairs_of_week = _moves(seen[:, :_WEEK], known[:, :_WEEK])
        moves = moves_of_recent + moves_of_week.sum(dim=1)
        pairs = pairs_of_recent + pairs_of_week.sum(dim=1)
        count = known[:, :_WEEK].sum(dim=(1, 2)) + recent_known.sum(dim=1)
        level = (seen[:, :_WEEK].abs().sum(dim=(1, 2)) + past.recent.abs().sum(dim=1)) / count.clamp_min(1)
        scale = torch.maximum(moves / pairs.clamp_min(1), _LEAST_SCALE * level)[:, None]
        alive = scale > 0
        scale = scale.where(alive, 1.0)

        def relative(values: Tensor, known: Tensor) -> Tensor:
            made = (values - center).div_(scale).clamp_(-_LARGEST_INPUT, _LARGEST_INPUT)
            return made.mul_(known)

        recent = relative(past.recent, recent_known)
        seasons = relative(seen.flatten(1), known.flatten(1)).view_as(seen)
        shares = [recent_known.mean(dim=1, keepdim=True), known[:, 0].mean(dim=1, keepdim=True)]
        today = _like_days_at_todays_level(
            past.recent, recent_known, seen, known * alike, level, self.window.prediction_length
        )
        amounts = (torch.cat([center.abs(), level[:, None]], dim=1) / scale).clamp(1e-3, 1e6).log()
        features = torch.cat([recent, seasons[:, 0], relative(*today), *shares, amounts], dim=1)
        clock = _clock(past.moment)
        of_context, unit = ContextMLP.prepare(batch.context, center, scale)
        inputs = (
            torch.cat([features, clock], dim=1),
            _compared(recent, recent_known, seasons, known, alike),
            seasons,
            known,
            batch.series,
            torch.cat([of_context, clock], dim=1),
            unit,
        )
        return Prepared(inputs, center, scale, alive)

    def forward(
        self,
        features_BF: Tensor,  # noqa: N803
        compared_BDK: Tensor,  # noqa: N803
        seasons_BDW: Tensor,  # noqa: N803
        known_BDW: Tensor,  # noqa: N803
        series_B: Tensor,  # noqa: N803
        of_context_BF: Tensor,  # noqa: N803
        unit_B1: Tensor,  # noqa: N803
    ) -> Tensor:
        """Quantiles of the scaled correction by each member and by the ContextMLP, [M + 1, B, P, Q]."""
        if self.training and self.series_dropout:
            hidden = torch.rand(len(series_B), device=series_B.device) < self.series_dropout
            series_B = series_B.masked_fill(hidden, self.num_series)  # noqa: N806
        like = compared_BDK[..., -1:]
        weight = self.compare(compared_BDK).relu_() @ self.weigh + self.ago + self.like * like
        weight = weight.softmax(dim=1).transpose(1, 2)
        # Means over observed bins only.
        share = weight @ known_BDW
        means = (weight @ seasons_BDW / share.clamp_min(1e-6)).flatten(1)
        features_BF = torch.cat([features_BF, means, share.mean(dim=2)], dim=1)  # noqa: N806
        x = torch.cat([features_BF, self.series[series_B]], dim=1)
        count, horizon = x.shape[0], self.window.prediction_length
        h = self.dropped(torch.addmm(self.first_bias, x, self.first_weight).relu_())
        h = h.view(count, self.members, -1).transpose(0, 1)
        for weight, bias in zip(self.weight, self.bias, strict=True):
            h = h + self.dropped(torch.baddbmm(bias, h, weight).relu_())
        made = torch.baddbmm(self.last_bias, h, self.last_weight)
        straight = (x @ self.linear).view(count, self.members, horizon, 1).transpose(0, 1)
        by_days = made.view(self.members, count, horizon, len(QUANTILES)) + straight
        out = self.context(of_context_BF)
        # Limit the gradient of windows that move much more than usual at this time; values do not change.
        counted = unit_B1.clamp_max(_LARGEST_WEIGHT)
        by_context = counted * out + (unit_B1 - counted) * out.detach()
        by_context = by_context.view(1, count, horizon, len(QUANTILES))
        return torch.cat([by_days, by_context])

    def _shortened(self, past: Past) -> Past:
        """Hide the older seasons of some windows, because some series have a short history."""
        count, seasons = past.seasons.shape[:2]
        device = past.seasons.device
        depth = torch.randint(seasons + 1, (count, 1, 1), device=device)
        depth = depth.where(torch.rand((count, 1, 1), device=device) < self.history_dropout, seasons)
        kept = torch.arange(seasons, device=device)[:, None] < depth
        return past._replace(
            seasons=past.seasons.where(kept, 0.0), seasons_observed=past.seasons_observed & kept
        )

    def losses(self, made: Tensor, target_BP: Tensor) -> Tensor:  # noqa: N803
        """Twice the mean pinball loss over quantiles and members; for the median it is the absolute error."""
        error = target_BP.clamp(-_LARGEST_TARGET, _LARGEST_TARGET)[..., None] - made
        return pinball(error, QUANTILES)

    def forecast(self, batch: WindowBatch) -> Forecast:
        """The weighted mean of the parts' medians, and half the width of their 90 % intervals.

        Forecasts are at least zero if no bin that the network sees is below zero.
        """
        past = batch.past
        assert past is not None
        prepared = self.prepare(batch)
        made = self(*prepared.inputs)
        parts = torch.stack([made[:-1].mean(dim=0), made[-1]]).sort(dim=-1).values
        alive = prepared.alive
        assert alive is not None
        values = prepared.center + prepared.scale * parts[..., _MEDIAN].where(alive, 0.0)
        lowest = torch.minimum(past.recent.amin(dim=1), past.seasons.amin(dim=(1, 2)))[:, None]
        # NaN stays NaN: a zero would be mistaken for a forecast.
        values = values.where((lowest < 0) | ~(values <= 0), 0.0)
        widths = prepared.scale * (parts[..., -1] - parts[..., 0]) / 2
        spread = torch.lerp(widths[1], widths[0], _SHARE).where(alive, 0.0)
        return Forecast(torch.lerp(values[1], values[0], _SHARE), spread, values)

    def prior_forecast(self, batch: WindowBatch) -> Tensor | None:
        """The forecast of the pre-trained weights."""
        return forecast_with(self.prior, batch, self.window)[0] if self.with_prior else None

    def unknown_series(self) -> int:
        """The last row of the embedding, which is trained with windows of all series."""
        return self.num_series

    def series_rows(self, table: Tensor, rows: Tensor) -> Tensor:
        """A new series gets the last row, which is for unknown series."""
        return table[torch.cat([rows, rows.new_tensor([-1])])]

    def settings(self) -> dict[str, Any]:
        """Arguments of the class other than window and number of series."""
        return {
            "members": self.members,
            "hidden": self.hidden,
            "layers": self.layers,
            "dropout": self.dropout,
            "embedding": self.embedding_dim,
            "series_dropout": self.series_dropout,
            "history_dropout": self.history_dropout,
        } | ({"prior": self.prior.sizes} if self.with_prior else {})

    def artifact_state(self) -> dict[str, Tensor]:
        """The state dict for an artifact; the pre-trained weights have 16 bits, as in the package."""
        state = super().artifact_state()
        return {name: value.half() if name.startswith("prior.") else value for name, value in state.items()}

    def _num_features(self) -> int:
        """Number of features, without the attention's means and the embedding."""
        look = self.lookback
        width, horizon = look.width(self.window), self.window.prediction_length
        return self._recent + width + horizon + 2 + 2 + _CLOCK


def _check(sizes: dict[str, Any], shares: dict[str, Any]) -> None:
    """Raise ValueError for invalid settings of a configuration or an untrusted artifact."""
    problems = [
        f"{name} is {value!r}, not a whole number above 0"
        for name, value in sizes.items()
        if isinstance(value, bool) or not isinstance(value, int) or value < 1
    ]
    problems += [
        f"{name} is {value!r}, not a number from 0 to below 1"
        for name, value in shares.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1
    ]
    if not problems and sizes["layers"] > _MOST_LAYERS:
        problems = [f"layers is {sizes['layers']}; at most {_MOST_LAYERS}"]
    if problems:
        raise ValueError("; ".join(problems))


def _newest(past: Past) -> Tensor:
    """The newest observed recent bin, else the mean of all observed seasons, else 0; [B, 1]."""
    length = past.recent.shape[1]
    age = torch.arange(length, device=past.recent.device)
    newest = age.where(past.recent_observed, -1).amax(dim=1, keepdim=True)
    value = past.recent.gather(1, newest.clamp_min(0))
    known = past.seasons_observed.sum(dim=(1, 2))
    mean = past.seasons.sum(dim=(1, 2)) / known.clamp_min(1)
    return value.where(newest >= 0, mean[:, None])


def _moves(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of absolute differences of known neighbours along the last axis, and the number of such pairs."""
    both = known[..., 1:] * known[..., :-1]
    return (values.diff(dim=-1).abs_() * both).sum(dim=-1), both.sum(dim=-1)


def _like_days_at_todays_level(
    recent: Tensor,
    recent_known: Tensor,
    seasons: Tensor,
    counted: Tensor,
    level_B: Tensor,  # noqa: N803
    horizon: int,
) -> tuple[Tensor, Tensor]:
    """Mean over like days, scaled to the level of the newest bins, and where it is known; both [B, P].

    ``counted`` [B, D, W] is 1.0 for known bins of like days, else 0.0.
    """
    times = counted.sum(dim=1)
    mean, has = (seasons * counted).sum(dim=1) / times.clamp_min(1), (times > 0).float()
    both = has[:, :_BEFORE] * recent_known[:, -_BEFORE:]
    now = (recent[:, -_BEFORE:] * both).sum(dim=1)
    then = (mean[:, :_BEFORE] * both).sum(dim=1)
    growth = (now / then).where(then.abs() > 1e-3 * level_B, 1.0)
    growth = growth.clamp(1 / _MOST_GROWTH, _MOST_GROWTH)[:, None]
    ahead = slice(_BEFORE, _BEFORE + horizon)
    return mean[:, ahead] * growth, has[:, ahead]


def _compared(recent: Tensor, recent_known: Tensor, seasons: Tensor, known: Tensor, alike: Tensor) -> Tensor:
    """Distance of each season from today before the origin in level and shape, and 1 if like; [B, D, 3]."""
    both = known[:, :, :_BEFORE] * recent_known[:, None, -_BEFORE:]
    count = both.sum(dim=2).clamp_min_(1)
    difference = (seasons[:, :, :_BEFORE] - recent[:, None, -_BEFORE:]).mul_(both)
    level = difference.sum(dim=2) / count
    shape = difference.sub_(level[..., None]).abs_().mul_(both).sum(dim=2) / count
    return torch.stack([level.abs().log1p(), shape.log1p(), alike.mean(dim=2)], dim=2)


def _clock(moment_B3: Tensor) -> Tensor:  # noqa: N803
    """Sine waves of the day and the week, one-hot day of the week, and day off or not; float32 [B, F]."""
    time, day = moment_B3[:, :1], moment_B3[:, 1:2]
    ahead = torch.arange(1, max(_DAILY_WAVES, _WEEKLY_WAVES) + 1, device=moment_B3.device)
    daily = 2 * math.pi * time * ahead[:_DAILY_WAVES]
    weekly = 2 * math.pi * (day + time) / 7 * ahead[:_WEEKLY_WAVES]
    week = F.one_hot(day[:, 0].long(), _WEEK)
    return torch.cat([daily.sin(), daily.cos(), weekly.sin(), weekly.cos(), week, moment_B3[:, 2:]], dim=1)
