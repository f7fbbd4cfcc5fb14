"""TensorBoard's HParams page of a sweep: the varied settings, the scores, and the figures of the best job.

TensorBoard takes the first description that it finds. This one is in the sweep's own folder, which sorts
before the folders of the jobs; the jobs' own files hold their values.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.image import imread

# The package's api module imports TensorFlow.
from tensorboard.plugins.hparams.summary_v2 import Discrete, HParam, Metric, RealInterval, hparams_config_pb
from torch.utils.tensorboard import SummaryWriter

# See kforecast.training.outcome.final_scores; the monitored loss comes first.
_SCORES = ("wape", "skill", "seconds", "epochs", "artifact_kib")


def describe_sweep(folder: Path, varied: Mapping[str, Sequence[object]], monitor: str, best: Path) -> None:
    """Write the description and replace an earlier one.

    Parameters
    ----------
    folder:
        Folder of the sweep.
    varied:
        Values of each key that differs between jobs.
    monitor:
        Name of the monitored loss.
    best:
        Folder of the best job.
    """
    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    settings = [HParam(name, _domain(values)) for name, values in varied.items()]
    scores = [Metric(f"score/{name}", display_name=name) for name in (monitor.replace("/", "_"), *_SCORES)]
    with SummaryWriter(str(folder)) as writer:
        writer.file_writer.add_summary(hparams_config_pb(settings, scores))
        for path in sorted(best.glob("evaluation/figures/*.png")):
            writer.add_image(f"best job/{path.stem}", imread(path), dataformats="HWC")


def _domain(values: Sequence[object]) -> RealInterval | Discrete | None:
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        return RealInterval(min(numbers), max(numbers))
    return Discrete({*values}) if kinds in ({str}, {bool}) else None
