"""Grows the trees of a :class:`kforecast.models.boosted_trees.BoostedTrees` with LightGBM."""

from __future__ import annotations

import logging
import time
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.loader import BatchOrder
from kforecast.data.windows import WindowBatch
from kforecast.errors import TrainingError
from kforecast.models.boosted_trees import BoostedTrees
from kforecast.models.seasonal_trees import SeasonalTrees
from kforecast.training.fit import Fit
from kforecast.training.module import ForecastModule
from kforecast.training.resume.checkpoints import RunCheckpoint
from kforecast.training.resume.reading import State

log = logging.getLogger(__name__)

# The second forest forecasts the size of the error, which needs fewer and smaller trees.
_SPREAD_ROUNDS, _SPREAD_LEAVES, _SPREAD_RATE = 40, 15, 0.1
# Most trees beside a network, and the share of each that is used.
ROUNDS, _RATE = 200, 0.1
# So many steps of a window tell nearly as much as all of them.
_STEPS = 6
# Largest target, in units of the movement, and largest weight: one wild window must not decide everything.
_LARGEST_TARGET, _LARGEST_WEIGHT = 10_000.0, 5.0
# Rounds from one log line to the next.
_LOGGED = 50


@dataclass(frozen=True)
class Boosting:
    """How trees are grown.

    Attributes
    ----------
    seed:
        Seed of the rows and of the features that each tree may use.
    rounds:
        Most trees.
    rate:
        Share of each tree's correction that is used.
    patience:
        Trees without a smaller validation error before it ends; None never ends early.
    """

    seed: int
    rounds: int = ROUNDS
    rate: float = _RATE
    patience: int | None = 30


@dataclass(frozen=True)
class Boosted:
    """The outcome.

    Attributes
    ----------
    loss:
        Mean absolute error in units of the movement: of the validation part, or of the training rows without
        one.
    rounds, best:
        Trees grown, and how many of them gave the smallest loss; the others are left out.
    """

    loss: float
    rounds: int
    best: int


def grow(
    module: ForecastModule,
    data: ForecastDataModule,
    how: Boosting,
    run_checkpoint: RunCheckpoint,
    resumed: State | None = None,
) -> Fit:
    """Grow the trees of a module's network; the counterpart of :func:`kforecast.training.fit.fit`.

    Raises
    ------
    TrainingError
        As :func:`boost` does.
    """
    net = module.net
    assert isinstance(net, BoostedTrees)
    if resumed is not None and "finished" in resumed:
        module.load_state_dict(resumed["state_dict"])
        outcome: State = resumed["finished"]
    else:
        begun = time.perf_counter()
        run_checkpoint.make_folder()
        made = boost(net, data, how)
        stopped_by = f"trainer.max_epochs={how.rounds}"
        if made.rounds < how.rounds:
            stopped_by = f"early stopping: no better validation/loss in {how.patience} epochs"
        outcome = {"score": made.loss, "epochs": made.rounds, "best_epoch": made.best}
        outcome |= {"stopped_by": stopped_by, "seconds": time.perf_counter() - begun}
        run_checkpoint.finish(module, outcome)
    return Fit(module.eval(), data, **outcome)


def grow_beside(found: Fit, how: Boosting, run_checkpoint: RunCheckpoint) -> Fit:
    """Grow the trees beside a network that is trained, and put them into its last checkpoint.

    Raises
    ------
    TrainingError
        As :func:`boost` does.
    """
    module, net = found.module, found.net
    assert isinstance(net, SeasonalTrees)
    if net.trees.count:  # a finished training that was resumed
        return found
    begun, device = time.perf_counter(), module.device
    data = copy(found.data)
    data.windows_per_epoch = data.validation_windows = None  # they are for the network's epochs
    boost(net.trees, data, how)
    module.to(device)
    found = replace(found, seconds=found.seconds + time.perf_counter() - begun)
    names = ("score", "epochs", "best_epoch", "stopped_by", "seconds", "hopeless")
    run_checkpoint.finish(module, {name: getattr(found, name) for name in names})
    return found


def boost(net: BoostedTrees, data: ForecastDataModule, how: Boosting) -> Boosted:
    """Grow the trees from the training windows; the validation windows choose their number.

    Raises
    ------
    TrainingError
        When LightGBM fails.
    """
    import lightgbm

    random = torch.Generator().manual_seed(how.seed)
    most = max(1, net.rows // min(net.window.prediction_length, _STEPS))
    trained = _windows(data, net, min(most, data.windows_per_epoch or most))
    training = _rows(net, trained.train_dataloader(), random)
    if training is None:
        log.warning("No window of the training part moves: the forecast will be the last value")
        return Boosted(0.0, 1, 1)
    log.info("Growing trees on %s rows of %d features", f"{len(training.target):,}", net.num_features)
    held_out = None
    if len(data.split.validation):
        loader: Any = _windows(data, net, min(most, data.validation_windows or most)).val_dataloader()
        held_out = _rows(net, loader, random)
    try:
        return _boosted(net, training, held_out, how)
    except lightgbm.basic.LightGBMError as error:
        raise TrainingError(f"LightGBM: {' '.join(str(error).split())}") from error


def _boosted(net: BoostedTrees, rows: _Rows, held_out: _Rows | None, how: Boosting) -> Boosted:
    import lightgbm

    settings = _settings(net, how)
    training = lightgbm.Dataset(
        rows.features, rows.target, weight=rows.weight, params=settings, free_raw_data=False
    )
    found: dict[str, Any] = {}
    watched, callbacks = training, [lightgbm.record_evaluation(found), _log_rounds]
    if held_out is not None:
        watched = training.create_valid(held_out.features, held_out.target, weight=held_out.weight)
        if how.patience is not None:
            callbacks.append(lightgbm.early_stopping(how.patience, verbose=False))
    booster = lightgbm.train(
        settings, training, how.rounds, valid_sets=[watched], valid_names=["watched"], callbacks=callbacks
    )
    losses = found["watched"]["l1"]
    best = len(losses) if held_out is None else int(np.argmin(losses)) + 1
    net.correction.grow(trees_of(booster.dump_model(num_iteration=best)))
    training.set_label(np.abs(rows.target - booster.predict(rows.features, num_iteration=best)))
    spread = settings | {"num_leaves": _SPREAD_LEAVES, "learning_rate": _SPREAD_RATE}
    net.spread.grow(trees_of(lightgbm.train(spread, training, _SPREAD_ROUNDS).dump_model()))
    return Boosted(losses[best - 1], len(losses), best)


def _windows(data: ForecastDataModule, net: BoostedTrees, most: int) -> ForecastDataModule:
    """The same data with at most this many windows in each part, without the trainer and its epochs."""
    found = copy(data)
    found.trainer = None
    found.windows_per_epoch = found.validation_windows = most
    found.look_back(net.lookback)
    return found


def _settings(net: BoostedTrees, how: Boosting) -> dict[str, Any]:
    return {
        "objective": "regression_l1",
        "metric": "l1",
        "num_leaves": net.leaves,
        "max_depth": net.depth,
        "min_data_in_leaf": net.least_rows,
        "learning_rate": how.rate,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "use_missing": False,  # they have a value of their own
        "seed": how.seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": torch.get_num_threads(),
        "verbosity": -1,
    }


class _Rows(NamedTuple):
    """Steps of windows, as LightGBM takes them."""

    features: np.ndarray
    """float32 ``[rows, features]``."""
    target: np.ndarray
    """float32 ``[rows]``: corrections in units of the movement."""
    weight: np.ndarray
    """float32 ``[rows]``."""


@torch.inference_mode()
def _rows(net: BoostedTrees, batches: DataLoader[WindowBatch], random: torch.Generator) -> _Rows | None:
    """Steps drawn at random from windows; None if there is none to learn from."""
    order = batches.sampler
    assert isinstance(order, BatchOrder)
    share = net.rows / max(1, order.num_windows * net.window.prediction_length)
    parts: list[tuple[Tensor, ...]] = []
    for batch in batches:
        prepared = net.prepare(batch)
        assert prepared.alive is not None
        drawn = torch.rand(batch.target.shape, generator=random).to(batch.target.device) < share
        drawn &= batch.observed & prepared.alive
        target = ((batch.target - prepared.center) / prepared.scale).clamp(-_LARGEST_TARGET, _LARGEST_TARGET)
        of_window = (each.expand_as(drawn) for each in (prepared.scale, batch.series[:, None]))
        parts.append(tuple(each[drawn].cpu() for each in (prepared.inputs[0], target, *of_window)))
    features, target, unit, series = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return _Rows(features, target, _weights(unit, series)) if len(target) else None


def _weights(unit: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Weights with which errors count as in the units of each series, and no series dominates the others."""
    order = np.lexsort((unit, series))
    count = np.bincount(series)
    median = unit[order][np.cumsum(count) - (count + 1) // 2] if len(unit) else unit
    weights: np.ndarray = np.minimum(unit / median[series], _LARGEST_WEIGHT)
    return weights


def _log_rounds(environment: Any) -> None:
    done = environment.iteration + 1
    if done % _LOGGED == 0:
        log.info("Tree %d: mean absolute error %.6f", done, environment.evaluation_result_list[0][2])


def trees_of(dumped: dict[str, Any]) -> dict[str, Tensor]:
    """The trees of LightGBM's description as the tensors of :class:`kforecast.models.forest.Forest`."""
    found = [tree["tree_structure"] for tree in dumped["tree_info"]]
    leaves = max(tree["num_leaves"] for tree in dumped["tree_info"])
    count, inner = len(found), leaves - 1
    made = {name: np.zeros((count, inner)) for name in ("feature", "threshold")}
    made |= {name: np.full((count, inner), -1.0) for name in ("left", "right")}
    made["value"] = np.zeros((count, leaves))
    for number, root in enumerate(found):
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if "split_index" not in node:
                made["value"][number, node.get("leaf_index", 0)] = node["leaf_value"]
                continue
            place = number, node["split_index"]
            made["feature"][place], made["threshold"][place] = node["split_feature"], node["threshold"]
            for side in ("left", "right"):
                child = node[f"{side}_child"]
                made[side][place] = child.get("split_index", -1 - child.get("leaf_index", 0))
                waiting.append(child)
    # Rounded down: a float32 feature is at most the rounded threshold if it is at most the exact one.
    exact, rounded = made["threshold"], made["threshold"].astype(np.float32)
    made["threshold"] = np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in made.items()}
