"""What is installed is pinned, and constraints.lock knows the published files of every pin."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def pins(text: str) -> dict[str, Version]:
    """Normalized names and versions of the lines ``name==version``."""
    found = re.findall(r"^([\w.-]+)==([^\s\\]+)", text, flags=re.MULTILINE)
    versions = {str(canonicalize_name(name)): Version(version) for name, version in found}
    assert len(versions) == len(found), "a package is pinned twice"
    return versions


def pinned(name: str = "constraints.txt") -> dict[str, Version]:
    return pins((ROOT / name).read_text(encoding="utf-8"))


def test_the_lock_has_hashes_for_exactly_what_is_pinned() -> None:
    text = (ROOT / "constraints.lock").read_text(encoding="utf-8")
    assert pins(text) == pinned(), "run: make lock"
    # pip takes no file whose sha256 does not stand below its pin.
    entries = re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pinned())
    pattern = r"[\w.-]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert [entry.splitlines()[0] for entry in entries if not re.fullmatch(pattern, entry)] == []


def test_the_lock_is_of_published_files_from_anywhere() -> None:
    text = (ROOT / "constraints.lock").read_text(encoding="utf-8")
    # Of torch's many builds the one that PyPI has: a local version (+cpu) is not published there.
    assert [name for name, version in pins(text).items() if version.local] == []
    assert "://" not in text


@pytest.mark.parametrize(
    "constraints, extras", [("constraints.txt", set(EXTRAS) - {"ray"}), ("constraints-ray.txt", set(EXTRAS))]
)
def test_every_dependency_is_pinned_to_a_version_that_it_allows(constraints: str, extras: set[str]) -> None:
    lines = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    lines += [line for extra in sorted(extras) for line in EXTRAS[extra]]
    wanted = [requirement for requirement in map(Requirement, lines) if requirement.name != "kforecast"]
    assert len(wanted) > 20
    have = pinned(constraints)
    loose = [
        str(requirement)
        for requirement in wanted
        if (version := have.get(canonicalize_name(requirement.name))) is None
        or version not in requirement.specifier
    ]
    assert loose == []


@pytest.mark.parametrize("malicious", ["2.6.2", "2.6.3"])
def test_the_malicious_releases_of_lightning_are_not_allowed(malicious: str) -> None:
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    specifiers = [wanted.specifier for wanted in map(Requirement, lines) if wanted.name == "lightning"]
    assert specifiers
    assert all(malicious not in specifier for specifier in specifiers)
