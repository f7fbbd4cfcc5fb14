"""Snapshots with numbers that a reader can check in the head."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kforecast.serving.board import Board
from kforecast.serving.snapshot import Snapshot

ORIGIN, STEP, STEPS = 1_704_067_200, 600, 3
SERIES = (("shop/web", "qps"), ("shop/cart", "qps"), ("shop/new", "qps"))


@dataclass
class Clock:
    """Shows the moment that it is set to."""

    now: float = float(ORIGIN)

    def __call__(self) -> float:
        return self.now


def quantiles_of(values: np.ndarray) -> Any:
    """Quantiles that are the point forecast times (level + 0.5)."""

    def of(levels: Sequence[float]) -> np.ndarray:
        return (values[..., None] * (np.asarray(levels) + 0.5)).astype(np.float32)

    return of


def snapshot(**changed: Any) -> Snapshot:
    """Row 0 is forecast at 10, 20 and 30, row 1 at 0; row 2 has no forecast."""
    values = np.array([[10, 20, 30], [0, 0, 0], [5, 5, 5]], np.float32)
    values = changed.pop("values", values)
    made: dict[str, Any] = {
        "series": SERIES,
        "starts": ORIGIN + STEP * np.arange(STEPS + 1),
        "values": values,
        "observed": np.array([12.0, 0.0, np.nan]),
        "observed_end": np.array([ORIGIN, ORIGIN, 0]),
        "missing": {2: "no value in the history"},
        "notes": {},
        "artifact": "ab" * 32,
        "quantiles_of": quantiles_of(values),
        "past": (np.zeros(0, np.int64), np.zeros((len(values), 0)), np.zeros((len(values), 0))),
    }
    return Snapshot(**made | changed)


@dataclass
class Shown:
    """A board, and its clock."""

    clock: Clock = field(default_factory=Clock)
    board: Board = field(init=False)

    def __post_init__(self) -> None:
        self.board = Board(clock=self.clock, snapshot=snapshot(), reason="")
