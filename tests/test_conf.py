"""conf/: every option composes and is valid, layers have the documented precedence, Hydra's tools work."""

import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from conftest import HANG, composed, run_command
from kforecast.commands.retrain import prepare as prepare_retrain
from kforecast.config.checks import CONF_DIR, check_train_settings, plain
from kforecast.config.legacy_cli import FLAGS
from kforecast.data.calendar import Calendar
from kforecast.errors import ConfigError

FILES = sorted(path.relative_to(CONF_DIR).as_posix() for path in CONF_DIR.rglob("*.yaml"))
# tests/autoscaling checks those of the group policy.
OPTIONS = [file for file in FILES if "/" in file and not file.startswith(("hydra/", "policy/"))]
PRIMARIES = [file.removesuffix(".yaml") for file in FILES if "/" not in file]
# The arguments that kforecast-retrain adds to a command line of kforecast-train.
RETRAIN = prepare_retrain([])[0]
# Packages that an extra of ours installs for a logger or a model.
PROVIDERS = {"mlflow": "mlflow", "wandb": "wandb", "lightgbm": "lightgbm"}
# Values that only the user can provide.
NEEDED = {
    "train": ["source.path=traffic.csv"],
    "fetch": ["source.path=traffic.csv"],
    "forecast": ["source.path=traffic.csv", "artifact_dir=model"],
    "evaluate": ["source.path=traffic.csv", "artifact_dir=model"],
    "replay": ["source.path=traffic.csv", "artifact_dir=model"],
    "serve": ["artifact_dir=model", "source.url=http://localhost:9090"],
    "serve_metrics": ["source.path=traffic.csv"],
    "export": ["artifact_dir=model"],
    "scale": ["artifact_dir=model"],
    "source/kapacity.yaml": ["source.address=localhost:9090"],
    "source/prometheus.yaml": ["source.url=http://localhost:9090"],
    "source/synthetic.yaml": [],
    "data/kapacity.yaml": ["source.path=traffic.csv", "monitor=train/loss"],
} | {f"window/{freq}.yaml": ["source.path=traffic.csv", "model=auto"] for freq in ("5min", "15min", "30min")}


@cache
def composed_once(*arguments: str, name: str = "train") -> DictConfig:
    """A composed configuration shared by tests that do not change it."""
    return composed(*arguments, name=name)


def selected(file: str) -> list[str]:
    """The overrides that select an option's file."""
    group, option = file.removesuffix(".yaml").rsplit("/", 1)
    if group == "retrain":
        return [*RETRAIN, "retrain.dir=models", *NEEDED["train"]]
    return [f"{group}={option}", *NEEDED.get(file, NEEDED["train"])]


def test_conf_is_where_the_package_looks() -> None:
    assert {"train", "forecast"} <= set(PRIMARIES)
    groups = {file.split("/")[0] for file in OPTIONS}
    ours = {"window", "source", "data", "model", "optimizer", "trainer", "callbacks", "logger", "experiment"}
    assert groups >= ours
    assert CONF_DIR.is_absolute()


@pytest.mark.parametrize("primary", PRIMARIES)
def test_every_primary_config_composes_and_resolves(primary: str) -> None:
    cfg = composed_once(*NEEDED[primary], name=primary)
    assert plain(cfg)
    if primary == "train":
        check_train_settings(cfg)


@pytest.mark.parametrize("file", OPTIONS)
def test_every_option_composes_resolves_and_passes_the_checks(file: str) -> None:
    cfg = composed_once(*selected(file))
    group, option = file.removesuffix(".yaml").split("/")
    if group in ("logger", "model") and option in PROVIDERS and find_spec(PROVIDERS[option]) is None:
        with pytest.raises(ConfigError, match=rf"needs a package: pip install 'kforecast\[{option}\]'"):
            check_train_settings(cfg)
    else:
        check_train_settings(cfg)
    content = plain(cfg)
    if group != "experiment":
        # The values of the file are in effect, regardless of the rest of the defaults list.
        said = yaml.safe_load((CONF_DIR / file).read_text()) or {}
        said.pop("defaults", None)
        said.pop("hydra", None)  # the command does not get this part
        whole = (CONF_DIR / file).read_text().startswith("# @package _global_")
        assert_arrived(said, content if whole else content[group])


def assert_arrived(said: dict[str, Any], content: dict[str, Any]) -> None:
    assert set(said) <= set(content)
    for key, value in said.items():
        if isinstance(value, dict):
            assert_arrived(value, content[key])
        elif isinstance(value, (int, float)):
            assert content[key] == value


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("hydra/")])
def test_every_option_for_hydra_itself_is_used(file: str) -> None:
    group, option = file.removesuffix(".yaml").rsplit("/", 1)
    if group == "hydra/sweeper/sampler":  # selected by users only
        assert composed("hydra/sweeper=optuna", f"{group}={option}", *NEEDED["train"])
        return
    contents = [yaml.safe_load((CONF_DIR / name).read_text()) or {} for name in FILES]
    entries = [entry for content in contents for entry in content.get("defaults", [])]
    chosen = [{f"override {group}": option}, {f"override /{group}": option}]
    assert any(entry in chosen for entry in entries) or f"{group}={option}" in RETRAIN
    assert composed(f"{group}={option}", *NEEDED["train"])


def targets(node: Any) -> Iterator[dict[str, Any]]:
    """Every node of a configuration that describes an object."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for child in node.values():
            yield from targets(child)


@pytest.mark.parametrize("file", [*OPTIONS, *PRIMARIES])
def test_every_key_is_an_argument_of_what_it_configures(file: str) -> None:
    primary = file in PRIMARIES
    cfg = composed_once(*NEEDED[file], name=file) if primary else composed_once(*selected(file))
    for node in targets(plain(cfg)):
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        keys = {key for key in node if not key.startswith("_")}
        assert keys <= set(parameters), node["_target_"]


# The keys of loggers and experiments are explained where they are defined.
EXPLAINED = re.compile(r"(window|data|source|model|optimizer|trainer|callbacks|capacity|policy)/|[^/]+$")


@pytest.mark.parametrize("file", list(filter(EXPLAINED.match, FILES)))
def test_every_key_is_explained(file: str) -> None:
    """Every key has a comment in its line, or its file has one comment for all keys."""
    text = (CONF_DIR / file).read_text(encoding="utf-8").split("\nhydra:")[0]
    keys = re.findall(r"^ *(?!_)(\w+): +[^#\n]*[^#\s]( +# .+)?$", text, flags=re.MULTILINE)
    uncommented = [key for key, comment in keys if not comment]
    assert not uncommented or ("/" in file and text.startswith("# "))


def test_layers_win_in_the_promised_order(tmp_path: Path) -> None:
    """Precedence: group file < train.yaml < --config-file < experiment < command line."""
    conf = tmp_path / "conf"
    shutil.copytree(CONF_DIR, conf)
    file = tmp_path / "train-config.yaml"
    file.write_text("freq: 1H\npredictionLength: 3\ncontextLength: 9\n")
    (conf / "experiment" / "own.yaml").write_text("# @package _global_\nwindow:\n  context_length: 10\n")

    def context_length(*arguments: str) -> int:
        return int(composed("source=synthetic", *arguments, conf=conf).window.context_length)

    in_group = yaml.safe_load((conf / "window" / "1h.yaml").read_text())["context_length"]
    assert context_length("window=1h") == in_group == 12
    with (conf / "train.yaml").open("a") as train:
        train.write("\nwindow:\n  context_length: 8\n")
    assert context_length("window=1h") == 8
    assert context_length("window=1h", f"--config-file={file}") == 9
    assert context_length("window=1h", f"--config-file={file}", "experiment=own") == 10
    assert context_length("experiment=own", f"--config-file={file}", "window.context_length=11") == 11


def test_the_kapacity_experiment_is_the_recipe_of_the_contract() -> None:
    cfg = composed("experiment=kapacity", "source.path=t.csv")
    assert (cfg.optimizer._target_, cfg.optimizer.lr) == ("torch.optim.Adam", 0.001)
    assert (cfg.data.batch_size, cfg.data.fill, cfg.data.mask_gaps) == (32, "zero", False)
    assert (cfg.data.validation, cfg.data.test, cfg.data.max_missing) == (0, 0, 1)
    assert (cfg.data.skip_zero_context, cfg.data.skip_newest_window) == (False, True)
    assert (cfg.callbacks.early_stopping.patience, cfg.callbacks.early_stopping.monitor) == (15, "train/loss")
    assert (cfg.trainer.max_epochs, cfg.model.shared_embedding) == (100, False)
    assert (cfg.refit, cfg.callbacks.window_budget) == (False, None)
    assert (cfg.window.freq, cfg.window.context_length, cfg.window.prediction_length) == ("10min", 7, 3)


@pytest.mark.parametrize(
    "overrides, fill", [([], "zero"), (["data.fill=ffill"], "ffill"), (["model=auto"], "interpolate")]
)
def test_kapacitys_network_meets_the_gaps_that_its_job_serves(overrides: list[str], fill: str) -> None:
    assert composed("source=synthetic", *overrides).data.fill == fill


@pytest.mark.parametrize("timezone", ["Asia/Tokyo", "{shop/cart: Europe/Berlin, default: Asia/Tokyo}"])
def test_time_zones_are_one_name_or_one_for_each_workload(timezone: str) -> None:
    cfg = composed("source=synthetic", f"data.timezone={timezone}")
    check_train_settings(cfg)
    expected = yaml.safe_load(timezone)
    assert plain(cfg)["data"]["timezone"] == expected
    assert Calendar.of(cfg.data.timezone) == Calendar.of(expected)


def test_holidays_without_their_package_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "holidays", None)
    cfg = composed("source=synthetic", "data.holidays=DE")
    with pytest.raises(ConfigError) as refusal:
        check_train_settings(cfg)
    assert str(refusal.value) == (
        "configuration: data.holidays: holidays (DE) need a package: pip install 'kforecast[holidays]'"
    )


def test_cfg_job_prints_the_configuration(tmp_path: Path) -> None:
    done = run_command("kforecast-train", "--cfg", "job", "window=1d", "seed=7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = yaml.safe_load(done.stdout)
    assert content["window"]["freq"] == "1D"
    assert content["seed"] == 7
    assert content.keys() == OmegaConf.to_container(composed("window=1d")).keys()
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_shows_what_the_flags_mean(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("freq: 1H\npredictionLength: 2\ncontextLength: 5\n")
    flags = ["--config-file=c.yaml", "--dataset-file=t.csv", "--model-save-path=model"]
    done = run_command("kforecast-train", *flags, "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = yaml.safe_load(done.stdout)
    assert content["window"] == {"freq": "1H", "context_length": 5, "prediction_length": 2}
    assert (content["source"]["path"], content["artifact_dir"]) == ("t.csv", "model")


def test_info_shows_the_defaults_tree(tmp_path: Path) -> None:
    done = run_command("kforecast-train", "--info", "defaults-tree", "experiment=kapacity", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data: kapacity:" in done.stdout
    assert "window: 10min" in done.stdout


@pytest.mark.parametrize(
    "line, expected",
    [
        ("wind", {"window=", "window."}),
        ("window=1", {"window=1min", "window=10min", "window=15min", "window=1h", "window=1d"}),
        ("experiment=k", {"experiment=kapacity"}),
        ("source=synthetic source.wo", {"source.workloads="}),
        ("--dataset-file=t.csv --model-save-path model optimizer.l", {"optimizer.lr="}),
    ],
)
def test_completion(line: str, expected: set[str], tmp_path: Path) -> None:
    typed = f"kforecast-train {line}"
    shell = {"COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    done = run_command("kforecast-train", "-sc", "query=bash", cwd=tmp_path, env=shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == expected


def test_completion_of_a_flag_prints_no_usage(tmp_path: Path) -> None:
    typed = "kforecast-train seed=1 --data"
    shell = {"COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    done = run_command("kforecast-train", "-sc", "query=bash", cwd=tmp_path, env=shell)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_of_train(tmp_path: Path) -> None:
    done = run_command("kforecast-train", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for group in {file.split("/")[0] for file in OPTIONS}:
        options = [f.split("/")[1].removesuffix(".yaml") for f in OPTIONS if f.startswith(f"{group}/")]
        assert f"\n{group}: {', '.join(sorted(options))}\n" in done.stdout
    for flag, meaning in FLAGS.items():
        assert re.search(rf"^ +{flag} +{re.escape(meaning)}$", done.stdout, flags=re.MULTILINE)
    assert len(examples(done.stdout)) == 3
    assert "$" not in done.stdout.replace("$(kforecast-train", "")
    assert list(tmp_path.iterdir()) == []


def test_help_of_forecast(tmp_path: Path) -> None:
    done = run_command("kforecast-forecast", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "source: csv, kapacity, prometheus, synthetic" in done.stdout
    assert "--dataset-file" in done.stdout
    assert "--model-save-path" not in done.stdout
    assert len(examples(done.stdout)) == 4


def examples(text: str) -> list[str]:
    return re.findall(r"^  (kforecast-[\w-]+ .*)$", text.replace("\\\n", ""), flags=re.MULTILINE)


def test_examples_of_help_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train-config.yaml").write_text("freq: 1H\npredictionLength: 2\ncontextLength: 5\n")
    monkeypatch.chdir(tmp_path)
    for verb in PRIMARIES:
        page = (CONF_DIR / "hydra" / "help" / f"{verb}.yaml").read_text(encoding="utf-8")
        lines = examples(yaml.safe_load(page)["template"])
        assert len(lines) >= 2
        for line in lines:
            # The values of a sweep are checked one by one.
            words = shlex.split(line)[1:]
            arguments = [word.partition(",")[0] for word in words] if "-m" in words else words
            assert plain(composed(*arguments, name=verb))


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["--help"], 0),
        pytest.param(["--cfg", "job"], 0, marks=pytest.mark.slow),
        pytest.param(["sede=1"], 2, marks=pytest.mark.slow),
        (["source=synthetic", "seed=-1"], 2),
        pytest.param(["--config-file=nowhere.yaml"], 2, marks=pytest.mark.slow),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_no_torch_before_it_is_needed(arguments: list[str], code: int, tmp_path: Path) -> None:
    script = """
import atexit, sys
from kforecast.commands.train import main
atexit.register(lambda: print("heavy:", sorted({"torch", "lightning", "matplotlib"} & set(sys.modules))))
main()
"""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
