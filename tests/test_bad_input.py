"""Whatever is wrong with the input: exit code 2, one message that names it, nothing overwritten."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import START, run_command, traffic_rows
from kforecast.artifact import METADATA, TRIO

HEADER = "timestamp,value,workload,metric"


@dataclass(frozen=True)
class Case:
    """A command line that must be refused."""

    name: str
    arguments: list[str]
    words: list[str]
    """What the message must say."""
    files: dict[str, str | bytes] = field(default_factory=dict)
    """Files beside it, by name; ``traffic.csv`` is always there and good."""
    command: str = "kforecast-train"


def config(**changes: Any) -> str:
    """A good train-config.yaml with some top-level keys changed; None takes a key out."""
    content = {
        "targets": [target()],
        "freq": "10min",
        "predictionLength": 3,
        "contextLength": 7,
        "hyperParams": {"learningRate": 0.001, "epochs": 1, "batchSize": 32},
    } | changes
    return yaml.safe_dump({key: value for key, value in content.items() if value is not None})


HYPER_PARAMS = ("epochs", "batchSize", "learningRate")
NUMBERS = ["predictionLength", "contextLength", *(f"hyperParams.{name}" for name in HYPER_PARAMS)]


def numbers(prediction_length: Any = 3, context_length: Any = 7, **hyper_params: Any) -> str:
    return config(predictionLength=prediction_length, contextLength=context_length, hyperParams=hyper_params)


def target(**changes: Any) -> dict[str, Any]:
    """A good target with some keys changed."""
    content = {
        "workloadNamespace": "shop",
        "workloadName": "web",
        "historyLength": "48H",
        "metrics": [external("qps")],
    } | changes
    return {key: value for key, value in content.items() if value is not None}


def external(name: str) -> dict[str, Any]:
    return {"type": "External", "external": {"metric": {"name": name}}}


def in_file(name: str, content: str | bytes, *words: str) -> Case:
    """A wrong config file; its name must be in the message."""
    return Case(
        f"config file: {name}",
        ["--config-file=config.yaml", "--dataset-file=traffic.csv"],
        ["config.yaml", *words],
        {"config.yaml": content},
    )


def in_data(name: str, content: str | bytes, *words: str, arguments: tuple[str, ...] = ()) -> Case:
    """A wrong dataset file; its name need not be in the message when the series' is."""
    return Case(f"data: {name}", ["--dataset-file=data.csv", *arguments], list(words), {"data.csv": content})


def override(argument: str, *words: str) -> Case:
    """A wrong override; without words of its own its key must be in the message."""
    said = list(words) or [argument.partition("=")[0].lstrip("+~")]
    return Case(f"override: {argument}", ["--dataset-file=traffic.csv", argument], said)


def overrides(*arguments: str) -> Case:
    """Several wrong overrides: each key stands before its own problem."""
    keys = [argument.partition("=")[0] for argument in arguments]
    return Case(
        f"overrides: {' '.join(arguments)}",
        ["--dataset-file=traffic.csv", *arguments],
        [f"{len(keys)} problems", *(f"\n  {key}: " for key in keys)],
    )


def lines(*rows: str) -> str:
    return "\n".join((HEADER, *rows)) + "\n"


GOOD_ROWS = traffic_rows(1, 200)

CONFIG_FILES = [
    Case("config file: missing", ["--config-file=nowhere.yaml"], ["nowhere.yaml", "no such config file"]),
    Case("config file: a directory", ["--config-file=."], ["cannot be read"]),
    in_file("empty", "", "empty", "freq"),
    in_file("only a comment", "# later\n", "empty"),
    in_file("not YAML", "freq: [10min\ntargets: }\n", "not YAML", "line 2"),
    in_file("not UTF-8", b"freq: \xff\xfe\n", "cannot be read"),
    in_file("text", "just words\n", "not a mapping", "str"),
    in_file("a list", "- freq: 10min\n", "not a mapping", "list"),
    in_file("unknown key", config(contextLenght=7), "contextLenght", "did you mean contextLength"),
    in_file(
        "unknown nested key",
        config(hyperParams={"learningrate": 0.1}),
        "hyperParams.learningrate",
        "did you mean learningRate",
    ),
    in_file(
        "unknown key of a metric",
        config(targets=[target(metrics=[external("qps") | {"nmae": "x"}])]),
        "targets[0].metrics[0].nmae",
        "did you mean name",
    ),
    in_file("key twice", config() + "contextLength: 9\n", "'contextLength'", "twice", "line"),
    in_file("a needed key is missing", config(predictionLength=None), "predictionLength", "missing"),
    in_file("wrong type", config(contextLength="seven"), "contextLength", "'seven'"),
    in_file("a number as a block", config(hyperParams=3), "hyperParams", "3", "not a mapping"),
    in_file(
        "all numbers zero",
        numbers(0, 0, epochs=0, batchSize=0, learningRate=0),
        "5 problems",
        *(f"{name}: 0 is wrong" for name in NUMBERS),
    ),
    in_file(
        "all numbers negative",
        numbers(-1, -1, epochs=-1, batchSize=-1, learningRate=-1),
        "5 problems",
        *(f"{name}: -1 is wrong" for name in NUMBERS),
    ),
    in_file(
        "learningRate .nan", numbers(learningRate=float("nan")), "hyperParams.learningRate: nan is wrong"
    ),
    in_file(
        "fractions and infinity",
        numbers(2.5, 2.5, learningRate=float("inf"), epochs=1.5, batchSize=float("inf")),
        "5 problems",
        *(f"{name}: 2.5 is wrong" for name in NUMBERS[:2]),
        "hyperParams.learningRate: inf is wrong",
        "hyperParams.epochs: 1.5 is wrong",
        "hyperParams.batchSize: inf is wrong",
    ),
    in_file(
        "numbers of the wrong type",
        numbers("seven", True, epochs="many", batchSize=[32], learningRate=False),
        "5 problems",
        "predictionLength: 'seven' is wrong",
        "contextLength: true is a truth value",
        "hyperParams.epochs: 'many'",
        "hyperParams.batchSize: [32]",
        "hyperParams.learningRate: false is a truth value",
    ),
    in_file("freq", config(freq="5min"), "freq", "'5min'", "1min, 10min, 1H, 1D"),
    in_file(
        "historyLength",
        config(targets=[target(historyLength="two days")]),
        "targets[0].historyLength",
        "'two days'",
    ),
    in_file(
        "historyLength without a unit",
        config(targets=[target(historyLength="48")]),
        "targets[0].historyLength",
        "'48'",
    ),
    in_file(
        "a metric without its type's block",
        config(targets=[target(metrics=[external("qps") | {"type": "Object"}])]),
        "targets[0].metrics[0]",
        "'object'",
    ),
    in_file(
        "unknown type of metric",
        config(targets=[target(metrics=[{"type": "Podz"}])]),
        "targets[0].metrics[0].type",
        "'Podz'",
    ),
    in_file(
        "Pods without workloadRef",
        config(targets=[target(metrics=[{"type": "Pods", "pods": {"metric": {"name": "qps"}}}])]),
        "targets[0]",
        "metrics[0]",
        "workloadRef",
    ),
    in_file("no workload", config(targets=[target(workloadName=None)]), "targets[0]", "workloadRef"),
    in_file(
        "two metrics with one series key",
        config(targets=[target(), target(metrics=[external("rps"), external("qps")])]),
        "targets[0].metrics[0]",
        "targets[1].metrics[1]",
        "'shop/webqps'",
    ),
    in_file(
        "several problems",
        config(freq="5min", predictionLength=0, hyperParams={"epochs": -3, "lr": 1}),
        "4 problems",
        "freq",
        "predictionLength",
        "hyperParams.epochs",
        "hyperParams.lr",
    ),
]

DATA = [
    Case("data: missing", ["--dataset-file=nowhere.csv"], ["nowhere.csv", "no such file"]),
    Case("data: a directory", ["--dataset-file=."], ["is a directory"]),
    in_data("empty", "", "data.csv", "empty", "timestamp, value, workload, metric"),
    in_data("header only", lines(), "data.csv", "no rows"),
    in_data("without a column", "timestamp,value,workload\n1704067200,1,a\n", "data.csv", "metric"),
    in_data(
        "text in value",
        lines(GOOD_ROWS[0], f"{START + 600},many,shop/web-0,qps"),
        "data.csv",
        "value",
        "row 3",
        "'many'",
    ),
    in_data("only NaN", lines(*(f"{START + 600 * i},NaN,a,b" for i in range(9))), "data.csv", "value"),
    in_data("infinite", lines(*GOOD_ROWS, f"{START},inf,a,b"), "data.csv", "infinite", "row 202"),
    in_data(
        "milliseconds", lines(f"{START * 1000},1,a,b"), "data.csv", "row 2", "milliseconds", "divide by 1000"
    ),
    in_data(
        "dates", lines("2024-01-01 00:00:00,1,a,b"), "data.csv", "row 2", "'2024-01-01 00:00:00'", "seconds"
    ),
    in_data("a date in 1970 by mistake", lines("-5,1,a,b", *GOOD_ROWS), "data.csv", "row 2", "negative"),
    in_data("a row without a workload", lines(*GOOD_ROWS, f"{START},1,,qps"), "workload", "row 202"),
    in_data("not text", bytes(range(256)) * 4, "data.csv"),
    in_data(
        "too short",
        lines(*traffic_rows(1, 9)),
        "shop/web-0 qps",
        "9 points",
        "context 7",
        "horizon 3",
    ),
    in_data(
        "all series too short",
        lines(*traffic_rows(3, 5)),
        "all 3 series",
        "5 points",
        "context 21",
        "horizon 4",
        arguments=("window.context_length=21", "window.prediction_length=4"),
    ),
    in_data(
        "two series with one item key",
        lines(*(f"{START + 600 * i},1,{pair}" for i in range(200) for pair in ("ns/ab,c", "ns/a,bc"))),
        "'ns/ab' 'c'",
        "'ns/a' 'bc'",
        "'ns/abc'",
    ),
]

OVERRIDES = [
    overrides(
        "window.context_length=0",
        "window.prediction_length=0",
        "data.batch_size=0",
        "data.validation_windows=0",
        "trainer.max_epochs=0",
        "optimizer.lr=0",
    ),
    overrides(
        "window.context_length=-1",
        "window.prediction_length=-1",
        "data.num_workers=-1",
        "data.validation=-0.1",
        "data.max_missing=-0.1",
        "optimizer.lr=-1",
        "seed=-1",
    ),
    overrides(
        "data.validation=1.5", "data.test=1", "data.max_missing=2", "optimizer.lr=nan", "seed=4294967296"
    ),
    overrides("seed=lucky", "data.mask_gaps=3", "data.fill=guess", "optimizer.lr=inf", "artifact_dir=''"),
    override("seed=-1", "error: configuration: seed: -1 is wrong"),
    override("window.freq=2H", "window.freq", "'2H'", "1min, 10min, 1H, 1D"),
    Case(
        "override: nothing left to train on",
        ["--dataset-file=traffic.csv", "data.validation=0.6", "data.test=0.4"],
        ["data.validation", "data.test", "0.6", "0.4", "below 1"],
    ),
    override("data.validation=0", "data.validation", "monitor=train/loss"),
    override("gate.require_skill=1", "gate.require_skill"),
    Case(
        "override: a gate without unseen data",
        ["--dataset-file=traffic.csv", "gate.require_skill=0", "data.test=0"],
        ["gate.require_skill", "never seen", "data.test above 0"],
    ),
    override("capacity.lead_time=-1", "capacity.lead_time: -1 is wrong"),
    override("seed=???"),
    override("seed=${nowhere}", "nowhere"),
    override("sede=1", "sede", "did you mean seed"),
    override("window.contextlength=3", "window.contextlength", "did you mean window.context_length"),
    override("window=2h", "'2h'", "window", "10min", "1min", "1h", "1d"),
    override("modle=fcnet", "modle", "did you mean model"),
    override("experiment=smok", "'smok'", "did you mean smoke", "kapacity"),
    override("seed=[1", "the override seed=[1"),
    override("seed", "the override seed"),
    override("window=10", "group"),
    override("optimizer._target_=torch.optim.Adum", "optimizer", "torch.optim.Adum"),
    override("source._target_=kforecast.nowhere.Source", "source", "kforecast.nowhere.Source"),
    override("+source.colour=red", "source", "colour"),
    override("source.memory_map=maybe", "source.memory_map", "'maybe'", "auto, true or false"),
    override("source.memory_map=true", "source.memory_map", "traffic.csv", "Parquet", "kforecast-fetch"),
    override("source.cache_dir=''", "source.cache_dir"),
    override("trainer.accelerator=nonsense", "trainer", "nonsense"),
    override("+trainer.accumulate_grad_batches=4", "trainer.accumulate_grad_batches", "data.batch_size"),
    override("+trainer.precision=bf16-mixed", "trainer.precision", "float32"),
    override("+trainer.gradient_clip_val=0", "trainer.gradient_clip_val"),
    override("threads=many", "threads", "'many'"),
    override("average_windows=0", "average_windows"),
    override("data.windows_per_epoch=0", "data.windows_per_epoch"),
    overrides("data.timezone=Europe/Belin", "data.holidays=germany"),
    Case(
        "override: a combination that Kapacity could not serve",
        ["--dataset-file=traffic.csv", "combine=true"],
        ["configuration: combine: true is not for Kapacity's network", "model=auto"],
    ),
    Case(
        "override: one artifact a series of a network that has no embeddings like that",
        ["--dataset-file=traffic.csv", "model=seasonal_mlp", "artifact.per_series=true"],
        ["configuration: artifact.per_series: true is for Kapacity's network", "model=fcnet"],
    ),
    Case(
        "override: settings that make no network",
        ["--dataset-file=traffic.csv", "model=seasonal_mlp", "model.hidden=0", "model.dropout=1"],
        ["error: model: hidden is 0", "dropout is 1"],
    ),
    Case(
        "override: settings that make a huge network",
        ["--dataset-file=traffic.csv", "model=seasonal_mlp", "model.hidden=100000"],
        ["error: model: ", "GiB; at most 1"],
    ),
    override("data.timezone=Europe/Belin", "data.timezone", "'Europe/Belin'", "did you mean Europe/Berlin"),
    override("data.timezone={shop/a: UTC, shop/b: Moon}", "data.timezone: shop/b", "'Moon'", "IANA"),
    override("data.timezone=null", "data.timezone", "IANA"),
    override("data.holidays=germany", "data.holidays", "'germany'", "ISO code", "DE-BY"),
    override("data.holidays=false", "data.holidays", "'NO'"),
    Case("source: none", [], ["no source", "--dataset-file", "--metrics-server-addr", "source=synthetic"]),
    Case(
        "source: kapacity without targets",
        ["--config-file=config.yaml", "--metrics-server-addr=localhost:9090"],
        ["source.targets: empty", "--config-file"],
        {"config.yaml": config(targets=None)},
    ),
    Case("flag: without a value", ["--dataset-file"], ["--dataset-file", "expected one argument"]),
    Case("flag: unknown", ["--dataset-fil=traffic.csv"], ["--dataset-fil;", "did you mean --dataset-file"]),
    Case(
        "flag: overrides on both sides",
        ["source=synthetic", "-m", "seed=1,2"],
        ["seed=1,2", "one side of -m"],
    ),
    Case(
        "flag: workers not a number",
        ["--dataset-file=traffic.csv", "--dataloader-num-workers=few"],
        ["data.num_workers", "'few'"],
    ),
]

FORECAST = [
    Case(f"forecast: {name}", arguments, words, files, command="kforecast-forecast")
    for name, arguments, words, files in [
        ("no artifact_dir", ["--dataset-file=traffic.csv"], ["artifact_dir"], {}),
        ("no source", ["artifact_dir=model"], ["no source", "--dataset-file"], {}),
        (
            "artifact_dir is missing",
            ["artifact_dir=nowhere", "--dataset-file=traffic.csv"],
            ["nowhere", "no such directory"],
            {},
        ),
        (
            "artifact_dir is a file",
            ["artifact_dir=traffic.csv", "--dataset-file=traffic.csv"],
            ["artifact_dir", "traffic.csv"],
            {},
        ),
        (
            "artifact is incomplete",
            ["artifact_dir=part", "--dataset-file=traffic.csv"],
            ["part", TRIO[0], TRIO[1]],
            {f"part/{TRIO[2]}": "{}"},
        ),
        (
            "ending of output",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "output=forecast.xlsx"],
            ["output", "forecast.xlsx", ".csv", ".json", ".parquet"],
            {},
        ),
        (
            "history is missing",
            ["artifact_dir=model", "--dataset-file=nowhere.csv"],
            ["nowhere.csv", "no such file"],
            {},
        ),
        (
            "a flag of training",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "--model-save-path=model"],
            ["--model-save-path"],
            {},
        ),
        (
            "as_consumed",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "forecast.as_consumed=maybe"],
            ["forecast.as_consumed", "'maybe'"],
            {},
        ),
        (
            "quantiles out of reach",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "forecast.quantiles=[0.5,1.0,text]"],
            ["forecast.quantiles", "1.0, text", "between 0.005 and 0.995"],
            {},
        ),
        (
            "unknown key",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "outptu=x.csv"],
            ["outptu", "did you mean output"],
            {},
        ),
    ]
]

ARTIFACT = ["artifact_dir=model", "--dataset-file=traffic.csv"]
EVALUATE = [
    Case(f"evaluate: {name}", arguments, words, command="kforecast-evaluate")
    for name, arguments, words in [
        ("no artifact", ["--dataset-file=traffic.csv"], ["artifact_dir"]),
        ("no such artifact", ["artifact_dir=nowhere", "--dataset-file=traffic.csv"], ["nowhere"]),
        ("a damaged artifact", ARTIFACT, ["model", "cannot be read"]),
        ("no source", ["artifact_dir=model"], ["no source of traffic"]),
        ("a start that is no time", [*ARTIFACT, "evaluate.start=soon"], ["evaluate.start", "'soon'"]),
        (
            "an end before the start",
            [*ARTIFACT, "evaluate.start=2024-01-02", "evaluate.end=2024-01-01T12:00"],
            ["evaluate.end: 1704110400 is before evaluate.start, 1704153600"],
        ),
        (
            "several problems",
            [*ARTIFACT, "evaluate.stride=0", "evaluate.as_consumed=maybe", "evaluate.require_skill=1"],
            ["3 problems", "evaluate.stride", "evaluate.as_consumed", "evaluate.require_skill"],
        ),
        (
            "intervals of what is not the artifact's own",
            [*ARTIFACT, "evaluate.save_intervals=true", "evaluate.as_consumed=true"],
            ["evaluate.save_intervals", "evaluate.as_consumed"],
        ),
        ("a quantile out of reach", [*ARTIFACT, "evaluate.quantiles=1.5"], ["evaluate.quantiles", "1.5"]),
        ("quantiles", [*ARTIFACT, "evaluate.quantiles=[0.1,0.1]"], ["evaluate.quantiles", "twice"]),
        ("capacity", [*ARTIFACT, "capacity.cost_over=0"], ["capacity.cost_over: 0 is wrong"]),
        (
            "more replicas at least than at most",
            [*ARTIFACT, "capacity.min_replicas=5", "capacity.max_replicas=4"],
            ["capacity", "min_replicas", "max_replicas"],
        ),
        ("unknown key", [*ARTIFACT, "evaluate.strides=2"], ["strides"]),
    ]
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with an older artifact that must survive."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in (*TRIO, METADATA):
        (directory / name).write_bytes(f"marker {name}".encode())
    return directory


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def assert_refused(
    arguments: list[str], words: list[str], cwd: Path, command: str = "kforecast-train"
) -> None:
    done = run_command(command, *arguments, cwd=cwd)
    said = f"\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    assert done.returncode == 2, said
    assert "Traceback" not in done.stdout + done.stderr, said
    first, *others = done.stderr.splitlines()
    assert first.startswith("error: "), said
    # One message: what does not fit into its line is indented.
    assert all(line.startswith("  ") for line in others), said
    missing = [word for word in words if word not in done.stderr]
    assert not missing, f"{missing} not said{said}"


@pytest.mark.parametrize(
    "case", [*CONFIG_FILES, *DATA, *OVERRIDES, *FORECAST, *EVALUATE], ids=lambda case: case.name
)
def test_refused(case: Case, tmp_path: Path, model: Path, traffic_csv: Callable[..., Path]) -> None:
    traffic_csv()
    for name, content in case.files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    before = snapshot(model)
    keeps = ["--model-save-path=model"] if case.command == "kforecast-train" else []
    assert_refused([*keeps, *case.arguments], case.words, tmp_path, case.command)
    assert snapshot(model) == before


@pytest.mark.parametrize("path", ["occupied", "occupied/below/model"])
def test_save_path_is_a_file_or_below_one(
    path: str, tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    (tmp_path / "occupied").write_text("mine")
    assert_refused(
        [f"--dataset-file={traffic_csv()}", f"--model-save-path={path}"], ["occupied", "is a file"], tmp_path
    )
    assert (tmp_path / "occupied").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="permission bits do not bind root")
def test_save_path_may_not_be_written(tmp_path: Path, model: Path, traffic_csv: Callable[..., Path]) -> None:
    before = snapshot(model)
    model.chmod(0o555)
    try:
        assert_refused(
            [f"--dataset-file={traffic_csv()}", "--model-save-path=model"],
            ["model", "not writable"],
            tmp_path,
        )
    finally:
        model.chmod(0o755)
    assert snapshot(model) == before
