"""All imports are declared, all declared packages are locked, and all locked packages have hashes."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.skipif(not (ROOT / "uv.lock").exists(), reason="not a checkout"),
    pytest.mark.usefixtures("unmeasured"),
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
OURS = {"kforecast", "hydra_plugins", "benchmark_stages"} | {
    path.stem for path in (ROOT / "tests").rglob("*.py") if not path.stem.startswith("test_")
}
# Declared but not imported: data, and packages that an imported one needs for a part that we use.
UNIMPORTED = {"tzdata", "alembic", "cmaes", "onnxscript", "sqlalchemy"}


def names(lines: list[Any]) -> set[str]:
    return {str(canonicalize_name(Requirement(line).name)) for line in lines if isinstance(line, str)}


CORE = names(PROJECT["project"]["dependencies"])
OPTIONAL = {name for lines in EXTRAS.values() for name in names(lines)}
DEVELOPMENT = {name for lines in GROUPS.values() for name in names(lines)}


def locked() -> list[dict[str, Any]]:
    found = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    assert len(found) > 100
    return [package for package in found if package["name"] != "kforecast"]


def pins() -> list[tuple[str, Version]]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE)
    return [(str(canonicalize_name(name)), Version(version)) for name, version in found]


PROVIDERS = packages_distributions()


@cache
def imported(folder: Path) -> tuple[tuple[str, Path], ...]:
    return tuple(_imported(folder))


def _imported(folder: Path) -> Iterator[tuple[str, Path]]:
    """The top-level names imported by the modules of a folder, without the standard library and ours."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in modules:
                name = module.split(".")[0]
                ours = name in OURS or name.startswith("test_")
                if not ours and name not in sys.stdlib_module_names:
                    yield name, path.relative_to(ROOT)


def undeclared(folder: str, declared: set[str]) -> set[str]:
    """Imports that no declared package provides; a package that is not installed provides its own name."""
    return {
        f"{path}: {name}"
        for name, path in imported(ROOT / folder)
        if not {str(canonicalize_name(one)) for one in PROVIDERS.get(name, [name])} & declared
    }


@pytest.mark.parametrize(
    "folder, declared",
    [
        ("src", CORE | OPTIONAL),
        ("scripts", CORE | OPTIONAL),
        ("docs", CORE | OPTIONAL | names(GROUPS["docs"])),
        ("tests", CORE | OPTIONAL | DEVELOPMENT),
    ],
)
def test_every_import_is_of_a_declared_package(folder: str, declared: set[str]) -> None:
    assert undeclared(folder, declared) == set()


def test_the_comparison_of_imports_sees_what_is_missing() -> None:
    assert any(entry.endswith(": filelock") for entry in undeclared("src", CORE - {"filelock"}))


def test_every_declared_package_is_imported() -> None:
    used = {
        str(canonicalize_name(one))
        for folder in ("src", "docs")
        for name, _ in imported(ROOT / folder)
        for one in PROVIDERS.get(name, [name])
    }
    launchers = {name for name in OPTIONAL if name.startswith("hydra-")}  # imported by Hydra, as plugins
    trackers = {"mlflow-skinny"}  # imported by Lightning
    notebooks = names(EXTRAS["notebook"])  # they run the notebook
    assert (CORE | OPTIONAL) - used == UNIMPORTED | launchers | trackers | notebooks


def test_what_is_declared_is_locked_at_a_version_that_is_allowed() -> None:
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    lines += [line for group in GROUPS.values() for line in group if isinstance(line, str)]
    versions: dict[str, list[Version]] = {}
    for package in locked():
        versions.setdefault(package["name"], []).append(Version(package["version"]))
    versions |= {name: [version] for name, version in pins() if name == "torch"}
    wanted = [(Requirement(line), versions[canonicalize_name(Requirement(line).name)]) for line in lines]
    loose = [str(one) for one, have in wanted if not all(version in one.specifier for version in have)]
    assert loose == []


def test_the_lock_is_of_published_files_with_hashes() -> None:
    for package in locked():
        assert package["source"] == {"registry": "https://pypi.org/simple"}, package["name"]
        assert Version(package["version"]).local is None
        files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        assert files
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", file["hash"]) for file in files), package["name"]


def test_the_pins_for_pip_are_those_of_the_lock() -> None:
    have = {(package["name"], Version(package["version"])) for package in locked()}
    listed = pins()
    assert len(listed) > 100
    # torch is not locked, because no single one of its builds suits everybody.
    assert [pin for pin in listed if pin not in have] == [("torch", Version("2.13.0"))], "run: make lock"
    assert CORE - {"torch"} <= {name for name, _ in listed}


@pytest.mark.parametrize("malicious", ["2.6.2", "2.6.3"])
def test_the_malicious_releases_of_lightning_are_not_allowed(malicious: str) -> None:
    (wanted,) = [Requirement(line) for line in PROJECT["project"]["dependencies"] if "lightning" in line]
    assert malicious not in wanted.specifier
