"""An artifact's network as ONNX forecasts what the artifact forecasts, without torch too."""

import json
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch

from conftest import START, run_command
from kforecast.artifact import Artifact, EstimatorConfig, sha256
from kforecast.data.panel import Panel
from kforecast.data.windows import WindowDataset
from kforecast.forecaster import Forecaster
from kforecast.models import NETWORKS, Network
from kforecast.onnx_file import write_onnx
from kforecast.window import Frequency, Window

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "forecast_onnx.py"
SMALL = {"members": 2, "hidden": 16, "layers": 2}
MIXED = {"past days": [0.5, 0.25], "context": [0.3, 0.0], "same time yesterday": [0.2, 0.75]}


def history(freq: str, days: int = 40, start: int = START) -> pd.DataFrame:
    """Two services with a daily cycle, noise and gaps, whose newest bins differ."""
    step, random = Frequency.parse(freq).step, np.random.default_rng(3)
    frames = []
    for number, name in enumerate(["shop/cart", "shop/search, fast"]):
        second = np.arange(start, start + days * 86_400 - number * 2 * step, step)
        value = 100 + 60 * np.sin(2 * np.pi * second / 86_400 + number) + random.normal(0, 5, len(second))
        kept = random.random(len(second)) > 0.05
        kept[[0, -1]] = True
        frames.append(
            pd.DataFrame({"timestamp": second[kept], "value": value[kept], "workload": name, "metric": "qps"})
        )
    return pd.concat(frames, ignore_index=True)


def artifact(
    folder: Path,
    model: str,
    window: Window,
    items: list[str],
    fill: str = "interpolate",
    calendar: dict[str, Any] | None = None,
    combination: dict[str, list[float]] | None = None,
) -> Forecaster:
    """One whose weights are random, none of them zero."""
    torch.manual_seed(5)
    net: Network = NETWORKS[model](window, len(items), **(SMALL if model == "SeasonalMLP" else {}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1)
    config = EstimatorConfig(
        freq=window.frequency.name,
        prediction_length=window.prediction_length,
        context_length=window.context_length,
        num_series=len(items),
        model=model,
        network=net.settings(),
        calendar=calendar or {},
        combination=combination or {},
    )
    ids = {item: number for number, item in enumerate(items)}
    Artifact(config, ids, net.artifact_state(), {"fill": fill}).save(folder)
    return Forecaster.load(folder)


ITEMS = ["shop/cartqps", "shop/search, fastqps"]


@pytest.mark.parametrize(
    "model, freq, combination",
    [
        ("Fcnet", "10min", None),
        ("SeasonalMLP", "1H", MIXED),
        pytest.param("Fcnet", "1D", None, marks=pytest.mark.slow),
        pytest.param("SeasonalMLP", "10min", None, marks=pytest.mark.slow),
        pytest.param("SeasonalMLP", "1D", {"past days": [1.0, 1.0]}, marks=pytest.mark.slow),
    ],
)
def test_a_thousand_windows_are_forecast_as_the_forecaster_does(
    model: str, freq: str, combination: dict[str, list[float]] | None, tmp_path: Path
) -> None:
    window = Window(Frequency.parse(freq), 7, 2)
    forecaster = artifact(tmp_path / "model", model, window, ITEMS, combination=combination)
    file = tmp_path / "model.onnx"
    names = write_onnx(forecaster, tmp_path / "model", file)

    days = 600 if freq == "1D" else 40
    panel = Panel.from_frame(history(freq, days), window.frequency)
    random = np.random.default_rng(0)
    series = random.integers(0, panel.num_series, 1000)
    origin = random.integers(window.context_length, panel.num_bins - window.prediction_length, 1000)
    expected = forecaster.forecast_windows(panel, series, origin).values

    # What the network is given, as the forecaster makes it.
    windows = WindowDataset(
        panel, window, forecaster.fill, lookback=forecaster.net.lookback, calendar=forecaster.calendar
    )
    cells = series * panel.num_bins + origin
    batch = windows[torch.from_numpy(cells)]
    given = batch._asdict() | (batch.past._asdict() if batch.past else {})
    if "naive" in names:
        naive = forecaster._naive(panel, cells)
        given["naive"] = torch.from_numpy(np.stack([naive["same time yesterday"]], axis=1))
    session = onnxruntime.InferenceSession(str(file))
    assert [argument.name for argument in session.get_inputs()] == names
    (made,) = session.run(None, {name: given[name].numpy() for name in names})
    level = np.maximum(np.abs(expected), np.abs(batch.context.numpy()).mean(axis=1, keepdims=True))
    assert made.dtype == np.float32
    assert (np.abs(made - expected) / level).max() < 1e-5
    # One window alone is the same as among many.
    (alone,) = session.run(None, {name: given[name].numpy()[:1] for name in names})
    assert np.allclose(alone, made[:1], rtol=1e-5)


def test_the_file_says_what_else_is_needed(tmp_path: Path) -> None:
    window = Window(Frequency.parse("1H"), 5, 2)
    forecaster = artifact(tmp_path / "model", "Fcnet", window, ITEMS)
    write_onnx(forecaster, tmp_path / "model", tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert (about["model"], about["freq"], about["fill"]) == ("Fcnet", "1H", "interpolate")
    assert (about["context_length"], about["prediction_length"], about["step"]) == ("5", "2", "3600")
    assert json.loads(about["item2id"]) == dict(forecaster.item_ids)
    assert json.loads(about["calendar_fields"]) == ["hour", "day_of_week", "day_of_month"]
    assert json.loads(about["calendar"])["timezone"] == "UTC"
    assert about["checkpoint_sha256"] == sha256(tmp_path / "model")
    assert {"kforecast", "torch"} <= set(about)
    assert [len(argument.type.tensor_type.shape.dim) for argument in model.graph.input] == [2, 1, 3]
    # Nothing of the machine it was made on.
    assert b".py" not in (tmp_path / "model.onnx").read_bytes()


def forecasts(text: str) -> dict[tuple[str, ...], float]:
    lines = pd.read_csv(StringIO(text), dtype={"timestamp": str})
    return {tuple(row[:3]): row[3] for row in lines.itertuples(index=False, name=None)}


def without_torch(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the example where neither torch, nor pandas, nor kforecast can be imported."""
    script = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(['torch', 'pandas', 'kforecast'])\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="not a checkout")
@pytest.mark.parametrize(
    "model, freq, days, start, options",
    [
        ("Fcnet", "10min", 3, START, {"fill": "zero"}),
        # Summer time begins within the past that is looked at; one holiday is in it.
        (
            *("SeasonalMLP", "1H", 40, 1_709_251_200),
            {"calendar": {"timezone": {"default": "UTC", "shop/cart": "Europe/Berlin"}, "holidays": "DE"}},
        ),
        # Less history than is looked at, behind UTC, and clocks of half an hour.
        pytest.param(
            *("SeasonalMLP", "10min", 9, 1_729_900_000 // 600 * 600),
            {"calendar": {"timezone": "America/St_Johns", "holidays": None}, "fill": "ffill"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("SeasonalMLP", "1D", 70, START),
            {"calendar": {"timezone": "America/New_York", "holidays": None}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["Fcnet", "SeasonalMLP", "short history", "days"],
)
def test_the_example_forecasts_what_the_command_forecasts(
    model: str, freq: str, days: int, start: int, options: dict[str, Any], tmp_path: Path
) -> None:
    forecaster = artifact(tmp_path / "model", model, Window(Frequency.parse(freq), 7, 3), ITEMS, **options)
    write_onnx(forecaster, tmp_path / "model", tmp_path / "model.onnx")
    frame = history(freq, days, start)
    # Rows of the same second, one without a value, and a newest bin that has only begun.
    frame = pd.concat([frame, frame.iloc[5:9].assign(value=1.0), frame.iloc[20:21].assign(value=np.nan)])
    frame.sample(frac=1, random_state=1).to_csv(tmp_path / "traffic.csv", index=False)
    command = run_command(
        "kforecast-forecast", "artifact_dir=model", "--dataset-file=traffic.csv", cwd=tmp_path
    )
    assert command.returncode == 0, command.stderr
    done = without_torch("model.onnx", "traffic.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    expected, made = forecasts(command.stdout), forecasts(done.stdout)
    assert len(expected) == 6
    assert list(made) == list(expected)
    assert made == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="not a checkout")
def test_the_example_refuses_what_it_cannot_forecast(
    tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    window = Window(Frequency.parse("10min"), 7, 3)
    write_onnx(artifact(tmp_path / "model", "Fcnet", window, ITEMS), tmp_path / "model", tmp_path / "m.onnx")
    done = without_torch("m.onnx", traffic_csv(points=30), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: not in the model: shop/web-0 qps\n")
