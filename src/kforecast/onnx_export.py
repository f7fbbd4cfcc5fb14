"""The network of an artifact as an ONNX file, which forecasts without torch.

Inputs are plain tensors, one row a window, as :class:`kforecast.data.windows.WindowBatch` has them; the
output ``forecast`` is float32 ``[windows, horizon]`` in the series' own units. What a forecast needs besides
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
from kforecast.files.output import replace_file
from kforecast.models.naive import NAIVE
from kforecast.predictor import Predictor
from kforecast.version import __version__

# Every onnxruntime since 2023 reads it.
OPSET = 18
# More than one, or the exporter takes their number for a constant.
_EXAMPLE_WINDOWS = 2


class OnnxNetwork(nn.Module):
    """What a forecaster forecasts with, as a function of plain tensors.

    Attributes
    ----------
    inputs:
        By name an example of each argument of ``forward``, in order: ``context`` (gaps filled) and
        ``series``; ``calendar``, or of a network that looks further back the fields of :class:`Past`; and
        ``naive``, the naive forecasts that take part, float32 ``[windows, forecasts, horizon]``.
    """

    weights: Tensor

    def __init__(self, forecaster: Predictor) -> None:
        super().__init__()
        self.net = forecaster.net
        combination = forecaster.combination
        used = {} if combination is None else {n: w for n, w in combination.weights.items() if w.any()}
        self._parts = [self.net.parts.index(name) for name in used if name in self.net.parts]
        self.naive = [name for name in used if name in NAIVE]
        ordered = [*(name for name in used if name in self.net.parts), *self.naive]
        self.register_buffer("weights", torch.tensor([used[name].tolist() for name in ordered]).double())
        self.inputs = self._examples(forecaster)

    def _examples(self, forecaster: Predictor) -> dict[str, Tensor]:
        window, look, count = forecaster.window, self.net.lookback, _EXAMPLE_WINDOWS
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
        """The forecast, float32 [B, P]."""
        given = dict(zip(self.inputs, tensors, strict=True))
        context, series = given["context"], given["series"]
        past = Past(*(given[name] for name in Past._fields)) if "recent" in given else None
        calendar = given.get("calendar", series)
        # Nothing looks at targets.
        made = self.net.forecast(WindowBatch(context, calendar, series, context, context > 0, past))
        if not len(self.weights):
            return made.values
        members = made.values[None] if made.parts is None else made.parts
        members = members[self._parts]
        if self.naive:
            members = torch.cat([members, given["naive"].transpose(0, 1)])
        return (self.weights[:, None, :] * members.double()).sum(dim=0).float()


def write_onnx(forecaster: Predictor, directory: Path, path: Path) -> list[str]:
    """Write the network of an artifact as one ONNX file, whole or not at all.

    Parameters
    ----------
    forecaster, directory:
        The artifact, loaded, and where it lies.

    Returns
    -------
    The names of the inputs.

    Raises
    ------
    OutputError
        When the file system refuses.
    """
    import onnx

    network = OnnxNetwork(forecaster).eval()
    windows = torch.export.Dim("windows")
    examples = tuple(network.inputs.values())
    # The exporter talks of its own inside.
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
    onnx.helper.set_model_props(model, described(forecaster, directory, network))
    onnx.checker.check_model(model)
    replace_file(path, lambda staged: onnx.save_model(model, str(staged)))
    return list(network.inputs)


def described(forecaster: Predictor, directory: Path, network: OnnxNetwork) -> dict[str, str]:
    """What is in the model's ``metadata_props``; what is no text is JSON."""
    window, look = forecaster.window, forecaster.net.lookback
    values = {
        "kforecast": __version__,
        "torch": version("torch"),
        "checkpoint_sha256": sha256(directory),
        "model": type(forecaster.net).__name__,
        "freq": window.frequency.name,
        "step": window.frequency.step,
        "context_length": window.context_length,
        "prediction_length": window.prediction_length,
        "history_length": forecaster.history_length,
        "fill": forecaster.fill,
        "item2id": forecaster.item_ids,
        "unknown_series": forecaster.net.unknown_series(),
        "calendar_fields": window.frequency.calendar_fields,
        "calendar": forecaster.calendar.as_dict(),
        "lookback": None if look is None else asdict(look),
        "naive": network.naive,
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }


def _forget_origin(model: object) -> None:
    """Leave out where in our and in torch's source every node comes from."""
    graph = model.graph  # type: ignore[attr-defined]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
