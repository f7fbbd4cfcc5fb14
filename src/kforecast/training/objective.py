"""What a sweep can aim at."""

from kforecast.artifact import Artifact
from kforecast.training.holdout import JudgedFit


def aim_at(names: list[str], judged: JudgedFit, artifact: Artifact) -> dict[str, float]:
    """The value of each aim, by its name in ``objective``; NaN where nothing was held out to judge by."""
    return {name: _value(name, judged, artifact) for name in names}


def _value(name: str, judged: JudgedFit, artifact: Artifact) -> float:
    if name == "score":
        return judged.fit.score
    if name == "artifact_kib":
        return sum(artifact.sizes().values()) / 1024
    if name == "training_seconds":
        return judged.fit.seconds + (judged.refit.seconds if judged.refit is not None else 0.0)
    board = judged.scoreboard
    if board is None:
        return float("nan")
    if name == "skill":
        return float(board.skill.value)
    if name == "capacity_cost":
        return float(board.orders.simulation.outcomes["cost"][board.backtest.model])
    return float(board.model[name])
