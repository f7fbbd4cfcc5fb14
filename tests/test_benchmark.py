"""What scripts/benchmark.py finds about memory is a promise; its times are not tested."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
def test_sixty_days_of_twenty_series_are_exact_in_bounded_memory() -> None:
    command = [sys.executable, str(SCRIPT), "memory"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r"([\d,]+) points, exact: (\w+); resident memory grew by (\d+) MB", done.stdout)
    assert found is not None, done.stdout
    assert found[1] == "1,728,020"
    assert found[2] == "True"
    assert 0 < int(found[3]) < 300


def test_an_unknown_stage_is_refused() -> None:
    command = [sys.executable, str(SCRIPT), "fetsh"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "unknown stage fetsh; known: fetch, memory, backtest" in done.stderr
