"""Lightning's advertisements and advice, kept off a console that is for results."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("lightning.pytorch", "lightning.fabric")


def quieten() -> None:
    """Be quiet from here on."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for advice in (
        r".*does not have many workers.*",  # our loader gathers whole batches; workers are seldom faster
        r".*number of training batches .* is smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*Total length of `list` across ranks is zero.*",  # no validation part: meant so
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
        r".*recommended to use `self.log\('train/loss', ..., sync_dist=True\)`.*",  # it is of all already
    ):
        warnings.filterwarnings("ignore", message=advice)


@contextmanager
def quiet() -> Iterator[None]:
    """Be quiet inside of the block."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        quieten()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
