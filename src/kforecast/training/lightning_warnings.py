"""Silence the advice of Lightning and its loggers: the console is for results."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# The lowest level that each logger shows.
_LEVELS = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch.loggers": logging.ERROR,
}
_ADVICE = (
    r".*does not have many workers.*",  # our loader gathers whole batches; workers are rarely faster
    r".*number of training batches .* is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*Total length of `list` across ranks is zero.*",  # without a validation part, as configured
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*recommended to use `self.log\('train/loss', ..., sync_dist=True\)`.*",  # the loss is already global
    r".*MLFlow only allows.*",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the advice inside the block."""
    levels = {name: logging.getLogger(name).level for name in _LEVELS}
    with warnings.catch_warnings():
        for message in _ADVICE:
            warnings.filterwarnings("ignore", message=message)
        for name, level in _LEVELS.items():
            logging.getLogger(name).setLevel(level)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
