"""The documentation site: it builds without warnings and loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import HANG

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_on_it(site: Path) -> None:
    pages = {path.stem for path in DOCS.glob("*.md")} | {"index", "security", "changelog"}
    assert pages <= {path.stem for path in site.glob("*.html")}
    first = (site / "index.html").read_text(encoding="utf-8")
    for page in pages:
        assert f'href="{page}.html"' in first, page
    assert (site / "examples" / "quickstart.ipynb").exists()
    assert [path.name for path in site.rglob("*.py")] == ["forecast_onnx.py"]


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?([^\" >]+)", text)
        assert loaded, page.name
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page.name


def test_what_github_escapes_is_shown_as_it_is_typed(site: Path) -> None:
    assert "window=1min|5min|10min|15min|30min|1h|1d" in (site / "train.html").read_text(encoding="utf-8")
