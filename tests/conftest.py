"""Fixtures that several test files share."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from kforecast.config import CONF_DIR
from kforecast.legacy_cli import translate

BIN = Path(sys.executable).parent
# Test processes share few cores, where torch's threads wait for each other. Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
START = 1_704_067_200  # 2024-01-01 00:00 UTC, a Monday


def run_command(
    name: str, *arguments: object, cwd: Path, timeout: float = 120, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an installed console script as a user does: a process of its own, in a folder of its own."""
    return subprocess.run(
        [str(BIN / name), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


def composed(*arguments: str, name: str = "train", conf: Path = CONF_DIR) -> DictConfig:
    """What the verb gets for a command line, flags included; interpolations can be resolved."""
    overrides = [argument for argument in translate(list(arguments)) if argument != "-m"]
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose(name, overrides, return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = "run"
        HydraConfig.instance().set_config(cfg)
        del cfg.hydra
    return cfg


def traffic_rows(series: int, points: int, step: int = 600) -> list[str]:
    """CSV rows with a daily cycle: ``points`` rows for each of ``series`` series."""

    def value(i: int, n: int) -> float:
        return 10 + n + 5 * math.sin(2 * math.pi * i * step / 86_400 + n)

    numbers = [(n, i) for n in range(series) for i in range(points)]
    return [f"{START + i * step},{value(i, n):.4f},shop/web-{n},qps" for n, i in numbers]


@pytest.fixture
def traffic_csv(tmp_path: Path) -> Callable[..., Path]:
    """Make a dataset file of contract 3."""

    def make(series: int = 1, points: int = 432, name: str = "traffic.csv") -> Path:
        path = tmp_path / name
        rows = ["timestamp,value,workload,metric", *traffic_rows(series, points)]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    return make
