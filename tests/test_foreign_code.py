"""A configuration may name classes of a few packages, and no other code."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from conftest import composed, run_command
from kforecast.config.checks import CONF_DIR, built, plain
from kforecast.errors import ConfigError

VERBS = {
    "train": ["source=synthetic"],
    "fetch": ["source=synthetic"],
    "evaluate": ["source=synthetic", "artifact_dir=model"],
    "forecast": ["source=synthetic", "artifact_dir=model"],
    "serve_metrics": ["source=synthetic"],
}
# Refused by name, before any import.
BY_NAME = [
    *(
        "os.system",
        "builtins.eval",
        "shutil.rmtree",
        "pathlib.Path",
        "hydra.utils.get_object",
        "runpy.run_path",
    ),
    # Reached through the imports of a module.
    *("torch.os.system", "lightning.pytorch.subprocess.Popen", "torch.optim.os.system"),
    *("kforecast.config.checks.os.system", "lightning.pytorch.loggers.wandb.os.Popen", "torch.nn.F.os.Popen"),
    # Classes that load or start code.
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
    *("torch.utils.benchmark.Timer", "torch.utils.cpp_extension.load_inline", "torch.classes.load_library"),
    *("lightning.pytorch.cli.LightningCLI", "lightning.pytorch.LightningModule.load_from_checkpoint"),
    *("lightning.app.LightningApp", "lightning.pytorch.trainer.setup_trainer"),
    # Names that only start like an allowed one, and empty names.
    *("torchy.optim.Adam", "kforecasts.Source", "torch", "kforecast", "", ".", "..os.System", "Trainer"),
    *(
        "torch.optim.Adam ",
        "torch.optim..Adam",
        "torch.optim.Adam\n",
        "torch.optim._Adam",
        "torch/optim.Adam",
    ),
    *(3, ["torch.optim.Adam"], None, {"a": "b"}),
]
# Classes that a module has imported from elsewhere, which only the import reveals.
BY_CLASS = [
    "kforecast.config.checks.Path",
    "kforecast.commands.run.Callable",
    "kforecast.console.StringIO",
    "torch.nn.modules.module.Any",
    "lightning.pytorch.callbacks.model_checkpoint.Path",
    "lightning.pytorch.loggers.csv_logs.Namespace",
]
FINE = [
    *("torch.optim.SGD", "torch.optim.adam.Adam", "torch.optim.lr_scheduler.StepLR", "torch.nn.Linear"),
    *("lightning.pytorch.Trainer", "lightning.pytorch.trainer.Trainer", "lightning.pytorch.callbacks.Timer"),
    *("lightning.pytorch.loggers.MLFlowLogger", "lightning.pytorch.loggers.WandbLogger"),
    *("lightning.pytorch.strategies.SingleDeviceStrategy", "lightning.fabric.plugins.TorchCheckpointIO"),
    *("kforecast.models.fcnet.Fcnet", "kforecast.training.callbacks.EpochLog"),
]


@pytest.mark.parametrize("target", BY_NAME, ids=repr)
def test_anything_else_is_refused_by_its_name_wherever_it_stands(target: Any) -> None:
    hidden = {"_target_": target}
    for place in (hidden, {"a": {"b": hidden}}, {"a": [1, [hidden]]}):
        content = OmegaConf.create({"source": {"path": "x"}, "extra": place})
        with pytest.raises(
            ConfigError, match=r"extra.*_target_: .*lightning\.pytorch\.callbacks.*torch\.optim"
        ):
            plain(content)
        with pytest.raises(ConfigError, match=r"extra.*_target_"):
            built(content.extra, "extra")


@pytest.mark.parametrize("target", BY_CLASS)
def test_a_name_that_leads_out_of_its_module_is_refused(target: str) -> None:
    content = OmegaConf.create(
        {"source": {"_target_": "kforecast.metrics.csv.CsvSource", "path": {"_target_": target}}}
    )
    with pytest.raises(ConfigError, match=r"source\.path\._target_"):
        built(content.source, "source")


@pytest.mark.parametrize("target", FINE)
def test_classes_of_training_may_be_named(target: str) -> None:
    content = OmegaConf.create({"source": {"path": "x"}, "extra": {"_target_": target, "nonsense": 1}})
    assert plain(content)
    assert_made(content.extra)


def assert_made(node: DictConfig) -> None:
    """The class is allowed, so that an error can only be about its arguments."""
    said = ""
    try:
        built(node, "node")
    except ConfigError as error:
        said = str(error)
    assert "may name" not in said


def test_every_class_that_conf_names_may_be_named() -> None:
    named = set()
    for path in CONF_DIR.rglob("*.yaml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            key, _, target = line.strip().partition(": ")
            # Hydra creates its plugins itself.
            if key == "_target_" and "hydra" not in path.parts and not target.startswith("hydra_plugins."):
                named.add(target)
    assert len(named) > 10
    for target in named:
        content = OmegaConf.create({"source": {"path": "x"}, "extra": {"_target_": target}})
        assert plain(content)
        if target.startswith("kforecast.") and "metrics" not in target:
            assert_made(OmegaConf.create({"_target_": target, "nonsense": 1}))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_before_it_reads(verb: str, tmp_path: Path) -> None:
    arguments = [*VERBS[verb], "+extra.deep=[{_target_: torch.os.system, command: touch executed}]"]
    with pytest.raises(ConfigError, match=r"extra\.deep\[0\]\._target_: 'torch\.os\.system'"):
        plain(composed(*arguments, name=verb))


def test_a_value_from_the_environment_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASS", "os.system")
    cfg = composed(*VERBS["train"], "+logger.other={_target_: '${oc.env:CLASS}', command: touch executed}")
    with pytest.raises(ConfigError, match=r"logger\.other\._target_: 'os\.system'"):
        plain(cfg)


def test_names_are_checked_without_the_libraries_they_are_of() -> None:
    script = """
import sys
from omegaconf import DictConfig, OmegaConf
from kforecast.config.checks import plain
print(plain(OmegaConf.create({"source": {}, "a": {"_target_": "lightning.pytorch.callbacks.Timer"}})))
print(sorted({"torch", "lightning", "lightning.pytorch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_train_config_names_no_class(tmp_path: Path) -> None:
    """Selectors may have any keys, and become part of the configuration."""
    labels = {"_target_": "tempfile.mkdtemp", "dir": "precious"}
    metric = {
        "type": "External",
        "external": {"metric": {"name": "qps", "selector": {"matchLabels": labels}}},
    }
    target = {"workloadNamespace": "shop", "workloadName": "web", "historyLength": "48H", "metrics": [metric]}
    config = {"targets": [target], "freq": "10min", "predictionLength": 3, "contextLength": 7}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "precious").mkdir()
    for command in ("kforecast-fetch", "kforecast-train"):
        arguments = ["--config-file=config.yaml", "--metrics-server-addr=localhost:1"]
        done = run_command(command, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "matchLabels._target_: 'tempfile.mkdtemp'" in done.stderr
        assert not [*(tmp_path / "precious").iterdir()]
