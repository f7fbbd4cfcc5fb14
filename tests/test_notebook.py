"""docs/examples/quickstart.ipynb: it runs from top to bottom, and its output matches its text."""

import re
from pathlib import Path

import pytest

from conftest import HANG

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).parents[1] / "docs" / "examples" / "quickstart.ipynb"


def test_it_is_kept_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs"), cell.source
        assert not cell.get("execution_count"), cell.source


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=HANG, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    printed = re.sub(r"\x1b\[\d+m", "", printed)  # bold
    assert "Training Fcnet on 2 series" in printed
    assert re.search(r"^Forecast error, .*\n +forecast +MAE .*\n.*\n kforecast ", printed, flags=re.MULTILINE)
    assert "\nWorth scaling on: " in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
