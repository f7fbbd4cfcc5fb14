"""The verdict on a model, and the gates that follow it: both come from the same objections."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kforecast.errors import few
from kforecast.evaluation.capacity import JUDGED
from kforecast.evaluation.scoreboard import Scoreboard
from kforecast.evaluation.scores import overall
from kforecast.files.untrusted import shortened
from kforecast.models.naive import NAIVE
from kforecast.simulation.drivers import FORECAST, REACTIVE

Tone = Literal["good", "unsure", "bad"]
# Forecasts that sum to less than this share of the traffic are useless for capacity.
_LEAST_SHARE = 0.5
# A share that rounds to 0 %.
_NOTHING = 0.005
# A forecast of zero has a WAPE of 1.
_AS_BAD_AS_ZERO = 0.99
_SEARCH = "kforecast-replay searches the target and the quantile that would pay"
_REMEDIES = "More history, more epochs or a longer context may help"


@dataclass(frozen=True)
class Verdict:
    """Whether a model is good enough to scale production.

    Attributes
    ----------
    tone, words:
        The verdict; ``good`` if the model passes the gate ``require_skill=0``, and only then.
    unfit:
        Why the model must not serve, even where nothing else does; None if it may.
    """

    tone: Tone
    words: str
    unfit: str | None = None


@dataclass(frozen=True)
class _Objection:
    """A requirement that a model does not meet: in the words of the verdict, and as a reason of the gate."""

    tone: Tone
    words: str
    reason: str


def verdict(board: Scoreboard) -> Verdict:
    """The verdict on a model."""
    objection = _objection(board, 0.0)
    if objection is not None:
        words, doubts = objection.words, _doubts(board)
        if doubts is not None and doubts != objection:
            words += f" Besides, {doubts.reason}."
        return Verdict(objection.tone, words, unfit(board))
    cost = _cost(board) if board.orders.possible else board.orders.lacking
    words = f"Worth scaling on: {_error(board)}; {_interval(board)}. {cost[:1].upper()}{cost[1:]}."
    return Verdict("good", words)


def shortfall(board: Scoreboard | None, required: float) -> str | None:
    """Why a model does not pass the gate ``require_skill``; None if it passes."""
    if board is None:
        return "nothing to judge the model on"
    objection = _objection(board, required)
    return None if objection is None else objection.reason


def champion_shortfall(board: Scoreboard | None, required: float) -> str | None:
    """Why a candidate does not replace the champion; None if it does."""
    if board is None or board.comparison is None:
        return "nothing to compare the candidate and the champion on"
    over = board.comparison.skill
    if over.above(required):
        return unfit(board)
    if math.isnan(over.value):
        return "the champion is exact there, or there is no traffic to forecast"
    if math.isnan(over.low):
        return (
            f"the skill over the champion is {over.value:.1%}, but {origins_words(board)} are too few to be "
            "sure"
        )
    return (
        f"the skill over the champion is {over.value:.1%}, and its 95% interval, {over.low:.1%} to "
        f"{over.high:.1%}, is not clear of {required:.1%}"
    )


def unfit(board: Scoreboard) -> str | None:
    """Why a model must not serve, even where nothing else does: as bad as zero, or a doubtful history."""
    objection = _bias(board) if board.model["wape"] > _AS_BAD_AS_ZERO else None
    objection = objection or _doubts(board)
    return None if objection is None else objection.reason


def better_naive(board: Scoreboard) -> str | None:
    """Which naive forecast has a lower error than the model, with both errors; None if none has."""
    errors = {name: overall(board.scores, name)["wape"] for name in NAIVE}
    best = min(errors, key=lambda name: errors[name])
    if not errors[best] < board.model["wape"]:
        return None
    return (
        f"'{best}', which needs no training, would serve the cluster better than this model: on "
        f"{board.part or 'the span'} its error (WAPE) is {errors[best]:.2%}, the model's "
        f"{board.model['wape']:.2%}"
    )


def caveats(board: Scoreboard) -> tuple[str, ...]:
    """Sentences beside the verdict: series for which the model is useless, limits of the simulation."""
    low = _too_low(board)
    if not low or _bias(board) is not None:
        return board.orders.notes
    scored = len(board.backtest.scored_series)
    return (
        f"For {len(low):,} of {scored:,} series it forecasts less than half of the traffic, so do not scale "
        f"them on it: {few(low)}.",
        *board.orders.notes,
    )


def origins_words(board: Scoreboard) -> str:
    """The number of origins with its noun."""
    return f"{board.origins:,} origin{'s' * (board.origins != 1)}"


def _objection(board: Scoreboard, required: float) -> _Objection | None:
    """The first requirement that a model does not meet."""
    return (
        _doubts(board)  # first: scores on such a history mean nothing
        or _no_skill(board)
        or _bias(board)
        or _error_too_high(board, required)
        or _cost_too_high(board)
    )


def _no_skill(board: Scoreboard) -> _Objection | None:
    """Skill that is not defined."""
    skill, best = board.skill, board.skill.best_baseline
    if not math.isnan(skill.value):
        return None
    reason = (
        f"there is no skill over the best baseline ({best}), which is exact or has no traffic to forecast"
    )
    if overall(board.scores, best)["wape"] == 0:
        return _Objection("bad", f"The baseline '{best}' is exact here; no model can be better.", reason)
    return _Objection("unsure", "No verdict: there was no traffic to forecast.", reason)


def _bias(board: Scoreboard) -> _Objection | None:
    """Forecasts of less than half of the traffic, for half of the series or more."""
    known = board.series_scores()["relative_bias"].dropna().to_numpy()
    low = known[known < _LEAST_SHARE - 1]
    if not len(low) or 2 * len(low) < len(known):
        return None
    share = 1 + float(np.mean(low))
    amount = "no traffic at all" if share < _NOTHING else f"only {share:.0%} of the traffic"
    of = "" if len(low) == len(known) else f" for {len(low):,} of {len(known):,} series"
    reason = f"it forecasts {amount}{of} (bias {share - 1:+.1%})"
    if board.orders.simulation is not None:
        unserved = board.orders.simulation.table["unserved_share"]
        own, reactive = float(unserved[FORECAST]), float(unserved[REACTIVE])
        than = "as well" if reactive > 0.9 * own else "better"
        reason += (
            f", and scaling on {board.orders.quantile_words} alone leaves {own:.1%} of the load unserved "
            "(a reactive scaler"
            f"{f' does {than}' if reactive <= own else ''}: {reactive:.1%})"
        )
    return _Objection("bad", f"Do not scale on it: {reason}.", reason)


def _error_too_high(board: Scoreboard, required: float) -> _Objection | None:
    """An error that is not lower than the best baseline's by the required skill."""
    skill = board.skill
    if skill.above(required):
        return None
    over = f"the skill over the best baseline ({skill.best_baseline}) is {skill.value:.1%}"
    if math.isnan(skill.low):
        words = f"No verdict: {_error(board)}, but {origins_words(board)} cannot tell that from chance"
        reason = f"{over}, but {origins_words(board)} are too few to be sure"
        return _Objection("unsure", f"{words}; judge it on a longer span.", reason)
    reason = (
        f"{over}, and its 95% interval, {skill.low:.1%} to {skill.high:.1%}, is not clear of {required:.1%}"
    )
    if skill.high < 0:
        words = f"Do not scale on it: {_error(board)}, which costs nothing; {_interval(board)}. {_REMEDIES}."
        return _Objection("bad", words, reason)
    words = f"Not proven: {_error(board)}, which may be chance; {_interval(board)}"
    return _Objection("unsure", f"{words}. {_REMEDIES}, or a longer span to judge it on.", reason)


def _cost_too_high(board: Scoreboard) -> _Objection | None:
    """Orders that do not cost less than those of the reactive rule."""
    saving = board.saving
    if saving.above(0.0) or not board.orders.possible:
        return None
    if board.orders.lacking:
        reason = board.orders.lacking
    elif math.isnan(saving.value):
        reason = "a reactive rule costs nothing here, so no forecast can save replicas"
    elif math.isnan(saving.low):
        reason = f"{_cost(board)}, but the span is too short to tell that from chance"
    elif saving.low == saving.high == 0:
        reason = (
            f"{JUDGED} at {board.orders.quantile_words} costs exactly as much as {REACTIVE} alone; {_SEARCH}"
        )
    elif saving.high < 0:
        words = f"Do not scale on it: {_error(board)}, but {_cost(board)}; {_SEARCH}."
        return _Objection("bad", words, _cost(board))
    else:
        reason = f"{_cost(board)}, which may be chance; {_SEARCH}"
    return _Objection("unsure", f"Not proven: {_error(board)}, but {reason}.", reason)


def _doubts(board: Scoreboard) -> _Objection | None:
    """Defects of the history."""
    if not board.doubts:
        return None
    reason = ", and ".join(board.doubts)
    return _Objection("bad", f"Do not scale on it: {reason}.", reason)


def _too_low(board: Scoreboard) -> list[str]:
    """The series of which less than half of the traffic is forecast."""
    scores = board.series_scores()
    low = scores[scores["relative_bias"] < _LEAST_SHARE - 1]
    return [shortened(f"{row['workload']} {row['metric']}") for row in low.to_dict("records")]


def _error(board: Scoreboard) -> str:
    """The model's error, against that of the best baseline."""
    skill = board.skill
    off = f"{abs(skill.value):.1%} {'lower' if skill.value > 0 else 'higher'}"
    return f"its error is {off} than that of the best baseline ({skill.best_baseline})"


def _interval(board: Scoreboard) -> str:
    """The interval of the skill."""
    return f"95% interval of the skill {board.skill.low:.1%} to {board.skill.high:.1%}"


def _cost(board: Scoreboard) -> str:
    """The cost with the forecast, against the reactive rule's."""
    saving = board.saving
    off = f"{abs(saving.value):.1%} {'less' if saving.value > 0 else 'more'}"
    words = f"{JUDGED} at {board.orders.quantile_words} costs {off} than {REACTIVE} alone"
    if math.isnan(saving.low):
        return words
    return f"{words} (95% interval of the saving {saving.low:.1%} to {saving.high:.1%})"
