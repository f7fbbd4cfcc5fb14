"""Who may import whom: the walls of the house, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kforecast

PACKAGE = Path(kforecast.__file__).parent
ROOT = PACKAGE.parents[1]
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))

# Rooms of kforecast that a room may use besides itself. What is not here is a verb, or runs verbs.
MAY_USE = {
    "errors": set(),
    "conf_dir": set(),
    "window": set(),
    "console": set(),
    "validation": {"errors"},
    "localtime": {"validation"},
    "processes": {"errors"},
    "directory": {"errors"},
    "output": {"directory", "errors"},
    "run_folder": {"directory", "errors"},
    "untrusted": set(),
    "checkpoint": {"untrusted"},
    "intervals": {"errors", "untrusted"},
    "models": {"data", "window"},
    "metrics": {"window", "errors", "validation", "localtime", "untrusted"},
    "data": {"metrics", "window", "errors", "console", "localtime", "directory"},
    "artifact": {
        *("models", "data", "window", "errors", "directory", "intervals", "output"),
        *("checkpoint", "untrusted"),
    },
    "loading": {"artifact", "models", "data", "errors", "untrusted"},
    "forecaster": {
        *("artifact", "loading", "models", "data", "window", "errors", "intervals", "untrusted"),
        "directory",
    },
    "onnx_file": {"artifact", "data", "forecaster", "models", "output"},
    "evaluation": {
        *("forecaster", "artifact", "data", "models", "metrics", "window", "errors", "console"),
        *("intervals", "output", "validation", "conf_dir", "untrusted"),
    },
    "secrets": {"errors"},
    "settings": {"data", "window", "errors", "validation", "intervals"},
    "config": {
        "settings",
        "data",
        "window",
        "errors",
        "validation",
        "intervals",
        "allow_list",
        "secrets",
        "conf_dir",
    },
    "legacy_cli": {"metrics", "window", "errors", "validation"},
}
# Calls upwards, for the user's sake: a method that hands on to what is built on its class, which is imported
# when it is called and not before.
HANDS_ON = {"forecaster": {"evaluation"}}
# Entry functions, which alone see a configuration, inside rooms that otherwise do not.
ENTRIES = {"evaluation/evaluate"} | {
    f"training/{name}"
    for name in (
        "train",
        "trainings",
        "from_frame",
        "plan",
        "launch",
        "closing",
        "rerun",
        "sweep",
        "search",
        "space",
        "recipe",
    )
}
INSIDE = {*MAY_USE, "training"} - {"config", "legacy_cli"}


def imports(module: str, inside: ast.AST | None = None) -> Iterator[str]:
    """Full dotted names of all that a module imports, wherever in it, or inside one of its statements."""
    path = PACKAGE / f"{module}.py"
    package = ["kforecast", *module.split("/")[:-1]]
    for node in ast.walk(inside or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def libraries(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


def room(module: str) -> str:
    return module.split("/")[0]


def rooms_used(module: str) -> set[str]:
    used = {name.split(".")[1] for name in imports(module) if name.startswith("kforecast.")}
    return {name for name in used if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}


def test_the_reader_of_imports_sees_them() -> None:
    assert "training/train" in MODULES
    assert {"hydra", "lightning", "kforecast"} <= libraries("training/train")
    assert {"command", "config", "data", "artifact"} <= rooms_used("training/train")
    assert {name for name in MAY_USE if name in map(room, MODULES)} == set(MAY_USE)


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) in MAY_USE])
def test_a_room_uses_only_the_rooms_below_it(module: str) -> None:
    if module in ENTRIES:
        pytest.skip("an entry function may use everything")
    assert rooms_used(module) - {room(module)} <= MAY_USE[room(module)] | HANDS_ON.get(module, set())


@pytest.mark.parametrize("module", HANDS_ON)
def test_a_room_above_is_imported_only_when_it_is_called(module: str) -> None:
    above = {f"kforecast.{name}." for name in HANDS_ON[module]}
    path = PACKAGE / f"{module}.py"
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            continue  # what is imported in a method, which a class body itself does not do
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        found = list(imports(module, statement))
        assert not [name for name in found if name.startswith(tuple(above))], ast.unparse(statement)


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_where_they_belong(module: str) -> None:
    used = libraries(module)
    if room(module) in INSIDE and module not in ENTRIES:
        assert not used & {"hydra", "omegaconf"}
    if room(module) != "training" and module != "data/datamodule":
        assert not used & {"lightning", "pytorch_lightning"}
    if module not in ("metrics/kapacity", "metrics/server") and not module.startswith("metrics/proto/"):
        assert not used & {"grpc", "google"}
    light = (
        "metrics",
        "window",
        "errors",
        "validation",
        "localtime",
        "settings",
        "config",
        "legacy_cli",
        "command",
    )
    if room(module) in light or module == "data/calendar":
        assert "torch" not in used


def test_no_module_is_a_drawer_for_everything() -> None:
    names = {part for module in MODULES for part in module.split("/")}
    assert not names & {"utils", "util", "common", "base", "components", "helpers", "misc"}


def test_inference_loads_neither_hydra_nor_lightning_nor_the_compiler_of_torch() -> None:
    script = """
import sys, torch
from kforecast.forecaster import Forecaster
from kforecast.loading import _WithoutValues
from kforecast.models import SeasonalMLP
from kforecast.window import Window
Forecaster.load(sys.argv[1])
with torch.device("meta"), _WithoutValues():
    net = SeasonalMLP(Window("10min", 7, 3), 2)
heavy = {"hydra", "omegaconf", "lightning", "grpc", "matplotlib", "kforecast.evaluation"}
compiler = {"torch._dynamo", "sympy"}
print(sorted((heavy | compiler) & {*sys.modules}), {one.device.type for one in net.parameters()})
"""
    command = [sys.executable, "-c", script, str(ROOT / "tests" / "golden" / "trio_1min" / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] {'meta'}"


@pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="not a checkout")
def test_scripts_only_start_a_verb() -> None:
    scripts = sorted((ROOT / "scripts").glob("*.py"))
    assert scripts
    for script in scripts:
        if not script.stem.startswith("benchmark"):
            text = script.read_text(encoding="utf-8")
            assert len(text.splitlines()) <= 20, script.name
            assert text.count(f"python scripts/{script.name} ") == 2, script.name
