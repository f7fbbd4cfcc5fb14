"""Pretrained: a network that has seen much traffic before, and forecasts series that it has never seen.

Shape suffixes: B windows, P horizon bins, K steps, D seasons, H heads, M members, Q quantiles.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kforecast.data.windows import Past, WindowBatch
from kforecast.errors import ArtifactError
from kforecast.files.torch_file import read_tensors
from kforecast.models.aligned import (
    COMPARED,
    NEWEST,
    OTHERS,
    SEASONS,
    VIEWS,
    Aligned,
    aligned,
    asinh,
    lookback,
)
from kforecast.models.network import Forecast, Network, Prepared, pinball
from kforecast.models.without_values import WithoutValues
from kforecast.window import Window

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_MEDIAN = QUANTILES.index(0.5)
# The weights in the package, and the SHA-256 of the file.
WEIGHTS, SHA256 = "pretrained.pth", "f89dcea7a096ce1ccecb64df5da6ae60ac9f02f0df853909642edcd0a2864b30"
# Name of the quantiles of the errors in the file.
OFFSETS = "offsets"
# Prefixes of the weights that each member has of its own.
_OF_MEMBERS = ("first_", "weight.", "bias.", "last_", "linear")
# Longest horizon that the weights have learned.
LONGEST = 96
# The views of a season whose spread over the seasons is an input, and the seasons that are inputs themselves:
# the newest three, and a week ago.
_SMOOTH, _THEMSELVES = 2, (0, 1, 6, 13)
# Limit of the logarithm of a season's weight.
_MOST_LOG = 12.0
# Limit of scaled targets: one sudden rise must not dominate the loss.
_LARGEST_TARGET = 3_000.0
# Steps of each window that a training step sees: a step needs as much memory as a window of other networks.
_TRAINED_STEPS = 3
# Rows (steps of windows) to forecast at once: with more, intermediate values leave the cache of the CPU.
_ROWS = 1024


class TrafficNet(nn.Module):
    """Weighs past days by how like today they are, and corrects their mean by a residual MLP.

    A small network gives every season (a day, or a week if a bin is a day) a weight in each of several heads,
    from how like today it is, what it says and how long ago it was. An MLP sees the weighted means, the
    newest bins, some days themselves, the step and the local time. Its output is a correction to the last
    value in units of :class:`kforecast.models.aligned.Scaled`, one for each quantile. All steps of all
    horizons at all frequencies share the weights.

    Parameters
    ----------
    members:
        Number of MLPs whose outputs are averaged.
    hidden, layers:
        Width and number of their layers.
    heads, weighing:
        Number of heads, and width of the network that weighs seasons.
    """

    def __init__(
        self, members: int = 2, hidden: int = 192, layers: int = 3, heads: int = 6, weighing: int = 32
    ) -> None:
        super().__init__()
        sizes = (members, hidden, layers, heads, weighing)
        if any(
            isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1024 for size in sizes
        ):
            raise ValueError("members, hidden, layers, heads and weighing are whole numbers from 1 to 1024")
        self.members = members
        inputs = heads * (VIEWS + 2) + 2 * NEWEST + OTHERS + len(_THEMSELVES) * VIEWS
        self.ago = nn.Parameter(torch.randn(SEASONS, weighing) * 0.1)
        self.season = nn.Linear(COMPARED + 2 * VIEWS, weighing)
        self.today = nn.Linear(OTHERS, weighing)
        self.between = nn.Linear(weighing, weighing)
        self.weigh = nn.Linear(weighing, heads)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(shape) * 2 - 1) / math.sqrt(shape[-2]))

        self.first_weight = uniform(members, inputs, hidden)
        self.first_bias = nn.Parameter(torch.zeros(members, 1, hidden))
        self.weight = nn.ParameterList([uniform(members, hidden, hidden) for _ in range(layers - 1)])
        self.bias = nn.ParameterList(
            [nn.Parameter(torch.zeros(members, 1, hidden)) for _ in range(layers - 1)]
        )
        # With zeros, training starts from the last-value forecast.
        self.last_weight = nn.Parameter(torch.zeros(members, hidden, len(QUANTILES)))
        self.last_bias = nn.Parameter(torch.zeros(members, 1, len(QUANTILES)))
        self.linear = nn.Parameter(torch.zeros(members, inputs, 1))

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments of the class."""
        heads, weighing = self.weigh.weight.shape
        return {
            "members": self.members,
            "hidden": self.first_weight.shape[2],
            "layers": 1 + len(self.weight),
            "heads": heads,
            "weighing": weighing,
        }

    def forward(self, inputs: Aligned) -> Tensor:
        """Quantiles of the correction in units of the scale, float32 [M, N, Q], for N rows [N, ...]."""
        seasons, known = inputs.seasons, inputs.known.float()
        made = self.season(torch.cat([inputs.compared, asinh(seasons), known], dim=-1))
        made = made + self.ago + self.today(inputs.others)[:, None]
        made = self.weigh(self.between(made.relu()).relu())
        weight = made.clamp(-_MOST_LOG, _MOST_LOG).exp().transpose(1, 2)  # [N, H, D]
        share = weight @ known  # [N, H, VIEWS]
        mean = weight @ seasons / share.clamp_min(1e-5)
        of_smooth = share[..., _SMOOTH]
        square = (weight @ seasons[..., _SMOOTH, None].square())[..., 0] / of_smooth.clamp_min(1e-5)
        spread = (square - mean[..., _SMOOTH].square()).clamp_min(1e-6).sqrt()
        pooled = torch.cat([mean.flatten(1), spread, 0.2 * (of_smooth + 1e-5).log()], dim=1)
        newest, others = inputs.newest, inputs.others
        days = seasons[:, _THEMSELVES].flatten(1)
        straight = torch.cat([pooled, newest, torch.zeros_like(newest), days, others], dim=1)
        x = torch.cat([asinh(pooled), asinh(newest), newest.clamp(-3, 3), asinh(days), others], dim=1)
        h = torch.baddbmm(self.first_bias, x.expand(self.members, -1, -1), self.first_weight).relu()
        for weight, bias in zip(self.weight, self.bias, strict=True):
            h = h + torch.baddbmm(bias, h, weight).relu()
        corrected: Tensor = torch.baddbmm(self.last_bias, h, self.last_weight) + straight @ self.linear
        return corrected


class Pretrained(Network):
    """A :class:`TrafficNet` whose weights come with the package; training goes on from them.

    Its forecast is the mean of two parts: the weights as delivered, and the same weights fine-tuned to the
    traffic. The delivered part is never changed, so that a training on little traffic cannot make the
    forecast much worse (``combine``).

    Parameters
    ----------
    window:
        Any frequency from 1min to 1D, and a horizon of at most 96 steps.
    num_series:
        Number of series in training; they share all weights.
    fine_tune:
        Whether there is a fine-tuned part.
    sizes:
        Sizes of the :class:`TrafficNet`, whose weights will be loaded; None takes the weights of the package.

    Raises
    ------
    ValueError
        When the window is outside these bounds.
    """

    windows_per_thread = 128
    # On a short validation part, the best weights are often far from the best on later traffic.
    equal_share = 0.5

    def __init__(
        self,
        window: Window,
        num_series: int,
        fine_tune: bool = True,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(fine_tune, bool):
            raise ValueError(f"fine_tune is {fine_tune!r}, not true or false")
        if reason := beyond(window):
            raise ValueError(reason)
        self.window, self.num_series, self.fine_tune = window, num_series, fine_tune
        self.lookback = lookback(window)
        self.delivered = fixed_net(sizes)
        self.parts = ("as delivered",)
        if fine_tune:
            self.parts = ("as delivered", "fine-tuned")
            self.tuned = net_as_delivered(sizes)

    def prepare(self, batch: WindowBatch) -> Prepared:
        """Compute the inputs of a few steps of each window in training, else of all."""
        if batch.past is None:
            raise ValueError("the windows have no past; give ForecastDataModule lookback=net.lookback")
        horizon, count = self.window.prediction_length, len(batch.series)
        device = batch.past.recent.device
        if self.training and horizon > _TRAINED_STEPS:
            step = torch.rand(count, horizon, device=device).topk(_TRAINED_STEPS, dim=1).indices
        else:
            step = torch.arange(horizon, device=device).expand(count, -1)
        inputs, scaled = aligned(batch.past, step, self.window)
        ratio = scaled.scale / scaled.unit
        return Prepared((*inputs, step, ratio), scaled.center, scaled.unit, scaled.alive)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Quantiles of the correction in units of the movement, [M, B, P, Q]; NaN at steps left out."""
        *rows, step, ratio = inputs
        net = self.tuned if self.fine_tune else self.delivered
        made: Tensor = net(_rows_of(Aligned(*rows))).unflatten(1, step.shape) * ratio[..., None]
        out = made.new_full((len(made), len(step), self.window.prediction_length, len(QUANTILES)), torch.nan)
        return out.scatter(2, step[None, ..., None].expand_as(made), made)

    def losses(self, made: Tensor, target_BP: Tensor) -> Tensor:  # noqa: N803
        """Twice the mean pinball loss over quantiles and members; 0 at steps left out."""
        target = target_BP.clamp(-_LARGEST_TARGET, _LARGEST_TARGET)[..., None]
        there = ~made[0, :, :, :1].isnan()
        error = torch.where(there, target - made, 0.0)
        return pinball(error, QUANTILES) * (there.numel() / there.sum().clamp_min(1))

    def forecast(self, batch: WindowBatch) -> Forecast:
        """The mean of the parts' medians, and half the width of their 90 % intervals.

        Forecasts are at least zero if no bin that the network sees is below zero.
        """
        parts, spreads = [], []
        for net in (self.delivered, self.tuned) if self.fine_tune else (self.delivered,):
            values, spread = forecast_with(net, batch, self.window)
            parts.append(values)
            spreads.append(spread)
        each = torch.stack(parts)
        return Forecast(each.mean(dim=0), torch.stack(spreads).mean(dim=0), each)

    def unknown_series(self) -> int:
        """Any id: the network does not see which series it is."""
        return self.num_series

    def series_rows(self, table: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG002
        """There is no table of series."""
        return table

    def settings(self) -> dict[str, Any]:
        """Arguments of the class other than window and number of series."""
        return {"fine_tune": self.fine_tune, "sizes": self.delivered.sizes}

    def artifact_state(self) -> dict[str, Tensor]:
        """The state dict for an artifact; the delivered weights have 16 bits, as in the package."""
        state = super().artifact_state()
        return {
            name: value.half() if name.startswith("delivered.") else value for name, value in state.items()
        }


def beyond(window: Window) -> str:
    """Why the weights are not for a window; empty if they are."""
    if window.frequency.step < 60:
        return f"bins of {window.frequency.name} are finer than the pre-trained weights know; at least 1min"
    if window.prediction_length > LONGEST:
        return (
            f"prediction_length is {window.prediction_length}; the pre-trained weights know {LONGEST} steps "
            "at most: use wider bins, or another model"
        )
    return ""


def forecast_with(net: TrafficNet, batch: WindowBatch, window: Window) -> tuple[Tensor, Tensor]:
    """Medians, and half the width of 90 % intervals, in the series' units, float32 [B, P]."""
    past, horizon = batch.past, window.prediction_length
    assert past is not None
    values, spreads = [], []
    step = torch.arange(horizon, device=past.recent.device)
    for some in _pieces(past, max(1, _ROWS // horizon)):
        inputs, scaled = aligned(some, step.expand(some.recent.shape[0], -1), window)
        made = net(_rows_of(inputs)).mean(dim=0).sort(dim=-1).values.unflatten(0, scaled.scale.shape)
        value = scaled.center + scaled.scale * made[..., _MEDIAN].where(scaled.alive, 0.0)
        lowest = torch.minimum(some.recent.amin(dim=1), some.seasons.amin(dim=(1, 2)))[:, None]
        # NaN stays NaN: a zero would be mistaken for a forecast.
        values.append(value.where((lowest < 0) | ~(value <= 0), 0.0))
        width = scaled.scale * (made[..., -1] - made[..., 0]) / 2
        spreads.append(width.where(scaled.alive, 0.0))
    return torch.cat(values), torch.cat(spreads)


def _pieces(past: Past, size: int) -> list[Past]:
    """Windows a number at a time; an exported network takes all of them at once."""
    if torch.compiler.is_exporting() or len(past.recent) <= size:
        return [past]
    return [
        Past(*(part[begin : begin + size] for part in past)) for begin in range(0, len(past.recent), size)
    ]


def net_as_delivered(sizes: Mapping[str, int] | None = None, members: int | None = None) -> TrafficNet:
    """A network with the package's weights, float32; with ``sizes``, one whose weights will be loaded.

    With ``members``, it has the first of them only, for less work and a slightly larger error.
    """
    if sizes is not None:
        return TrafficNet(**sizes)
    state = _delivered()
    if members is not None:
        state = {
            name: value[:members] if name.startswith(_OF_MEMBERS) else value for name, value in state.items()
        }
    count, _, hidden = state["first_weight"].shape
    layers = 1 + sum(name.startswith("weight.") for name in state)
    heads, weighing = state["weigh.weight"].shape
    with WithoutValues():
        net = TrafficNet(count, hidden, layers, heads, weighing)
    if net.ago.device.type != "meta":
        weights = {name: as_float(value) for name, value in state.items() if name != OFFSETS}
        net.load_state_dict(weights, assign=True)
    return net


def as_float(value: Tensor) -> Tensor:
    """A tensor of an artifact as float32; numpy converts in one thread, for waking others takes longer."""
    if value.dtype == torch.float16 and value.device.type == "cpu":
        return torch.from_numpy(value.numpy().astype(np.float32))
    return value.float()


def fixed_net(sizes: Mapping[str, int] | None = None, members: int | None = None) -> TrafficNet:
    """The same, which no training changes."""
    return net_as_delivered(sizes, members).requires_grad_(False)


def delivered_state() -> dict[str, Tensor]:
    """The state of a :class:`Pretrained` that has the package's weights alone, with 16 bits."""
    return {f"delivered.{name}": value for name, value in _delivered().items() if name != OFFSETS}


def delivered_offsets() -> Tensor:
    """Quantiles of the errors on generated traffic in units of the spread, float64 [LEVELS].

    They are of :data:`kforecast.intervals.LEVELS`, measured once with the weights (``scripts/pretrain.py``).
    """
    return _delivered()[OFFSETS].double()


@cache
def _delivered() -> dict[str, Tensor]:
    return weights_in(files("kforecast.models").joinpath(WEIGHTS).read_bytes())


def weights_in(content: bytes) -> dict[str, Tensor]:
    """The weights in the bytes of the package's file.

    Raises
    ------
    ArtifactError
        When it is not the file that belongs to this version.
    """
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ArtifactError(f"{WEIGHTS} in the package is damaged (sha256 differs): install kforecast again")
    with torch.device("cpu"):
        return read_tensors(content)


def _rows_of(inputs: Aligned) -> Aligned:
    """Steps of windows as rows, [B x K, ...]."""
    return Aligned(*(part.flatten(0, 1) for part in inputs))
