"""What was held out of a training: the validation part calibrates intervals, the test part judges."""

import logging
from dataclasses import dataclass, replace

from kforecast.data.fill import Fill
from kforecast.data.origins import middles
from kforecast.errors import DataError
from kforecast.evaluation.backtest import BacktestSettings, Span
from kforecast.evaluation.capacity import Capacity
from kforecast.evaluation.champion import Champion
from kforecast.evaluation.scoreboard import QUANTILES, Scoreboard, judge
from kforecast.models import Fcnet
from kforecast.predictor import Predictor
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
        A network as it will be served, with intervals where there is a validation part: that of the training,
        or one trained again on the validation part too.
    scoreboard:
        How good it is on what was held out; None when nothing was.
    refit:
        The training of the network that took its place, if any.
    """

    fit: Fit
    forecaster: Predictor
    scoreboard: Scoreboard | None
    refit: Fit | None = None


def judge_fit(
    fit: Fit,
    fill: Fill,
    capacity: Capacity,
    seed: int,
    refit: Fit | None = None,
    combine: bool = False,
    champion: Champion | None = None,
) -> JudgedFit:
    """Calibrate on the validation part, judge on the test part.

    Parameters
    ----------
    refit:
        The same network trained again on the validation part too, which takes the first one's place. Its
        intervals are those of the first one, which has not seen the data they were calibrated on.
    fill:
        How unobserved bins of a context are filled when the artifact is served.
    seed:
        Of the bootstrap.
    combine:
        Let naive forecasts take part as far as they do better on the validation part.
    champion:
        To compare with on the test part.
    """
    first = _forecaster_of(fit, fill, combine)
    refitted = None if refit is None else replace(first, net=refit.net)
    scoreboard = _judge_held_out(fit, first, refitted, capacity, seed, champion)
    return JudgedFit(fit, refitted or first, scoreboard, refit)


def _forecaster_of(fit: Fit, fill: Fill, combine: bool) -> Predictor:
    """The trained network as it will be served, with intervals where there is a validation part."""
    panel, split = fit.data.panel, fit.data.split
    forecaster = Predictor(fit.data.windows.window, panel.item_ids, fill, fit.net, calendar=fit.data.calendar)
    if not len(split.validation):
        return forecaster
    if combine:
        forecaster = forecaster.combined(panel, split.train_end, split.validation_end)
        combination = forecaster.combination
        for name, weights in ({} if combination is None else combination.as_dict()).items():
            log.info("Share of the forecast, by step: %s %s", name, _range_of(weights))
    forecaster = forecaster.calibrated(panel, split.train_end, split.validation_end)
    if forecaster.intervals is None:
        log.warning("No intervals: the validation part has too few windows to calibrate them on")
    return forecaster


def _range_of(weights: list[float]) -> str:
    least, most = min(weights), max(weights)
    return f"{least:.0%}" if f"{least:.0%}" == f"{most:.0%}" else f"{least:.0%} to {most:.0%}"


def _judge_held_out(
    fit: Fit,
    first: Predictor,
    refitted: Predictor | None,
    capacity: Capacity,
    seed: int,
    champion: Champion | None,
) -> Scoreboard | None:
    """Judge on the test part, or the validation part where there is none; None when nothing was held out."""
    panel, split = fit.data.panel, fit.data.split
    forecaster, trained = first, split.train_end
    if refitted is not None and len(split.test):
        forecaster, trained = refitted, split.validation_end
    trained_until = panel.start + trained * panel.frequency.step
    begin, stop, part = split.validation_end, split.end, "the test span"
    levels: tuple[float, ...] = QUANTILES
    if not len(split.test):
        begin, stop = split.train_end, split.validation_end
        # What intervals were calibrated on they cover by construction.
        part, levels = "the validation span, which also chose the best epoch", ()
        if not len(split.validation):
            log.info("Not judged: nothing was held out (data.validation=0, data.test=0)")
            return None
        if refitted is not None:
            part += " (by the network before it was trained on that span too)"
    several = panel.num_series > 1
    most = max(_MOST_WINDOWS // (stop - begin), _FEWEST_SERIES)
    if panel.num_series > most:
        part += f" of {most:,} of the {panel.num_series:,} series"
        panel = panel.rows(middles(panel.num_series, most).tolist())
    span = Span(begin, stop, part, trained_until)
    as_consumed = several and isinstance(fit.net, Fcnet) and not fit.net.shared_embedding
    settings = BacktestSettings(show_as_consumed=as_consumed, levels=levels)
    try:
        return judge(forecaster, panel, span, settings, capacity, seed, champion)
    except DataError as error:
        log.warning("Not judged: %s", error)
        return None
