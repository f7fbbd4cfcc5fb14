"""An interrupted command reports it by its exit code, and leaves an artifact that can be loaded."""

import os
import signal
from argparse import ArgumentParser
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from conftest import HANG, started, wait_for
from kforecast.commands.run import HYDRA_FLAGS
from kforecast.forecaster import Forecaster

ENDLESS = [
    "source=synthetic",
    "source.days=7",
    "source.step=600",
    "trainer=cpu",
    "trainer.max_epochs=1000000",
    "callbacks.early_stopping=null",
    "logger=none",
    "hydra.run.dir=run",
    "--model-save-path=model",
]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(
    "number, code", [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_interrupted_training(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = started("kforecast-train", *ENDLESS, cwd=tmp_path)
    try:
        # When the second epoch is logged, the artifact of the first one has been written.
        wait_for("Epoch: 2", tmp_path / "run" / "train.log", process)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert process.returncode == code, stderr
    assert "Traceback" not in stdout + stderr
    forecaster = Forecaster.load(tmp_path / "model")
    assert len(forecaster.item_ids) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"run", "model"}
    assert not list((tmp_path / "model").glob(".*"))


def test_our_table_of_hydras_flags_is_hydras() -> None:
    def table(parser: ArgumentParser) -> dict[tuple[str, ...], tuple[object, ...]]:
        return {
            tuple(action.option_strings): (action.nargs, action.const, action.choices)
            for action in parser._actions
            if action.option_strings and action.dest != "version"
        }

    ours = ArgumentParser(add_help=False)
    for names, how in HYDRA_FLAGS.items():
        ours.add_argument(*names, **how)
    assert table(ours) == table(get_args_parser())
    assert ("--version",) in HYDRA_FLAGS
