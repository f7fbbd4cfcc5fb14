"""Export of an artifact's network as an ONNX file, which forecasts without torch.

The inputs are the tensors of a :class:`kforecast.data.windows.WindowBatch`, one row per window. The output
``forecast`` is float32 ``[windows, horizon]`` in the series' own units. Everything else that a forecast needs
is in the model's ``metadata_props`` (:func:`described`).
"""

import json
import logging
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from kforecast.artifact import sha256
from kforecast.data.windows import Past, WindowBatch
from kforecast.errors import ArtifactError
from kforecast.files.output import replace_file
from kforecast.models import BoostedTrees, SeasonalTrees
from kforecast.models.naive import NAIVE
from kforecast.models.network import Forecast
from kforecast.predictor import Predictor
from kforecast.version import __version__
from kforecast.window import Window

# Every onnxruntime since 2023 can read it.
OPSET = 18
# More than one window, otherwise the exporter treats their number as a constant.
_EXAMPLE_WINDOWS = 2


class OnnxNetwork(nn.Module):
    """The network and combination of a predictor, as a function of plain tensors.

    Attributes
    ----------
    inputs:
        An example of each argument of ``forward`` by name, in order: ``context`` (gaps filled) and
        ``series``; then ``calendar``, or the fields of :class:`Past` for a network that looks further back;
        then ``naive``, the naive forecasts with a weight, float32 ``[windows, forecasts, horizon]``.
    naive:
        Names of these naive forecasts.
    """

    weights: Tensor
    negative: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.net, self._share = predictor.net, predictor.prior_share
        combination = predictor.combination
        used = {} if combination is None else {n: w for n, w in combination.weights.items() if w.any()}
        self._parts = [self.net.parts.index(name) for name in used if name in self.net.parts]
        self.naive = [name for name in used if name in NAIVE]
        ordered = [*(name for name in used if name in self.net.parts), *self.naive]
        self.register_buffer("weights", torch.tensor([used[name].tolist() for name in ordered]).double())
        self.register_buffer("negative", self._may_be_negative(predictor))
        self.inputs = self._examples(predictor.window)

    @staticmethod
    def _may_be_negative(predictor: Predictor) -> Tensor:
        """Whether the artifact knows the series of each id to have been below zero, bool ``[ids]``."""
        known = predictor.below_zero
        negative = torch.zeros(predictor.net.num_series + 1, dtype=torch.bool)
        negative[[number for key, number in predictor.item_ids.items() if key in known]] = True
        return negative

    def _examples(self, window: Window) -> dict[str, Tensor]:
        """Tensors with the shapes and types of the inputs, by name."""
        look, count = self.net.lookback, _EXAMPLE_WINDOWS
        horizon, fields = window.prediction_length, len(window.frequency.calendar_fields)
        made = {"context": torch.ones(count, window.context_length), "series": torch.zeros(count).long()}
        if look is None:
            made["calendar"] = torch.ones(count, horizon, fields).long()
        else:
            recent = torch.ones(count, look.recent)
            seasons = torch.ones(count, look.seasons, look.width(window))
            moment = torch.ones(count, 3)
            made |= Past(recent, recent > 0, seasons, seasons > 0, seasons > 0, moment)._asdict()
        if self.naive:
            made["naive"] = torch.ones(count, len(self.naive), horizon)
        return made

    def forward(self, *tensors: Tensor) -> Tensor:
        """Forecast from the tensors of :attr:`inputs`, in their order; float32 [B, P].

        The forecast is at least zero if the artifact knows no value of the series below zero, and no bin
        that the network sees is.
        """
        given = dict(zip(self.inputs, tensors, strict=True))
        context, series = given["context"], given["series"]
        past = Past(*(given[name] for name in Past._fields)) if "recent" in given else None
        calendar = given.get("calendar", series)
        # The context stands in for targets, which a forecast never reads.
        batch = WindowBatch(context, calendar, series, context, context > 0, past)
        made = self.net.forecast(batch)
        lowest = context.amin(dim=1)
        if past is not None:
            seen = torch.minimum(past.recent.amin(dim=1), past.seasons.amin(dim=(1, 2)))
            lowest = torch.minimum(lowest, seen)
        allowed = (self.negative[series] | (lowest < 0))[:, None]
        combined = self._combined(made, given)
        if self._share and (prior := self.net.prior_forecast(batch)) is not None:
            mixed = torch.lerp(combined, prior, self._share)
            combined = mixed.where(mixed.isfinite(), combined)
        # NaN stays NaN: a zero would be mistaken for a forecast.
        return combined.where(allowed | ~(combined < 0), 0.0)

    def _combined(self, made: Forecast, given: dict[str, Tensor]) -> Tensor:
        """The weighted mean of the network's parts and the naive forecasts, float32 [B, P]."""
        if not len(self.weights):
            return made.values
        members = made.values[None] if made.parts is None else made.parts
        members = members[self._parts]
        if self.naive:
            members = torch.cat([members, given["naive"].transpose(0, 1)])
        return (self.weights[:, None, :] * members.double()).sum(dim=0).float()


def write_onnx(predictor: Predictor, directory: Path, path: Path) -> list[str]:
    """Write the network of an artifact as one ONNX file, completely or not at all.

    Parameters
    ----------
    predictor, directory:
        The loaded artifact, and its directory.
    path:
        The file to write.

    Returns
    -------
    The names of the model's inputs.

    Raises
    ------
    ArtifactError
        When the network has trees, which the exporter cannot follow.
    OutputError
        When the file system refuses.
    """
    import onnx

    if isinstance(predictor.net, BoostedTrees | SeasonalTrees):
        raise ArtifactError(
            f"{directory}: boosted trees cannot be written as ONNX; train with model=seasonal_mlp, or with "
            "model=auto trees=false"
        )
    network = OnnxNetwork(predictor).eval()
    windows = torch.export.Dim("windows")
    examples = tuple(network.inputs.values())
    # Silence the exporter's messages about its internals.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(network.inputs),
                output_names=["forecast"],
                dynamic_shapes=(tuple({0: windows} for _ in examples),),
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    onnx.helper.set_model_props(model, described(predictor, directory, network))
    onnx.checker.check_model(model)
    replace_file(path, lambda staged: onnx.save_model(model, str(staged)))
    return list(network.inputs)


def described(predictor: Predictor, directory: Path, network: OnnxNetwork) -> dict[str, str]:
    """The model's ``metadata_props``; values that are not texts are JSON."""
    window, look = predictor.window, predictor.net.lookback
    values = {
        "kforecast": __version__,
        "torch": version("torch"),
        "checkpoint_sha256": sha256(directory),
        "model": type(predictor.net).__name__,
        "freq": window.frequency.name,
        "step": window.frequency.step,
        "context_length": window.context_length,
        "prediction_length": window.prediction_length,
        "history_length": window.history_length(look),
        "fill": predictor.fill,
        "item2id": predictor.item_ids,
        "unknown_series": predictor.net.unknown_series(),
        "calendar_fields": window.frequency.calendar_fields,
        "calendar": predictor.calendar.as_dict(),
        "bin_zone": predictor.zone,
        "lookback": None if look is None else asdict(look),
        "naive": network.naive,
        "events": predictor.events,
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }


def _forget_origin(model: object) -> None:
    """Remove the source locations, in our code and in torch, that the exporter attaches to every node."""
    graph = model.graph  # type: ignore[attr-defined]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
