"""Fcnet, the network of Kapacity's predictive job, exactly as contract 5 defines it.

Shape suffixes: B windows, C context, P horizon, F calendar fields, H = C(4+4F) features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kforecast.data.windows import WindowBatch
from kforecast.models.network import Forecast, Network, Prepared
from kforecast.window import CALENDAR_TABLE_SIZES, FREQUENCIES, Window

# Smallest divisor in Kapacity's network.
_SMALLEST_SCALE = 1e-10
PRE_EMPHASIS = 0.8
_GATES = 4
# The gates have 4 x features^2 weights: 1 GiB at this limit.
_MOST_FEATURES = 8192


class Fcnet(Network):
    """A linear read-out of gated products of the context with learned calendar and series embeddings.

    Parameters
    ----------
    window:
        Defines C, P and the calendar fields.
    num_series:
        Rows of the series embedding.
    shared_embedding:
        Learn one row that all series share. Kapacity's job serves every series with row 0. With several
        series, it serves our own forecasts only if the row is shared.
    day_of_month:
        Learn one row for each day of the month. In less than about a year of history, each day of the month
        occurs on a few days only, whose windows overlap: the row would memorise these days.
    mean_of_seen:
        Set the rows of calendar values that training never saw (days of the month, hours, ...) to the mean of
        the rows it saw. Otherwise forecasts on them use random initial values: with two weeks of history, on
        half of the month.

    Raises
    ------
    ValueError
        When it does not know the frequency, or the context is so long that the gates would exceed 1 GiB.
    """

    series_table = "static_embeddings.0.weight"

    def __init__(
        self,
        window: Window,
        num_series: int,
        shared_embedding: bool = False,
        day_of_month: bool = True,
        mean_of_seen: bool = True,
    ) -> None:
        super().__init__()
        width, fields = window.context_length, window.frequency.calendar_fields
        if not fields:
            raise ValueError(
                f"Fcnet knows bins of {', '.join(FREQUENCIES)} only, not of {window.frequency.name}; use "
                "SeasonalMLP"
            )
        features = width * (4 + 4 * len(fields))
        if features > _MOST_FEATURES:
            most = _MOST_FEATURES // (4 + 4 * len(fields))
            size = 16 * features**2 / 2**30
            raise ValueError(
                f"a context of {width} bins makes a network of {size:.1f} GiB; use at most {most}"
            )
        self.shared_embedding, self.mean_of_seen = shared_embedding, mean_of_seen
        self.window, self.num_series, self.day_of_month = window, num_series, day_of_month
        self._one_row = [field == "day_of_month" and not day_of_month for field in fields]
        # Names and order match the artifact's state dict.
        self.static_embeddings = nn.ModuleList([nn.Embedding(1 if shared_embedding else num_series, width)])
        self.dynamic_embeddings = nn.ModuleList(
            [nn.Embedding(CALENDAR_TABLE_SIZES[field], width) for field in fields]
        )
        self.lc = nn.Linear(features, window.prediction_length)
        self.SELayers = nn.ModuleList([_Gate(features) for _ in range(_GATES)])

    @staticmethod
    def scale(context_BC: Tensor) -> Tensor:  # noqa: N803
        """The divisor of a window: its mean absolute value, [B, 1]."""
        return context_BC.abs().mean(dim=1, keepdim=True).clamp_min(_SMALLEST_SCALE)

    def prepare(self, batch: WindowBatch) -> Prepared:
        """Step 1 of contract 5."""
        scale = self.scale(batch.context)
        return Prepared((batch.context / scale, batch.calendar, batch.series), torch.zeros_like(scale), scale)

    def losses(self, made: Tensor, target_BP: Tensor) -> Tensor:  # noqa: N803
        """Absolute errors (contract 5)."""
        return (made - target_BP).abs()

    def forecast(self, batch: WindowBatch) -> Forecast:
        """Steps 1 to 6 of contract 5; errors are expected to be proportional to the level of the context."""
        prepared = self.prepare(batch)
        return Forecast(prepared.scale * self(*prepared.inputs), prepared.scale)

    @torch.no_grad()
    def settle(self, seen: Sequence[Tensor]) -> None:
        """Fill the calendar rows that training does not see, see ``mean_of_seen``."""
        if not self.mean_of_seen:
            return
        for table, known, one in zip(self.dynamic_embeddings, seen, self._one_row, strict=True):
            if one:
                continue
            weight = table.get_parameter("weight")
            here = known.to(weight.device)
            if here.any():
                weight[~here] = weight[here].mean(dim=0)

    def arguments(self) -> dict[str, Any]:
        """See :meth:`Network.arguments`."""
        return {
            "shared_embedding": self.shared_embedding,
            "day_of_month": self.day_of_month,
            "mean_of_seen": self.mean_of_seen,
        }

    def unknown_series(self) -> int | None:
        """Row 0 if all rows are equal; otherwise there is none."""
        rows: Tensor = self.get_parameter(self.series_table)
        return 0 if torch.equal(rows, rows[:1].expand_as(rows)) else None

    def series_rows(self, table: Tensor, rows: Tensor) -> Tensor:
        """A new series gets the mean of all rows, and so does a shared row."""
        mean = table.mean(dim=0, keepdim=True)
        return mean if self.shared_embedding else torch.where(rows[:, None] < 0, mean, table[rows])

    def forward(self, context_BC: Tensor, calendar_BPF: Tensor, series_B: Tensor) -> Tensor:  # noqa: N803
        """Forecast scaled windows: steps 2 to 6 of contract 5, without the scale.

        Parameters
        ----------
        context_BC:
            Context divided by :meth:`scale`, float32.
        calendar_BPF:
            Calendar fields of the horizon, int64.
        series_B:
            Series ids, int64.

        Returns
        -------
        The forecast divided by the same scale, float32 [B, P].
        """
        x = context_BC
        # 2. embeddings of the series and of the horizon's first and last step
        row_B, first_BF, last_BF = self.rows(calendar_BPF, series_B)  # noqa: N806
        e = self.static_embeddings[0](row_B)
        a = [table(first_BF[:, j]) for j, table in enumerate(self.dynamic_embeddings)]
        b = [table(last_BF[:, j]) for j, table in enumerate(self.dynamic_embeddings)]
        # 3. differences, weakened, with the window's mean before the first value
        u = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        d = u[:, 1:] - PRE_EMPHASIS * u[:, :-1]
        # 4. everything side by side
        z = torch.cat([e, *a, *b, x, d, x * e, *(x * b_j for b_j in b), *(x * a_j for a_j in a)], dim=1)
        # 5. four gates
        for gate in self.SELayers:
            z = gate(z)
        # 6. read-out
        forecast: Tensor = self.lc(z)
        return forecast

    def rows(self, calendar_BPF: Tensor, series_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: N803
        """Table rows of the series [B], and of the calendar at the first and the last step [B, F]."""
        first_BF, last_BF = calendar_BPF[:, 0], calendar_BPF[:, -1]  # noqa: N806
        if any(self._one_row):
            several_F = torch.tensor([not one for one in self._one_row], device=series_B.device)  # noqa: N806
            first_BF, last_BF = first_BF * several_F, last_BF * several_F  # noqa: N806
        return torch.zeros_like(series_B) if self.shared_embedding else series_B, first_BF, last_BF

    def artifact_state(self) -> dict[str, Tensor]:
        """The state dict for an artifact; shared rows are repeated for each series or calendar value."""
        state = super().artifact_state()
        if self.shared_embedding:
            row = state[self.series_table]
            state[self.series_table] = row.repeat(self.num_series, 1)
        for j, one in enumerate(self._one_row):
            if one:
                table = state[f"dynamic_embeddings.{j}.weight"]
                state[f"dynamic_embeddings.{j}.weight"] = table[:1].repeat(len(table), 1)
        return state


class _Gate(nn.Module):
    """Squeeze-and-excitation over features (Hu et al. 2018, https://arxiv.org/abs/1709.01507)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = features // 2
        self.fc = nn.Sequential(
            nn.Linear(features, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, features, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        gated: Tensor = z * self.fc(z)
        return gated
