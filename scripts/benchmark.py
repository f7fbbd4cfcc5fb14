"""Measure kforecast against a plain reference, side by side in one run on this machine.

python scripts/benchmark.py
python scripts/benchmark.py windows step epoch
"""

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import asdict

from benchmark_stages.rows import Row, peak_megabytes

# Each stage runs in its own process, so that none inherits another's memory.
STAGES = {
    "csv": "reading",
    "windows": "training",
    "step": "training",
    "epoch": "training",
    "quality": "training",
    "growth": "scale",
    "fleet": "scale",
    "huge": "scale",
    "backtest": "serving",
    "forecast": "serving",
    "startup": "serving",
    "stop": "stopping",
    "leaderboard": "serving",
    "fetch": "fetching",
    "memory": "fetching",
}
# Takes ten minutes, and 10 GB of disk during the conversion.
ON_REQUEST = {"huge"}
HEADS = Row("what", "ours", "reference", "ratio", "target")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the project beside a plain reference.")
    parser.add_argument("stage", nargs="*", help=f"{', '.join(STAGES)}; without any all but huge")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    chosen = given.stage or [name for name in STAGES if name not in ON_REQUEST]
    if unknown := [name for name in chosen if name not in STAGES]:
        parser.error(f"unknown stage {unknown[0]}; known: {', '.join(STAGES)}")
    if given.alone:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        module = importlib.import_module(f"benchmark_stages.{STAGES[chosen[0]]}")
        rows = getattr(module, chosen[0])()
        print(json.dumps({"rows": [asdict(row) for row in rows], "peak": peak_megabytes()}))
        return
    failed, rows = 0, []
    # The commands set the same variable.
    environment = os.environ | {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, __file__, "--alone", name],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
        )
        if done.returncode:
            failed += 1
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        rows += [Row(**row) for row in found["rows"]]
        rows.append(Row(f"{name}: peak memory of the stage", f"{found['peak']:,.0f} MB"))
        if not given.markdown:
            print("\n".join(said(rows[-len(found["rows"]) - 1 :])), flush=True)
    if given.markdown:
        print("\n".join(markdown(rows)))
    if failed:
        sys.exit(f"{failed} of {len(chosen)} stages failed")


def said(rows: list[Row]) -> list[str]:
    """Return the lines for the console."""
    lines = []
    for row in rows:
        other = f"; reference {row.other}" if row.other else ""
        ratio = f"; {row.ratio}" if row.ratio else ""
        target = f"  (target {row.target})" if row.target else ""
        lines.append(f"  {row.what}: {row.ours}{other}{ratio}{target}")
    return lines


def markdown(rows: list[Row]) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [list(asdict(row).values()) for row in (HEADS, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|---" * len(cells[0]) + "|", *lines[1:]]


if __name__ == "__main__":
    main()
