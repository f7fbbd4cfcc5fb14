"""Which module may import which, computed from all imports in the source."""

import ast
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kforecast

PACKAGE = Path(kforecast.__file__).parent
ROOT = PACKAGE.parents[1]
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
MODULES = sorted(FILES)

# The rooms (top-level packages and modules) from the bottom up. A room may import the rooms below it, but
# none beside or above it.
FLOORS = (
    ("errors", "window", "version", "console"),
    ("validation", "files"),
    ("localtime", "pages", "intervals", "autoscaling", "guard"),
    ("metrics",),
    ("data",),
    ("models",),
    ("artifact", "following", "pretraining"),
    ("predictor",),
    ("evaluation", "onnx_export", "shadow"),
    ("forecaster", "leaderboard"),
    ("config", "scaling"),
    ("replay",),
    ("training",),
    ("retraining",),
    ("serving",),
    ("commands",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Exceptions, each with its reason.
UPWARDS = {
    ("kforecast.training.train", "kforecast.commands.train"): "launchers of several machines name the first",
}
# The only modules that may import a library.
LIBRARIES = {
    ("hydra", "omegaconf"): ("config", "training", "commands"),
    ("lightning",): ("training", "data.datamodule"),
    ("grpc", "grpc_health", "grpc_reflection", "google"): (
        *("metrics.kapacity", "metrics.provider", "metrics.proto"),
        *("serving.external_scaler", "serving.proto"),
    ),
    ("prometheus_client",): ("serving.exposition",),
    ("torch",): (
        *("files.torch_file", "data", "models", "artifact", "predictor", "onnx_export", "training"),
        "pretraining",
        *("commands.evaluate", "serving.lean"),
    ),
}


def imports(module: str) -> Iterator[str]:
    """Dotted names of all imports of a module, including those in functions and for type checkers."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@cache
def modules_used(module: str) -> frozenset[str]:
    """The modules of kforecast that a module imports."""
    found = set()
    for name in imports(module):
        longest = name if name in FILES else name.rpartition(".")[0]
        if longest in FILES and longest not in ("kforecast", module):
            found.add(longest)
    return frozenset(found)


def room(module: str) -> str:
    return module.split(".")[1]


def in_place(module: str, places: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"kforecast.{place}.") for place in places)


def test_the_reader_of_imports_sees_them() -> None:
    assert {"kforecast.commands.run", "kforecast.errors"} <= modules_used("kforecast.commands.train")
    assert "kforecast.data.quality" in modules_used("kforecast.commands.fetch"), "inside a function"
    assert {room(module) for module in MODULES if module != "kforecast"} == {*FLOOR}


def test_no_import_leads_upwards() -> None:
    upwards = {
        (module, used)
        for module in MODULES
        if module != "kforecast"
        for used in modules_used(module)
        if room(module) != room(used) and FLOOR[room(module)] <= FLOOR[room(used)]
    }
    assert upwards == {*UPWARDS}


@pytest.mark.skipif(not (ROOT / "docs" / "rooms.py").is_file(), reason="not a checkout")
def test_the_picture_shows_these_floors() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "rooms.py"))
    picture = script["PICTURE"].read_text(encoding="utf-8")
    assert picture == script["redrawn"](picture), "run python docs/rooms.py"
    assert all(f">{room}<" in picture for floor in script["floors"]() for room in floor)


def test_no_imports_go_round_in_a_circle() -> None:
    try:
        TopologicalSorter({module: modules_used(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"circular import: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("libraries", LIBRARIES, ids=" ".join)
def test_libraries_stay_where_they_belong(libraries: tuple[str, ...]) -> None:
    users = {module for module in MODULES if {name.split(".")[0] for name in imports(module)} & {*libraries}}
    places = LIBRARIES[libraries]
    assert {module for module in users if not in_place(module, places)} == set()
    assert {place for place in places if not any(in_place(module, (place,)) for module in users)} == set()


def test_no_module_is_a_drawer_for_everything() -> None:
    names = {part for module in MODULES for part in module.split(".")}
    assert not names & {"utils", "util", "common", "base", "components", "helpers", "misc"}


def test_inference_loads_neither_hydra_nor_lightning_nor_the_compiler_of_torch() -> None:
    script = """
import sys, torch
from kforecast.models.without_values import WithoutValues
from kforecast.forecaster import Forecaster
from kforecast.models import SeasonalMLP
from kforecast.window import Window
Forecaster.load(sys.argv[1])
with torch.device("meta"), WithoutValues():
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


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of ours, as ``module.function`` or ``module.Class.function``."""
    for module in MODULES:
        if ".proto." in module:  # generated
            continue
        for node in _tree(module).body:
            inside = node.body if isinstance(node, ast.ClassDef) else [node]
            owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
            for one in inside:
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{module.removeprefix('kforecast.')}.{owner}{one.name}", one


# Functions with more than seven parameters: the public Python API, and constructors whose parameters are keys
# of the configuration.
MANY_PARAMETERS = {
    "training.from_frame.train",
    "forecaster.Forecaster.evaluate",
    "data.datamodule.ForecastDataModule.__init__",
    "models.seasonal_mlp.SeasonalMLP.__init__",
    "metrics.csv.CsvSource.__init__",
}


def test_functions_have_at_most_seven_parameters() -> None:
    many = set()
    for name, node in functions():
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if len([one for one in given if one.arg not in ("self", "cls")]) > 7:
            many.add(name)
    assert many == MANY_PARAMETERS


# Modules of training that see a configuration of Hydra's: those that check it, and those that make one.
SEES_CFG = {
    "training.plan": "makes the recipe of it",
    "training.distributed.processes": "Hydra's env_override alone, for a variable of its processes",
    "training.dry_run": "builds its components once, for the plan",
    "training.from_frame": "composes it from arguments",
    "training.resume.earlier_run": "reads that of an earlier run",
    "training.sweeps.ranking": "Hydra's callback at the end of a sweep",
    "training.sweeps.search": "Hydra's sweeper",
    "training.sweeps.space": "Hydra's overrides as a search space",
}


def test_below_the_plan_nobody_sees_a_configuration() -> None:
    users = {
        module.removeprefix("kforecast.")
        for module in MODULES
        if in_place(module, ("training",))
        and {name.split(".")[0] for name in imports(module)} & {"hydra", "omegaconf"}
    }
    assert users == {*SEES_CFG}


def test_every_room_says_what_it_is_for() -> None:
    for module, path in FILES.items():
        if path.name == "__init__.py" and module != "kforecast" and ".proto" not in module:
            said = ast.get_docstring(_tree(module)) or ""
            assert len(said.splitlines()) >= 3, module
    for module in MODULES:
        assert ast.get_docstring(_tree(module)), module


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="not a checkout")
def test_the_tree_in_the_docs_is_that_of_the_source() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = next(part for part in page.split("```") if part.strip().startswith("src/kforecast/"))
    found, folders = set(), list[str]()
    for line in tree.strip().splitlines():
        name, _, said = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        else:
            found.add("/".join([*folders, name]))
            assert said.strip(), f"{line}: without a word on it"
    files = {path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert found == {str(path.relative_to(ROOT)) for path in files if "_pb2" not in path.name}
