"""Held-out data: the validation part calibrates intervals, the test part judges the model."""

import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kforecast.data.fill import Fill
from kforecast.data.origins import middles
from kforecast.errors import DataError
from kforecast.evaluation.backtest import BacktestSettings, Span
from kforecast.evaluation.capacity import Capacity
from kforecast.evaluation.champion import Champion
from kforecast.evaluation.scoreboard import QUANTILES, Scoreboard, judge
from kforecast.models import Fcnet
from kforecast.models.online import RATE, Online
from kforecast.predictor import PRIOR_SHARE, Predictor
from kforecast.training.fit import Fit

log = logging.getLogger(__name__)

# With more windows in the judged span, only some series are judged, spread evenly: as many as have this many
# windows, and at least twenty.
_MOST_WINDOWS, _FEWEST_SERIES = 500_000, 20
# Limit of the held-out error divided by the error on data that the network was trained on.
_MOST_OPTIMISM = 3.0


@dataclass(frozen=True)
class JudgedFit:
    """A finished training and its scores.

    Attributes
    ----------
    fit:
        The training.
    forecaster:
        The network as it will be served, that of ``refit`` if there is one; with intervals if there is a
        validation part.
    scoreboard:
        The scores on held-out data; None without any.
    refit:
        The second training, with the validation part; None without one.
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
    combine: bool | Literal["online"] = False,
    champion: Champion | None = None,
) -> JudgedFit:
    """Calibrate on the validation part, judge on the test part.

    Parameters
    ----------
    fill:
        How unobserved bins of a context are filled when the artifact is served.
    seed:
        Seed of the bootstrap.
    refit:
        The second training, with the validation part. Its network replaces the first one, whose intervals it
        takes: the first one has not seen the data that they are calibrated on.
    combine:
        Combine the network with naive forecasts, with weights fitted on the validation part, and let it see
        usual values in place of past events, unless that raises the error there. ``online`` weights follow
        the errors at the newest origins too.
    champion:
        A model to compare with on the test part.
    """
    first = _forecaster_of(fit, fill, combine)
    refitted = None if refit is None else _refitted(fit, first, refit)
    scoreboard = _judge_held_out(fit, first, refitted, capacity, seed, champion)
    return JudgedFit(fit, refitted or first, scoreboard, refit)


def _refitted(fit: Fit, first: Predictor, refit: Fit) -> Predictor:
    """The network that was also trained on the validation part, in place of the first one."""
    second = replace(first, net=refit.net)
    if first.online is None:
        return second
    panel, split = fit.data.panel, fit.data.split
    begin, stop = split.train_end, split.validation_end
    online = replace(first.online, trained_until=panel.seconds(stop))
    held_out, trained_on = (one.step_errors(panel, begin, stop) for one in (first, second))
    if held_out is not None and trained_on is not None:
        ratio = held_out / np.where(trained_on > 0, trained_on, np.inf)
        online = replace(online, optimism=np.clip(ratio, 1.0, _MOST_OPTIMISM))
    return replace(second, online=online)


def _forecaster_of(fit: Fit, fill: Fill, combine: bool | Literal["online"]) -> Predictor:
    """The trained network as it will be served, with intervals if there is a validation part."""
    panel, split = fit.data.panel, fit.data.split
    forecaster = Predictor(
        fit.data.window, panel.item_ids, fill, fit.net, calendar=fit.data.calendar, zone=panel.zone
    )
    if fit.net.with_prior:
        forecaster = replace(forecaster, prior_share=PRIOR_SHARE)
    if not len(split.validation):
        return forecaster
    rate = RATE if combine == "online" else 0.0
    unknown = np.full(fit.data.window.prediction_length, np.nan)
    forecaster = replace(forecaster, online=Online(panel.seconds(split.train_end), unknown, rate))
    if combine:
        forecaster = forecaster.with_events(panel, split.train_end, split.validation_end)
        log.info("Past events are seen %s", "with usual values" if forecaster.events else "as they were")
        forecaster = forecaster.combined(panel, split.train_end, split.validation_end)
        combination = forecaster.combination
        for name, weights in ({} if combination is None else combination.as_dict()).items():
            log.info("Share of the forecast, by step: %s %s", name, _range_of(weights))
        if fit.net.with_prior:
            forecaster = forecaster.sharing(panel, split.train_end, split.validation_end)
            log.info("Share of the pre-trained weights beside these: %.0f%%", 100 * forecaster.prior_share)
    forecaster = forecaster.calibrated(panel, split.train_end, split.validation_end)
    if forecaster.intervals is None:
        log.warning("No intervals: the validation part has too few windows to calibrate them on")
        return forecaster if rate else replace(forecaster, online=None)
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
    """Judge on the test part, or on the validation part without a test part; None without held-out data."""
    panel, split, plan = fit.data.judged_panel, fit.data.split, fit.data.plan
    forecaster, trained = first, split.train_end
    begin, stop, part = split.validation_end, split.end, "the test span"
    levels: tuple[float, ...] = QUANTILES
    if len(split.test):
        if refitted is not None:
            forecaster, trained = refitted, split.validation_end
    elif len(split.validation):
        begin, stop = split.train_end, split.validation_end
        # No quantiles: intervals cover the data that they were calibrated on by construction.
        part, levels = "the validation span, which also chose the best epoch", ()
        if refitted is not None:
            part += " (by the network before it was trained on that span too)"
    else:
        log.info("Not judged: nothing was held out (data.validation=0, data.test=0)")
        return None
    several = panel.num_series > 1
    most = max(_MOST_WINDOWS // (stop - begin), _FEWEST_SERIES)
    if panel.num_series > most:
        part += f" of {most:,} of the {panel.num_series:,} series"
        panel = panel.rows(middles(panel.num_series, most).tolist())
    forecaster = replace(forecaster, plan=plan)
    if champion is not None and plan is not None:
        champion = replace(champion, predictor=champion.predictor.knowing(plan.known))
    span = Span(begin, stop, part, panel.seconds(trained))
    as_consumed = several and isinstance(fit.net, Fcnet) and not fit.net.shared_embedding
    settings = BacktestSettings(show_as_consumed=as_consumed, levels=levels)
    try:
        return judge(forecaster, panel, span, settings, capacity, seed, champion)
    except DataError as error:
        log.warning("Not judged: %s", error)
        return None
