"""A replay in words: the table, the recommendation, and what to change in a manifest."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from kforecast.autoscaling.kapacity import KapacityPolicy
from kforecast.autoscaling.keda import KedaPolicy
from kforecast.autoscaling.policy import Policy
from kforecast.console import table
from kforecast.evaluation.skill import CONFIDENCE
from kforecast.guard import SERVED, DryRun
from kforecast.replay.recommend import Choice
from kforecast.replay.study import Replay

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def day_words(day: int) -> str:
    """A day since 1970 as a date."""
    return f"{_EPOCH + timedelta(days=int(day)):%Y-%m-%d}"


def moment_words(second: int) -> str:
    """A moment in UTC."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M}"


def services_words(count: int) -> str:
    """A number of services."""
    return f"{count:,} service{'s' * (count != 1)}"


def cells(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of a table of drivers as text."""

    def shown(name: str, form: str) -> list[str]:
        return [form.format(value) if math.isfinite(value) else "" for value in frame[name]]

    return {
        "driver": list(frame["driver"]),
        "unserved": shown("unserved_share", "{:.3%}"),
        "short min": shown("short_minutes", "{:,.0f}"),
        "busy min": shown("busy_minutes", "{:,.0f}"),
        "replica-h": shown("replica_hours", "{:,.0f}"),
        "idle": shown("idle_share", "{:.1%}"),
        "scalings": shown("scalings", "{:,.0f}"),
        "worst day": [day_words(day) for day in frame["worst_day"]],
        "cost": shown("cost", "{:,.1f}"),
    }


def summary(found: Replay, targets: np.ndarray | None) -> str:
    """The table of drivers, what the search looked at, and the recommendation, which is the last line."""
    plan = found.plan
    _, middle, end = plan.bounds
    title = (
        f"{services_words(len(plan.capacity))}, {moment_words(middle)} to "
        f"{moment_words(end)} UTC, which the choice of the setting has not seen"
    )
    lines = [
        table(
            title,
            cells(found.outcomes.of_drivers(plan.prices)),
            left=("driver",),
            spare=("scalings", "worst day", "idle", "busy min"),
            bold=found.chosen,
        ),
        search_words(found),
        *guard_words(found),
        recommendation(found, targets),
    ]
    return "\n".join(lines)


def search_words(found: Replay) -> str:
    """How the setting was chosen."""
    plan = found.plan
    begin, middle, _ = plan.bounds
    looked = "all services" if found.searched == len(plan.capacity) else f"{found.searched:,} services"
    aim = "the lowest cost"
    if plan.aim.unserved == "today":
        aim += " with no more unserved load than today's setting leaves"
    elif plan.aim.unserved is not None:
        aim += f" with at most {plan.aim.unserved:.3%} unserved"
    if plan.aim.replica_hours is not None:
        aim += f" with at most {plan.aim.replica_hours:g} x the replica-hours of today's setting"
    failed = "" if found.advice.kept else "; no setting kept that limit, so the nearest one was chosen"
    return (
        f"Chosen from {len(plan.grid.choices()):,} settings on {moment_words(begin)} to "
        f"{moment_words(middle)} UTC, {looked}, for {aim}{failed}. cost = {plan.prices.under:g} x unserved + "
        f"{plan.prices.over:g} x idle replica-hours"
    )


def guard_words(found: Replay) -> list[str]:
    """What the guard did with the forecast of each artifact on the newest part; empty without a guard."""
    names = [model.name for model in found.plan.models]
    said = []
    for number, one in found.outcomes.withdrawn.items():
        of = f" of {names[number]}" if len(names) > 1 else ""
        if not one.count:
            said.append(f"Guard: the forecast{of} would never have been withdrawn")
            continue
        times = "once" if one.count == 1 else f"{one.count:,} times"
        words = f"Guard: the forecast{of} would have been withdrawn {times}, for {one.hours:,.0f} hours"
        if len(one.states) > 1:
            away = int((one.states != SERVED).any(axis=1).sum())
            words += f" in all, of {away:,} of {len(one.states):,} services"
        said.append(f"{words} ({causes_words(one)})")
    return said


def causes_words(run: DryRun) -> str:
    """Why forecasts were withdrawn."""
    reasons = {
        "worse": "no better than the newest load",
        "above": "load far above",
        "below": "load far below",
    }
    causes = run.causes
    return ", ".join(f"{causes[name]:,} {words}" for name, words in reasons.items() if causes[name])


def setting_words(choice: Choice, names: Sequence[str]) -> str:
    """A setting in short."""
    parts = []
    if choice.artifact is None:
        parts.append("reactive alone")
    else:
        level = choice.question.level
        of = f" of {names[choice.artifact]}" if len(names) > 1 else ""
        at = "the point forecast" if level is None else f"quantile {level:g}"
        parts.append(f"max(reactive, {at}{of} over the next {choice.question.window:,} s)")
    if choice.target != 1.0:
        parts.append(f"targets x {choice.target:g}")
    if choice.floor is not None:
        parts.append(f"at least the replicas of the {choice.floor:g} quantile of the load")
    return ", ".join(parts)


def changes(found: Replay, targets: np.ndarray | None, series: int = 0) -> list[str]:
    """What to change for one service: settings of the server, then fields of the autoscaler's manifest.

    Parameters
    ----------
    targets:
        The autoscaler's own target of each service in the units of its metric; None if it is none of the
        traffic.
    """
    plan, choice = found.plan, found.advice.fleet
    per_pod = plan.capacity[series] * plan.share[series] * choice.target
    made = []
    if choice.target != 1.0 and targets is not None:
        which = f"the target of {plan.metric}" if plan.others else "its target"
        made.append(f"{which} from {targets[series]:g} to {_rounded(targets[series] * choice.target)}")
    if choice.artifact is not None:
        if plan.triggers is None:
            made.append(_second(plan.policy, choice, _rounded(per_pod)))
        else:
            made.append(f"the trigger {plan.triggers[1]} to kforecast-serve ({_asked(choice)})")
    if choice.floor is not None:
        number = list(plan.grid.floors).index(choice.floor)
        name = "minReplicaCount" if isinstance(plan.policy, KedaPolicy) else "minReplicas"
        made.append(f"{name} {found.floors[number, series]}")
    return made


def _second(policy: Policy, choice: Choice, per_pod: str) -> str:
    """How the forecast gets into the manifest, in the words of the autoscaler."""
    level, window = choice.question.level, choice.question.window
    if isinstance(policy, KapacityPolicy):
        at = "" if level is None else f"scale.quantile={level:g} "
        return (
            f"a Predictive portrait by kforecast-scale ({at}scale.replicas=per_replica "
            f"scale.per_replica={per_pod} scale.lead_seconds={window}), of the same priority "
            "as the reactive one"
        )
    asked = _asked(choice)
    if isinstance(policy, KedaPolicy):
        return f"a second trigger, metrics-api on kforecast-serve ({asked}), with targetValue {per_pod}"
    return f"a second metric, the forecast of kforecast-serve ({asked}), with averageValue {per_pod}"


def _asked(choice: Choice) -> str:
    """The question to kforecast-serve."""
    level, window = choice.question.level, choice.question.window
    return f"window={window}" if level is None else f"quantile={level:g}&window={window}"


def recommendation(found: Replay, targets: np.ndarray | None) -> str:
    """Which setting to use, what to change, and what that did on the newest part, in one line."""
    plan, choice = found.plan, found.advice.fleet
    one = len(plan.capacity) == 1
    if choice == Choice():
        if plan.triggers is not None:
            return (
                f"Recommended: leave the forecast, {plan.triggers[1]}, out of the formula. No quantile, "
                "window or floor that was tried was better on the older part."
            )
        return (
            "Recommended: leave the autoscaler as it is. No quantile, window, floor or target that was tried "
            "was better on the older part."
        )
    names = [model.name for model in plan.models]
    same = one or float(np.ptp(plan.capacity * plan.share)) == 0
    where = "" if same else " (that of the first service; all are in replay.json)"
    what = "; ".join(changes(found, targets))
    return (
        f"Recommended: {setting_words(choice, names)}. Change in the manifest: {what}{where}. "
        f"{effect_words(found)}"
    )


def effect_words(found: Replay) -> str:
    """What the recommended setting did on the newest part, compared with the autoscaler as it is."""
    frame = found.outcomes.of_drivers(found.plan.prices)
    before, after = frame.iloc[0], frame.iloc[found.chosen]
    parts = [
        f"{name} {_change(after[key], before[key])}"
        for name, key in (("unserved load", "unserved"), ("replica-hours", "replica_hours"), ("cost", "cost"))
    ]
    low, high = found.saving.low, found.saving.high
    if math.isfinite(low):
        parts[-1] += f" ({CONFIDENCE:.0%} interval over days {-high:+.0%} to {-low:+.0%})"
        if low <= 0 <= high:
            parts[-1] += ", so the difference may be chance"
    else:
        parts[-1] += " (too few days for an interval)"
    return f"On the newest part: {', '.join(parts)}"


def _change(after: float, before: float) -> str:
    if not before > 0:
        return "as before (none)" if not after > 0 else f"from none to {after:,.3g} replica-hours"
    return f"{after / before - 1:+.0%}"


def _rounded(value: float) -> str:
    """Three digits are enough for a target."""
    return f"{float(f'{value:.3g}'):g}" if value < 1000 else f"{value:.0f}"
