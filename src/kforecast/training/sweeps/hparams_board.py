"""What TensorBoard shows of a sweep as a whole: what varies, what came of it, and the best job's pictures.

Written into the sweep's own folder, whose name sorts before those of the jobs: TensorBoard takes the first
description that it finds. The jobs' own files have their values.
"""

import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.event_file_writer import EventFileWriter

# See kforecast.training.outcome.final_scores; the watched loss comes before.
_SCORES = ("wape", "skill", "seconds", "epochs", "artifact_kib")


def describe_sweep(folder: Path, varied: Mapping[str, Sequence[object]], monitor: str, best: Path) -> None:
    """Write the description, in place of an earlier one.

    Parameters
    ----------
    folder:
        Of the sweep.
    varied:
        The values of each key that is not the same in all jobs.
    monitor:
        The watched loss.
    best:
        The best job's folder.
    """
    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    writer = EventFileWriter(str(folder))
    try:
        for summary in (
            _experiment(varied, monitor),
            *map(_picture, sorted(best.glob("evaluation/figures/*.png"))),
        ):
            writer.add_event(Event(wall_time=time.time(), step=0, summary=summary))
    finally:
        writer.close()


def _experiment(varied: Mapping[str, Sequence[object]], monitor: str) -> Summary:
    parameters = [
        HParamInfo(name=name, type=DATA_TYPE_FLOAT64 if all(map(_is_number, values)) else DATA_TYPE_STRING)
        for name, values in varied.items()
    ]
    tags = [f"score/{name}" for name in (monitor.replace("/", "_"), *_SCORES)]
    metrics = [MetricInfo(name=MetricName(tag=tag), display_name=tag.removeprefix("score/")) for tag in tags]
    experiment = Experiment(hparam_infos=parameters, metric_infos=metrics)
    content = HParamsPluginData(experiment=experiment, version=0).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    value = Summary.Value(tag="_hparams_/experiment", metadata=SummaryMetadata(plugin_data=plugin))
    return Summary(value=[value])


def _picture(path: Path) -> Summary:
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # of every PNG
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=content)
    return Summary(value=[Summary.Value(tag=f"best job/{path.stem}", image=image)])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
