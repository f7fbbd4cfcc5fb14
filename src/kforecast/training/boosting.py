"""Grows the trees of a :class:`kforecast.models.boosted_trees.BoostedTrees` with LightGBM."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kforecast.data.datamodule import ForecastDataModule
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
# Most trees, without another setting. More than these steps of a window tell little more.
_ROUNDS, _STEPS = 400, 6
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
        Most trees; None for the default.
    rate:
        Share of each tree's correction that is used.
    patience:
        Trees without a smaller validation error before it ends; None never ends early.
    """

    seed: int
    rounds: int | None = None
    rate: float = 0.05
    patience: int | None = 30

    @property
    def most(self) -> int:
        """Most trees."""
        return _ROUNDS if self.rounds is None else self.rounds


@dataclass(frozen=True)
class Boosted:
    """What became of it.

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
        stopped_by = f"trainer.max_epochs={how.most}"
        if made.rounds < how.most:
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
    # The limits on windows are those of an epoch of the network.
    boost(net.trees, _limited(found.data, None), how)
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
        When no training window can be learned from.
    """
    import lightgbm

    random = torch.Generator().manual_seed(how.seed)
    windows = max(1, net.rows // min(net.window.prediction_length, _STEPS))
    data = _limited(data, windows)
    data.look_back(net.lookback)
    rows, target, weight = _rows(net, data.train_dataloader(), min(windows, len(data.split.train)), random)
    if not len(rows):
        raise TrainingError("no window of the training part moves, so that nothing can be learned from them")
    log.info("Boosting trees on %s rows of %d features", f"{len(rows):,}", rows.shape[1])
    settings = _settings(net, how)
    training = lightgbm.Dataset(rows, target, weight=weight, params=settings, free_raw_data=False)
    validation = None
    if len(data.split.validation):
        loader: Any = data.val_dataloader()
        held_out = _rows(net, loader, min(windows, len(data.split.validation)), random)
        if len(held_out[0]):
            validation = lightgbm.Dataset(held_out[0], held_out[1], weight=held_out[2], reference=training)
    watched = training if validation is None else validation
    found: dict[str, Any] = {}
    callbacks = [lightgbm.record_evaluation(found), _log_rounds]
    if how.patience is not None and validation is not None:
        callbacks.append(lightgbm.early_stopping(how.patience, verbose=False))
    booster = lightgbm.train(
        settings, training, how.most, valid_sets=[watched], valid_names=["watched"], callbacks=callbacks
    )
    losses = found["watched"]["l1"]
    best = int(np.argmin(losses)) + 1 if validation is not None else len(losses)
    net.correction.grow(trees_of(booster.dump_model(num_iteration=best)))
    error = np.abs(target - booster.predict(rows, num_iteration=best)).astype(np.float32)
    spread = settings | {"num_leaves": _SPREAD_LEAVES, "learning_rate": _SPREAD_RATE}
    training.set_label(error)
    net.spread.grow(trees_of(lightgbm.train(spread, training, _SPREAD_ROUNDS).dump_model()))
    return Boosted(losses[best - 1], len(losses), best)


def _limited(data: ForecastDataModule, most: int | None) -> ForecastDataModule:
    """The same data with at most this many windows of each part, without the trainer and its epochs."""
    found = copy(data)
    found.trainer = None
    given = (data.windows_per_epoch, data.validation_windows)
    limits = (None if most is None else min(most, most if one is None else one) for one in given)
    found.windows_per_epoch, found.validation_windows = limits
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


@torch.inference_mode()
def _rows(
    net: BoostedTrees, batches: Iterable[WindowBatch], windows: int, random: torch.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets and weights of steps drawn at random from windows.

    Weighted by its unit, an error counts as in the series' own units; divided by the series' mean unit, no
    series dominates the others.
    """
    share = net.rows / max(1, windows * net.window.prediction_length)
    rows: list[Tensor] = []
    targets: list[Tensor] = []
    units: list[Tensor] = []
    series: list[Tensor] = []
    for batch in batches:
        prepared = net.prepare(batch)
        assert prepared.alive is not None
        drawn = torch.rand(batch.target.shape, generator=random) < share
        drawn &= batch.observed.cpu() & prepared.alive.cpu()
        target = (batch.target - prepared.center) / prepared.scale
        rows.append(prepared.inputs[0].cpu()[drawn])
        targets.append(target.cpu()[drawn])
        units.append(prepared.scale.cpu().expand_as(drawn)[drawn])
        series.append(batch.series.cpu()[:, None].expand_as(drawn)[drawn])
    unit, of = torch.cat(units).double().numpy(), torch.cat(series).numpy()
    mean = np.bincount(of, unit) / np.maximum(np.bincount(of), 1)
    return torch.cat(rows).numpy(), torch.cat(targets).numpy(), unit / mean[of]


def _log_rounds(environment: Any) -> None:
    done = environment.iteration + 1
    if done % _LOGGED == 0:
        log.info("Tree %d: loss %.6f", done, environment.evaluation_result_list[0][2])


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
