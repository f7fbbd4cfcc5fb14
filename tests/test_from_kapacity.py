"""docs/from-kapacity.md is complete: every flag, every key of the file, every file and exit code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from kforecast.artifact import INTERVALS, METADATA, TRIO
from kforecast.config.legacy_cli import FLAGS, TrainConfigFile
from kforecast.errors import BAD_INPUT, GateError, KforecastError
from kforecast.training.distributed.processes import INTERRUPTED, TERMINATED

PAGE = (Path(__file__).parents[1] / "docs" / "from-kapacity.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def keys(model: type[BaseModel]) -> Iterator[str]:
    """Every key of a pydantic model and of its nested models."""
    for name, field in model.model_fields.items():
        yield name
        yield from (key for inner in models(field.annotation) for key in keys(inner))


def models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_there(flag: str) -> None:
    assert f"\n| `{flag}` |" in section("Flags")


def test_every_key_is_there() -> None:
    known = set(keys(TrainConfigFile))
    assert {"targets", "learningRate", "describedObject", "matchExpressions", "container"} <= known
    written = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section("train-config.yaml")))))
    assert known <= written


def test_every_file_and_exit_code_is_there() -> None:
    for name in (*TRIO, METADATA, INTERVALS):
        assert f"`{name}`" in section("Files")
    for code in (0, BAD_INPUT, KforecastError.exit_code, GateError.exit_code, INTERRUPTED, TERMINATED):
        assert re.search(rf"^\| (?:\d+, )?{code}\b", section("Exit codes"), flags=re.MULTILINE), code
