"""What was held out of a training: the validation part calibrates intervals, the test part judges."""

import logging
from dataclasses import dataclass

from kforecast.data.cells import middles
from kforecast.data.fill import Fill
from kforecast.errors import DataError
from kforecast.evaluation.capacity import Capacity
from kforecast.evaluation.scoreboard import QUANTILES, Scoreboard, judge
from kforecast.forecaster import Forecaster
from kforecast.training.fit import Fit

log = logging.getLogger(__name__)

# With more windows to judge by than that, as many of the series as have them are judged, spread evenly, and
# no fewer than these.
_MOST_WINDOWS, _FEWEST_SERIES = 500_000, 20


@dataclass(frozen=True)
class JudgedFit:
    """A finished training and what is known of it.

    Attributes
    ----------
    fit:
        The training.
    forecaster:
        Its network as it will be served, with intervals where there is a validation part.
    scoreboard:
        How good it is on what was held out; None when nothing was.
    """

    fit: Fit
    forecaster: Forecaster
    scoreboard: Scoreboard | None


def judge_fit(fit: Fit, fill: Fill, capacity: Capacity, seed: int) -> JudgedFit:
    """Calibrate on the validation part, judge on the test part.

    Parameters
    ----------
    fill:
        How unobserved bins of a context are filled when the artifact is served.
    seed:
        Of the bootstrap.
    """
    forecaster = _forecaster_of(fit, fill)
    return JudgedFit(fit, forecaster, _judge_held_out(fit, forecaster, capacity, seed))


def _forecaster_of(fit: Fit, fill: Fill) -> Forecaster:
    """The trained network as it will be served, with intervals where there is a validation part."""
    panel, split = fit.data.panel, fit.data.split
    forecaster = Forecaster(fit.data.windows.window, panel.item_ids, fill, fit.net)
    if not len(split.validation):
        return forecaster
    forecaster = forecaster.calibrated(panel, split.train_end, split.validation_end)
    if forecaster.intervals is None:
        log.warning("No intervals: the validation part has too few windows to calibrate them on")
    return forecaster


def _judge_held_out(fit: Fit, forecaster: Forecaster, capacity: Capacity, seed: int) -> Scoreboard | None:
    """Judge on the test part, or the validation part where there is none; None when nothing was held out."""
    panel, split = fit.data.panel, fit.data.split
    trained_until = panel.start + split.train_end * panel.frequency.step
    begin, stop, part = split.validation_end, split.end, "the test span"
    levels: tuple[float, ...] = QUANTILES
    if not len(split.test):
        begin, stop = split.train_end, split.validation_end
        # What intervals were calibrated on they cover by construction.
        part, levels = "the validation span, which also chose the best epoch", ()
        if not len(split.validation):
            log.info("Not judged: nothing was held out (data.validation=0, data.test=0)")
            return None
    several = panel.num_series > 1
    most = max(_MOST_WINDOWS // (stop - begin), _FEWEST_SERIES)
    if panel.num_series > most:
        part += f" of {most:,} of the {panel.num_series:,} series"
        panel = panel.rows(middles(panel.num_series, most).tolist())
    try:
        return judge(
            forecaster,
            panel,
            begin,
            stop,
            capacity,
            beside_as_consumed=not fit.net.shared_embedding and several,
            levels=levels,
            trained_until=trained_until,
            part=part,
            seed=seed,
        )
    except DataError as error:
        log.warning("Not judged: %s", error)
        return None
