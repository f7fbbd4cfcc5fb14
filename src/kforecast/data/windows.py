"""Windows of a panel: a batch is gathered from one strided view, without Python code per window.

Shape suffixes: B windows, C context bins, P horizon bins, F calendar fields.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from kforecast.data.calendar import Calendar, calendar_fields
from kforecast.data.events.past import Events
from kforecast.data.fill import Fill
from kforecast.data.gaps import Gaps
from kforecast.data.panel import Panel
from kforecast.window import Lookback, Window

# Without gradients a batch needs little memory, so that evaluation uses large ones for every batch_size.
_EVALUATION_WINDOWS = 4096
# One step of Lightning's loop trains on several batches with about this many windows together, which share
# the costs of the loop and of gathering windows from the panel.
_TRAINING_WINDOWS = 8192
# Limit on the values of past seasons gathered at once, 32 MB: a long horizon has many per window.
_MOST_VALUES = 8_000_000


class Past(NamedTuple):
    """History before the context (:class:`kforecast.window.Lookback`); 0 where not observed.

    D seasons, W bins of each.
    """

    recent: Tensor
    """float32 [B, R]: the newest bins before the origin."""
    recent_observed: Tensor
    """bool [B, R]."""
    seasons: Tensor
    """float32 [B, D, W]: the bins around the same local time, newest season first."""
    seasons_observed: Tensor
    """bool [B, D, W]; False from the origin on."""
    alike: Tensor
    """bool [B, D, W]: whether both that bin and the forecast one are on a day off, or neither is."""
    moment: Tensor
    """float32 [B, 3]: local time of day of the first target in days, day of week, 1.0 on a day off."""


class WindowBatch(NamedTuple):
    """Inputs and targets of windows."""

    context: Tensor
    """float32 [B, C]: the newest bins before the origin, gaps filled."""
    calendar: Tensor
    """int64 [B, P, F]: calendar fields of the horizon."""
    series: Tensor
    """int64 [B]: series ids."""
    target: Tensor
    """float32 [B, P]: the bins from the origin on; 0 where not observed."""
    observed: Tensor
    """bool [B, P]: which targets count."""
    past: Past | None = None
    """None for networks without a lookback."""
    cell: Tensor | None = None
    """int64 [B]: the windows as flat cells ``series * num_bins + origin``."""

    def peak(self) -> Tensor:
        """The largest absolute value before the origin in each window, float32 [B]."""
        found = self.context.abs().amax(dim=1)
        for part in () if self.past is None else (self.past.recent, self.past.seasons):
            found = torch.maximum(found, part.abs().flatten(1).amax(dim=1))
        return found

    def to(self, device: torch.device) -> "WindowBatch":
        """The batch on another device."""
        past = None if self.past is None else Past(*(tensor.to(device) for tensor in self.past))
        return WindowBatch._make([*(tensor.to(device) for tensor in self[:5]), past, self.cell])


class WindowDataset(Dataset[WindowBatch]):
    """Windows of a panel. Its items are batches: index it with a tensor of window cells.

    The panel's arrays are not copied and may be mapped from a file: a batch reads only its own rows.

    Parameters
    ----------
    panel, window:
        The history and the lengths of a window.
    fill:
        Policy for unobserved bins of the context (:class:`kforecast.data.gaps.Gaps`).
    mask_gaps:
        False counts an unobserved target as zero, as Kapacity's training does.
    lookback:
        History before the context that a network reads; None for none.
    calendar:
        Local time of the series, for the lookback.
    hold_newest:
        See :class:`kforecast.data.gaps.Gaps`.

    Attributes
    ----------
    training_windows, evaluation_windows:
        Windows to gather at once, with and without gradients.
    """

    def __init__(
        self,
        panel: Panel,
        window: Window,
        fill: Fill,
        mask_gaps: bool = True,
        lookback: Lookback | None = None,
        calendar: Calendar | None = None,
        hold_newest: bool = False,
    ) -> None:
        self.window, self.lookback = window, lookback
        self.num_bins = panel.num_bins
        values = 1 if lookback is None else lookback.seasons * lookback.width(window)
        most = max(1, _MOST_VALUES // values)
        self.training_windows = min(_TRAINING_WINDOWS, most)
        self.evaluation_windows = min(_EVALUATION_WINDOWS, most)
        self._clock = None if lookback is None else _Clock(panel, calendar or Calendar(), lookback)
        self._num_series = panel.num_series
        self._events: _UsualValues | None = None
        self.mask_gaps = mask_gaps
        self._gaps = Gaps(panel.observed, fill, hold_newest)
        self._values = torch.from_numpy(panel.values).flatten()
        # Without gaps there is no mask to read.
        self._observed = torch.from_numpy(panel.observed).flatten() if len(self._gaps) else None
        if lookback is not None and (missing := lookback.width(window) - len(self._values)) > 0:
            # The history is shorter than one season: none will be seen, but the strided view needs a row.
            self._values = functional.pad(self._values, (0, missing))
            if self._observed is not None:
                self._observed = functional.pad(self._observed, (0, missing))
        self._calendar = torch.from_numpy(calendar_fields(panel.timestamps, window.frequency)).flatten()

    def leave_out(self, events: Events) -> "WindowDataset":
        """Put usual values in place of the panel's events, in context and lookback but never in targets."""
        if len(events):
            look = self.lookback
            lead = 0 if look is None else max(look.recent, look.width(self.window))
            self._events = _UsualValues(events, self._num_series, self.num_bins, lead)
        return self

    def to(self, device: torch.device) -> "WindowDataset":
        """Move the panel's tensors to ``device``, in place, so that batches are gathered there."""
        self._gaps.to(device)
        self._values, self._calendar = self._values.to(device), self._calendar.to(device)
        if self._observed is not None:
            self._observed = self._observed.to(device)
        for part in (self._clock, self._events):
            if part is not None:
                part.to(device)
        return self

    def __getitem__(self, cell_B: Tensor) -> WindowBatch:  # noqa: N803
        """Gather the windows at the flat cells ``series * num_bins + origin`` (int64 [B])."""
        cell_B = cell_B.to(self._values.device)  # noqa: N806
        context_length, horizon = self.window.context_length, self.window.prediction_length
        first_B = cell_B - context_length  # noqa: N806
        series = cell_B // self.num_bins
        values = _rows(self._values, self.window.length, 1)[first_B]
        observed = torch.ones((len(cell_B), horizon), dtype=torch.bool, device=values.device)
        if self._observed is not None:
            known = _rows(self._observed, self.window.length, 1)[first_B]
            row, column = torch.nonzero(~known[:, :context_length], as_tuple=True)
            values[row, column] = self._gaps.fill(
                self._values, first_B[row] + column, cell_B[row], first_B[row]
            )
            if self.mask_gaps:
                observed = known[:, context_length:]
        if self._events is not None:
            self._events.put(values[:, :context_length], first_B, cell_B)
        fields = len(self.window.frequency.calendar_fields)
        calendar = self._calendar.new_empty((len(cell_B), 0))
        if fields:
            calendar = _rows(self._calendar, horizon * fields, fields)[cell_B - series * self.num_bins]
        return WindowBatch(
            context=values[:, :context_length],
            calendar=calendar.view(len(cell_B), horizon, fields),
            series=series,
            target=values[:, context_length:],
            observed=observed,
            past=None if self._clock is None else self._past(cell_B, series, self._clock),
            cell=cell_B,
        )

    def _past(self, cell_B: Tensor, series: Tensor, clock: "_Clock") -> Past:  # noqa: N803
        look = self.lookback
        assert look is not None
        origin_B = cell_B - series * self.num_bins  # noqa: N806
        ago = torch.arange(-look.recent, 0, device=cell_B.device)
        recent_observed = origin_B[:, None] + ago >= 0
        index = (cell_B[:, None] + ago).clamp_min(0)
        if self._observed is not None:
            recent_observed &= self._observed[index]
        recent = self._values[index]
        if self._events is not None:
            self._events.put(recent, cell_B - look.recent, cell_B)

        width = look.width(self.window)
        seasons_BD = clock.seasons_ago(series, origin_B, look.seasons, self.window.frequency.season)  # noqa: N806
        first_BD = seasons_BD - look.before  # noqa: N806
        # A season that begins before the history is masked as a whole.
        reached = first_BD >= 0
        row = (first_BD + (cell_B - origin_B)[:, None]).where(reached, 0)
        along = torch.arange(width, device=cell_B.device)
        known = reached[..., None] & (first_BD[..., None] + along < origin_B[:, None, None])
        if self._observed is not None:
            known = known & _rows(self._observed, width, 1)[row]
        seasons = _rows(self._values, width, 1)[row]
        if self._events is not None:
            self._events.put(seasons, row, cell_B)
        here_B = origin_B - look.before  # noqa: N806
        return Past(
            recent=recent.where(recent_observed, 0.0),
            recent_observed=recent_observed,
            seasons=seasons.where(known, 0.0),
            seasons_observed=known,
            alike=clock.alike(series, first_BD.where(reached, here_B[:, None]), here_B, width),
            moment=clock.moment(series, origin_B),
        )


class _Clock:
    """Local time at the bins of a panel, and at the bins around it that a lookback reads, as tensors."""

    def __init__(self, panel: Panel, calendar: Calendar, look: Lookback) -> None:
        step = panel.frequency.step
        # At the first and last origins the lookback reads bins outside the panel.
        self._lead = look.before
        self._length = look.before + panel.num_bins + look.after
        begin = panel.seconds(np.arange(-look.before, panel.num_bins + look.after, dtype=np.int64))
        local = calendar.local(begin)
        self._zone = torch.from_numpy(calendar.zone_numbers(panel.series))
        self._step = step
        self._ahead = torch.from_numpy(local.offset).flatten()
        # On a grid of local time, the same time a season ago is always the same number of bins ago.
        self._changes = panel.grid.is_uniform and bool((local.offset != local.offset[:, :1]).any())
        # Where clocks are behind UTC, a bin of one day begins in the evening of the day before.
        date = calendar.local(begin + step // 2) if panel.frequency.day == 1 else local
        day_off = (date.day_of_week >= 5) | date.holiday
        self._day_off = torch.from_numpy(day_off).flatten()
        shown = [local.second_of_day / 86_400, date.day_of_week, day_off]
        self._moment = torch.from_numpy(np.stack(shown, axis=-1).astype(np.float32)).flatten(0, 1)

    def to(self, device: torch.device) -> None:
        """Move to ``device``, in place."""
        self._zone, self._ahead = self._zone.to(device), self._ahead.to(device)
        self._day_off, self._moment = self._day_off.to(device), self._moment.to(device)

    def seasons_ago(self, series_B: Tensor, origin_B: Tensor, count: int, season: int) -> Tensor:  # noqa: N803
        """Bins at the origin's local time one season ago, two, ...; int64 [B, D], possibly negative."""
        then_BD = origin_B[:, None] - season * torch.arange(1, count + 1, device=origin_B.device)  # noqa: N806
        if not self._changes:
            return then_BD
        then = self._ahead[self._at(series_B)[:, None] + then_BD.clamp_min(0)]
        now = self._ahead[self._at(series_B) + origin_B]
        # Where clocks have gone forward since, they showed the same time that much later.
        return then_BD + ((now[:, None] - then) / self._step).round().long()

    def alike(self, series_B: Tensor, first_BD: Tensor, first_B: Tensor, width: int) -> Tensor:  # noqa: N803
        """Whether a season's bins and the forecast ones are both on days off, or both not; bool [B, D, W]."""
        rows, at = _rows(self._day_off, width, 1), self._at(series_B)
        return rows[at[:, None] + first_BD] == rows[at + first_B][:, None]

    def moment(self, series_B: Tensor, origin_B: Tensor) -> Tensor:  # noqa: N803
        """See :class:`Past`."""
        return self._moment[self._at(series_B) + origin_B]

    def _at(self, series_B: Tensor) -> Tensor:  # noqa: N803
        """Index of bin 0 of each series' zone."""
        return self._zone[series_B] * self._length + self._lead


class _UsualValues:
    """Events of a panel as tensors. Cells are flat, ``series * num_bins + bin``.

    Rows may begin ``lead`` cells before the first one, and end as many after the last one.
    """

    def __init__(self, events: Events, num_series: int, num_bins: int, lead: int) -> None:
        event, at = events.bins()
        lies_in = np.zeros((num_series, num_bins), bool)
        lies_in[events.series[event], at] = True
        of_series = events.series * num_bins
        self._lead, self._lies_in = lead, torch.from_numpy(np.pad(lies_in.ravel(), lead))
        self._first, self._begin, self._end = (
            torch.from_numpy(of_series + part) for part in (events.first, events.begin, events.end)
        )
        self._offset, self._usual = torch.from_numpy(events.offset), torch.from_numpy(events.usual)

    def to(self, device: torch.device) -> None:
        """Move to ``device``, in place."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))

    def put(self, values: Tensor, first: Tensor, origin_B: Tensor) -> None:  # noqa: N803
        """Put the usual values of known events in place.

        Parameters
        ----------
        values:
            float32 ``[B, ..., W]``: consecutive bins, changed in place.
        first:
            The first cell of each row of ``values``, int64 ``[B, ...]``.
        origin_B:
            The cells of the origins.
        """
        place = _rows(self._lies_in, values.shape[-1], 1)[first + self._lead].nonzero(as_tuple=True)
        cell, origin = first[place[:-1]] + place[-1], origin_B[place[0]]
        event = (torch.searchsorted(self._first, cell, right=True) - 1).clamp_min(0)
        known = (cell >= self._first[event]) & (self._begin[event] <= origin) & (origin < self._end[event])
        usual = self._usual[(self._offset[event] + cell - self._first[event])[known]]
        values[tuple(index[known] for index in place)] = usual


def _rows(flat: Tensor, length: int, step: int) -> Tensor:
    """A view whose rows are the stretches of ``length`` elements, one beginning every ``step`` elements."""
    return flat.as_strided(((len(flat) - length) // step + 1, length), (step, 1))
