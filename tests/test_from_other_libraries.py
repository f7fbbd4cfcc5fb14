"""docs/from-other-libraries.md: all conversions give the same frame, and our part of the snippets runs."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import kforecast
from test_python_api import traffic

PAGE = (Path(__file__).parents[1] / "docs" / "from-other-libraries.md").read_text(encoding="utf-8")
COLUMNS = ["timestamp", "value", "workload", "metric"]


class DartsSeries:
    """The part of darts.TimeSeries that the page uses."""

    def __init__(self, values: pd.Series) -> None:
        self.values = values

    def to_dataframe(self) -> pd.DataFrame:
        return pd.DataFrame({"0": self.values})


def test_our_snippets_run_and_frames_of_all_three_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = traffic(days=4).assign(ds=lambda rows: pd.to_datetime(rows["timestamp"], unit="s"))
    grid = pd.date_range(rows["ds"].min(), rows["ds"].max(), freq="10min")
    wide = rows.pivot(index="ds", columns="workload", values="value").reindex(grid)
    names: dict[str, object] = {
        "np": np,
        "pd": pd,
        "kforecast": kforecast,
        "df": rows.rename(columns={"workload": "unique_id", "value": "y"})[["unique_id", "ds", "y"]],
        "dataset": [
            {"item_id": name, "start": pd.Period(grid[0], "10min"), "target": wide[name].to_numpy()}
            for name in wide
        ],
        "series": {name: DartsSeries(wide[name]) for name in wide},
    }
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    found = []
    for block in blocks:
        exec(compile(block.replace("max_epochs=20", "max_epochs=1"), "page", "exec"), names)
        if block.startswith("traffic = "):
            found.append(names["traffic"])
    expected = rows[COLUMNS].sort_values(["workload", "timestamp"]).reset_index(drop=True)
    for frame in found:
        assert isinstance(frame, pd.DataFrame)
        known = frame[COLUMNS].dropna().sort_values(["workload", "timestamp"]).reset_index(drop=True)
        seconds = (known["timestamp"] - pd.Timestamp(0)) // pd.Timedelta("1s")
        pd.testing.assert_frame_equal(known.assign(timestamp=seconds), expected, check_dtype=False)
    assert {"unique_id", "ds"} <= set(names["theirs"])  # type: ignore[call-overload]
    assert (tmp_path / "model" / "checkpoint.pth").exists()
