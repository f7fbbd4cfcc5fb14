"""The ONNX file of an artifact makes the same forecasts as the artifact, without torch too."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch

from conftest import HANG, START, run_command
from kforecast.artifact import Artifact, EstimatorConfig, sha256
from kforecast.data.panel import Panel
from kforecast.data.windows import WindowDataset
from kforecast.forecaster import Forecaster
from kforecast.models import NETWORKS, Network
from kforecast.onnx_export import OnnxNetwork, write_onnx
from kforecast.window import Frequency, Window

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "forecast_onnx.py"
SMALL = {"members": 2, "hidden": 16, "layers": 2}
MIXED = {
    "past days": [0.5, 0.25, 0.0],
    "context": [0.3, 0.0, 0.5],
    "same time yesterday": [0.2, 0.75, 0.5],
}


def history(freq: str, days: int = 40, start: int = START) -> pd.DataFrame:
    """Two services with a daily cycle, noise, gaps and different newest bins."""
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
    **settings: Any,
) -> Forecaster:
    """A network with random weights, none of them zero."""
    torch.manual_seed(5)
    arguments = SMALL | {"prior": "prior" in settings} if model == "SeasonalMLP" else {}
    net: Network = NETWORKS[model](window, len(items), **arguments)
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
        **{name: value for name, value in settings.items() if value},
    )
    ids = {item: number for number, item in enumerate(items)}
    Artifact(config, ids, net.artifact_state(), {"fill": fill}).save(folder)
    return Forecaster.load(folder)


ITEMS = ["shop/cartqps", "shop/search, fastqps"]
# The history that the second network sees contains the start of summer time and a holiday.
BERLIN = {"timezone": {"default": "UTC", "shop/cart": "Europe/Berlin"}, "holidays": "DE"}
KINDS: dict[str, dict[str, Any]] = {
    "fcnet": {"model": "Fcnet", "freq": "10min", "days": 3, "fill": "zero"},
    "seasonal": {
        "model": "SeasonalMLP",
        "freq": "1H",
        "days": 40,
        "start": 1_709_251_200,
        "calendar": BERLIN,
    },
    # A time zone with a half-hour offset behind UTC, and less history than the network can see.
    "short": {
        "model": "SeasonalMLP",
        "freq": "10min",
        "days": 9,
        "start": 1_729_900_000 // 600 * 600,
        "calendar": {"timezone": "America/St_Johns", "holidays": None},
        "fill": "ffill",
    },
    "days": {
        "model": "SeasonalMLP",
        "freq": "1D",
        "days": 500,
        "calendar": {"timezone": "America/New_York", "holidays": None},
        "combination": {"past days": [1.0, 1.0, 0.5], "context": [0.0, 0.0, 0.5]},
    },
    "with naive": {"model": "SeasonalMLP", "freq": "1H", "days": 40, "combination": MIXED},
    "with prior": {"model": "SeasonalMLP", "freq": "1H", "days": 40, "prior": {"share": 0.3, "width": 1.0}},
    "pretrained": {"model": "Pretrained", "freq": "1H", "days": 40, "calendar": BERLIN},
}
# Exporting a SeasonalMLP takes seven seconds.
SLOW = ("seasonal", "short", "days", "with naive", "with prior", "pretrained")


class Written(NamedTuple):
    """An artifact in ``folder/model``, its export ``folder/model.onnx``, and a history."""

    folder: Path
    forecaster: Forecaster
    frame: pd.DataFrame
    inputs: list[str]


@cache
def written(kind: str, folder: Path) -> Written:
    about = dict(KINDS[kind])
    model, freq = about.pop("model"), about.pop("freq")
    frame = history(freq, about.pop("days"), about.pop("start", START))
    made = artifact(folder / "model", model, Window(Frequency.parse(freq), 7, 3), ITEMS, **about)
    return Written(folder, made, frame, write_onnx(made, folder / "model", folder / "model.onnx"))


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Written]:
    """A function that exports each kind of network once."""
    base = tmp_path_factory.mktemp("onnx")

    def make(kind: str) -> Written:
        (base / kind).mkdir(exist_ok=True)
        return written(kind, base / kind)

    return make


def some(kinds: Iterable[str]) -> list[Any]:
    return [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in kinds]


@pytest.mark.parametrize("kind", some(KINDS))
def test_a_thousand_windows_are_forecast_as_the_forecaster_does(
    kind: str, write: Callable[[str], Written]
) -> None:
    folder, forecaster, frame, names = write(kind)
    batch, expected = thousand(forecaster, frame)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert [argument.name for argument in session.get_inputs()] == names
    assert ("naive" in names) == (kind == "with naive")
    (made,) = session.run(None, {name: batch[name].numpy() for name in names})
    level = np.maximum(np.abs(expected), np.abs(batch["context"].numpy()).mean(axis=1, keepdims=True))
    assert made.dtype == np.float32
    assert (np.abs(made - expected) / level).max() < 1e-5
    # The forecast of a window does not depend on the other windows.
    (alone,) = session.run(None, {name: batch[name].numpy()[:1] for name in names})
    assert np.allclose(alone, made[:1], rtol=1e-5)


@pytest.mark.parametrize(
    "combination, calendar, start, naive",
    [(MIXED, None, START, ["same time yesterday"]), (None, BERLIN, KINDS["seasonal"]["start"], [])],
    ids=["naive forecasts", "clocks and holidays"],
)
def test_what_is_exported_forecasts_as_the_forecaster_does(
    combination: Any, calendar: Any, start: int, naive: list[str], tmp_path: Path
) -> None:
    window = Window(Frequency.parse("1H"), 7, 3)
    forecaster = artifact(
        tmp_path / "model", "SeasonalMLP", window, ITEMS, calendar=calendar, combination=combination
    )
    batch, expected = thousand(forecaster, history("1H", start=start))
    network = OnnxNetwork(forecaster).eval()
    with torch.inference_mode():
        made = network(*(batch[name] for name in network.inputs)).numpy()
    assert network.naive == naive
    assert np.allclose(made, expected, rtol=1e-6)


def thousand(forecaster: Forecaster, frame: pd.DataFrame) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The network's inputs for a thousand windows, as the forecaster prepares them, and the forecasts."""
    window, random = forecaster.window, np.random.default_rng(0)
    panel = Panel.from_frame(frame, window.frequency)
    series = random.integers(0, panel.num_series, 1000)
    origin = random.integers(window.context_length, panel.num_bins - window.prediction_length, 1000)
    windows = WindowDataset(
        panel, window, forecaster.fill, lookback=forecaster.net.lookback, calendar=forecaster.calendar
    )
    cells = series * panel.num_bins + origin
    batch = windows[torch.from_numpy(cells)]
    given = batch._asdict() | (batch.past._asdict() if batch.past else {})
    naive = forecaster._naive(panel, cells)["same time yesterday"]
    given["naive"] = torch.from_numpy(naive)[:, None]
    return given, forecaster.forecast_windows(panel, series, origin).values


def test_the_file_says_what_else_is_needed(write: Callable[[str], Written]) -> None:
    folder, forecaster, _, _ = write("fcnet")
    model = onnx.load(folder / "model.onnx")
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert (about["model"], about["freq"], about["fill"]) == ("Fcnet", "10min", "zero")
    assert (about["context_length"], about["prediction_length"], about["step"]) == ("7", "3", "600")
    assert json.loads(about["item2id"]) == dict(forecaster.item_ids)
    assert json.loads(about["calendar_fields"]) == ["minute", "hour", "day_of_week", "day_of_month"]
    assert json.loads(about["calendar"])["timezone"] == "UTC"
    assert about["checkpoint_sha256"] == sha256(folder / "model")
    assert {"kforecast", "torch"} <= set(about)
    assert [len(argument.type.tensor_type.shape.dim) for argument in model.graph.input] == [2, 1, 3]
    # No trace of the machine that exported it.
    assert b".py" not in (folder / "model.onnx").read_bytes()


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
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=HANG, check=False)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="not a checkout")
@pytest.mark.parametrize("kind", some(kind for kind in KINDS if kind != "with naive"))
def test_the_example_forecasts_what_the_command_forecasts(kind: str, write: Callable[[str], Written]) -> None:
    folder, forecaster, frame, _ = write(kind)
    # Two rows per bin, but only one in the newest (incomplete) bins; rows at the same second, and one
    # without a value.
    newest = frame.groupby("workload")["timestamp"].transform("max")
    later = frame[frame["timestamp"] < newest]
    later = later.assign(
        timestamp=later["timestamp"] + forecaster.window.frequency.step // 2, value=later["value"] * 1.5
    )
    odd = [frame.iloc[5:9].assign(value=1.0), frame.iloc[20:21].assign(value=np.nan)]
    frame = pd.concat([frame, later, *odd]).sample(frac=1, random_state=1)
    frame.to_csv(folder / "traffic.csv", index=False)
    if kind == "fcnet":
        arguments = ["artifact_dir=model", "--dataset-file=traffic.csv"]
        command = run_command("kforecast-forecast", *arguments, cwd=folder)
        assert command.returncode == 0, command.stderr
        expected = forecasts(command.stdout)
    else:  # as the command does
        expected = forecasts(forecaster.forecast(frame).to_csv(index=False))
    done = without_torch("model.onnx", "traffic.csv", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    made = forecasts(done.stdout)
    assert len(expected) == 6
    assert list(made) == list(expected)
    assert made == pytest.approx(expected, rel=1e-5, abs=1e-3)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="not a checkout")
def test_the_example_refuses_what_it_cannot_forecast(
    write: Callable[[str], Written], traffic_csv: Callable[..., Path]
) -> None:
    folder = write("fcnet").folder
    done = without_torch(folder / "model.onnx", traffic_csv(points=30), cwd=folder)
    assert (done.returncode, done.stderr) == (2, "error: not in the model: shop/web-0 qps\n")


@pytest.mark.slow
def test_the_example_says_that_it_makes_no_naive_forecasts(
    write: Callable[[str], Written], traffic_csv: Callable[..., Path]
) -> None:
    folder = write("with naive").folder
    done = without_torch(folder / "model.onnx", traffic_csv(points=30), cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: naive forecasts take part in it: same time yesterday\n"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="not a checkout")
def test_the_example_says_that_it_does_not_replace_past_events(
    write: Callable[[str], Written], traffic_csv: Callable[..., Path], tmp_path: Path
) -> None:
    model = onnx.load(write("fcnet").folder / "model.onnx")
    props = {prop.key: prop.value for prop in model.metadata_props}
    assert props["events"] == "false"
    onnx.helper.set_model_props(model, props | {"events": "true"})
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    done = without_torch(tmp_path / "model.onnx", traffic_csv(points=30), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: it sees usual values in place of past events, which this example does not\n"
