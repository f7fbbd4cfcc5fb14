"""docs/python.md: its examples run, and its tables match the signatures."""

import inspect
import re
from pathlib import Path

import pytest

import kforecast
from test_python_api import traffic

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """A section of the page, without its heading."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def arguments(text: str) -> list[tuple[str, str]]:
    """The arguments of a table with their defaults; a line may have several arguments."""
    table = text.partition("| argument | default | |\n|---|---|---|\n")[2].partition("\n\n")[0]
    found = []
    for line in table.splitlines():
        names, default = line.strip("|").split("|")[:2]
        found += [
            (name, default.partition("(")[0].strip(" `") or "") for name in re.findall(r"`(\w+)`", names)
        ]
    return found


@pytest.mark.parametrize(
    "title, function",
    [("kforecast.train", kforecast.train), ("Evaluation", kforecast.Forecaster.evaluate)],
)
def test_tables_are_signatures(title: str, function: object) -> None:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    expected = [
        (name, "" if parameter.default is parameter.empty else repr(parameter.default).replace("()", ""))
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    assert arguments(section(title)) == expected


def test_named_members_are_there() -> None:
    for name in re.findall(
        r"`(?:forecaster)?\.(\w+)", section("kforecast.Forecaster") + section("Evaluation")
    ):
        places = (kforecast.Forecaster, kforecast.Evaluation)
        fields = {field for place in places for field in place.__dataclass_fields__}
        assert name in fields or any(hasattr(place, name) for place in places), name
    for name in re.findall(r"^\| `(\w+Error)`", section("Errors"), flags=re.MULTILINE):
        assert issubclass(getattr(kforecast, name), kforecast.KforecastError)


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_examples_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    traffic(days=4).to_csv("traffic.csv", index=False)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("model", "report", "traffic.csv"),
        *("checkpoints", "lightning_logs"),  # of the plain Trainer
    }
    assert {"test/mae", "test/wape"} <= names["scores"].keys()  # type: ignore[attr-defined]
    assert len(names["forecasts"]) == 2 * 3  # type: ignore[arg-type]
    assert list(names["long"]) == ["timestamp", "workload", "value", "metric"]  # type: ignore[call-overload]
    assert len(names["worst"]) == 2  # type: ignore[arg-type]
