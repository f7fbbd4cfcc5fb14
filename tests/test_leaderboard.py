"""``kforecast-leaderboard``: every run below a folder, compared only with runs of the same task."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from conftest import HANG, run_process
from kforecast.artifact import Artifact, sha256
from kforecast.commands.leaderboard import main
from kforecast.leaderboard.runs import collect, grouped

GOLDEN = Path(__file__).parent / "golden" / "trio_1min" / "model"


def metadata(wape: float, skill: float, horizon: int = 3) -> dict[str, Any]:
    window = {"prediction_length": horizon, "freq": "1min"}
    board = {"overall": {"wape": wape}, "skill": {"value": skill, "best_baseline": "last value"}}
    return {
        "config": {"window": window, "monitor": "validation/loss"},
        "data": {"series": 2, "first": 1_704_067_200, "last": 1_704_412_200, "validation_end": 1_704_378_000},
        "scores": {"scoreboard": board},
    }


def make_run(
    folder: Path, score: float, wape: float, overrides: list[str], data: str = "aa11", **more: Any
) -> None:
    """A finished run with a real artifact."""
    about = metadata(wape, 1 - 10 * wape, **more)
    replace(Artifact.load(GOLDEN), metadata=about, intervals=None).save(folder / "artifact")
    result = {"status": "done", "score": score, "epochs": 3, "seconds": 1.5, "stopped_by": "x", "data": data}
    result |= {"artifact_dir": str(folder / "artifact"), "weights": sha256(folder / "artifact")}
    write(folder, result, overrides)


def write(folder: Path, result: dict[str, Any] | str, overrides: list[str]) -> None:
    (folder / ".hydra").mkdir(parents=True)
    text = result if isinstance(result, str) else json.dumps(result)
    (folder / "result.json").write_text(text)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and sweeps of two data sets, including failed, killed and damaged ones."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs"
    make_run(folder / "sweeps" / "s" / "0", 0.5, 0.08, ["optimizer.lr=0.01", "source=csv", "resume=auto"])
    make_run(folder / "sweeps" / "s" / "1", 0.3, 0.09, ["optimizer.lr=0.0031234567891", "source=csv"])
    make_run(folder / "2026-01-01" / "10-00-00", 0.4, 0.07, ["optimizer.lr=0.1", "source=csv"])
    make_run(folder / "2026-01-02" / "10-00-00", 0.1, 0.01, ["source=csv"], data="bb22")
    write(folder / "sweeps" / "s" / "2", {"status": "failed", "error": "optimizer.lr: <b>-1"}, [])
    write(folder / "sweeps" / "s" / "3", {"status": "running"}, [])
    write(folder / "sweeps" / "s" / "4", '{"sta', [])
    return folder


def board(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kforecast-leaderboard", *arguments])
    main()


def test_runs_are_compared_within_their_data(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board("--csv=b.csv", "--html=b.html", monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    first, second, rest = said.split("\n\n")[:3]
    assert first.startswith("Data aa11, 2 series, 2024-01-01 to 2024-01-04, 3 x 1min ahead, validation/loss")
    runs = [line.split()[0] for line in first.splitlines() if line.startswith(" outputs")]
    assert runs == ["outputs/sweeps/s/1", "outputs/2026-01-01/10-00-00", "outputs/sweeps/s/0"]
    assert "0.003123" in first
    assert "9.00%" in first
    assert second.startswith("Data bb22")
    assert "optimizer.lr: <b>-1" in rest
    assert rest.startswith("Not finished: 3 runs")
    assert "2 different tasks" in said

    frame = pd.read_csv("b.csv")
    assert len(frame) == 7
    best = frame[(frame["data"] == "aa11") & (frame["rank"] == 1)].iloc[0]
    assert (best["run"], best["score"], best["wape"]) == ("outputs/sweeps/s/1", 0.3, 0.09)
    assert best["skill"] == pytest.approx(0.1)
    assert best["override optimizer.lr"] == pytest.approx(0.0031234567891)
    assert set(frame["status"]) == {"done", "failed", "running", "broken"}
    assert "override resume" not in frame.columns
    size = sum(path.stat().st_size for path in Path(best["artifact_dir"]).iterdir()) / 1024
    assert best["artifact_kib"] == pytest.approx(size)

    page = Path("b.html").read_text()
    assert "optimizer.lr: &lt;b&gt;-1" in page
    assert "<b>-1" not in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    "sort, first", [("wape", "10-00-00"), ("skill", "10-00-00"), ("score", "1"), ("size", "0")]
)
def test_sorting(sort: str, first: str, outputs: Path) -> None:
    runs = next(iter(grouped(collect(outputs), sort).values()))
    if sort == "size":
        assert [run.size for run in runs] == sorted(run.size for run in runs if run.size is not None)
    else:
        assert runs[0].folder.name == first


def test_another_horizon_is_another_task(outputs: Path) -> None:
    make_run(outputs / "x", 0.01, 0.01, [], horizon=6)
    assert [len(runs) for runs in grouped(collect(outputs), "score").values()] == [3, 1, 1, 3]


def test_an_artifact_that_a_later_run_has_replaced_is_not_taken_for_its_own(outputs: Path) -> None:
    job = outputs / "sweeps" / "s" / "1"
    result = json.loads((job / "result.json").read_text())
    (job / "result.json").write_text(json.dumps(result | {"weights": "0" * 64}))
    (run,) = (run for run in collect(outputs) if run.folder == job)
    assert (run.wape, run.artifact, run.score) == (None, None, 0.3)
    assert "no longer in" in run.note
    (job / "evaluation").mkdir()
    (job / "evaluation" / "report.json").write_text('{"overall": {"wape": 0.2}, "skill": {"value": 0.1}}')
    (run,) = (run for run in collect(outputs) if run.folder == job)
    assert (run.wape, run.skill) == (0.2, 0.1)


def test_the_best_artifact_is_copied_whole(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        board("--copy-best=best", monkeypatch=monkeypatch)
    assert ended.value.code == 2
    assert "2 different tasks (aa11, bb22)" in capsys.readouterr().err
    assert not (tmp_path / "best").exists()

    board("--data=aa", "--sort=wape", "--copy-best=best", monkeypatch=monkeypatch)
    assert "best artifact: best, of outputs/2026-01-01/10-00-00" in capsys.readouterr().out
    original = outputs / "2026-01-01" / "10-00-00" / "artifact"
    copied = {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in original.iterdir()}

    (original / "checkpoint.pth").write_bytes(b"damaged")
    with pytest.raises(SystemExit):
        board("--data=aa", "--sort=wape", "--copy-best=best", monkeypatch=monkeypatch)
    assert {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()} == copied


@pytest.mark.parametrize(
    "content",
    [
        '{"status": 3, "score": "x"}',
        "[]",
        '{"status": "done", "artifact_dir": 7, "score": NaN}',
        "\x00",
        "[" * 9999,
    ],
    ids=["types", "list", "numbers", "nul", "deep"],
)
def test_what_a_file_holds_never_ends_the_list(content: str, tmp_path: Path) -> None:
    write(tmp_path / "a", content, [])
    make_run(tmp_path / "b", 0.5, 0.1, [])
    runs = collect(tmp_path)
    assert [run.folder.name for run in runs] == ["a", "b"]
    assert runs[0].score is None


def test_thousands_of_runs_need_no_torch(tmp_path: Path) -> None:
    text = json.dumps({"status": "done", "score": 0.5, "data": "d", "artifact_dir": "", "weights": "w"})
    about = json.dumps(metadata(0.1, 0.1) | {"sha256": {"checkpoint.pth": "w"}})
    for number in range(2000):
        folder = tmp_path / "outputs" / str(number)
        write(folder, text, ["optimizer.lr=0.01"])
        (folder / "artifact").mkdir()
        (folder / "artifact" / "metadata.json").write_text(about)
    script = """
import atexit, sys
from kforecast.commands.leaderboard import main
atexit.register(lambda: print("heavy:", sorted({"torch", "lightning", "hydra", "pandas"} & set(sys.modules))))
main()
"""
    command = [sys.executable, "-c", script, "--top=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=True)
    assert ": 2000 runs, best score first" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nowhere"], "error: nowhere: no such folder"),
        (["."], "error: .: no runs below it (a run has a result.json)"),
        (["--sort=best"], "error: argument --sort: invalid choice: 'best'"),
        (["--bests"], "error: unrecognized arguments: --bests"),
    ],
)
def test_bad_arguments(arguments: list[str], said: str, tmp_path: Path) -> None:
    # None of this loads slow libraries.
    done = run_process("kforecast-leaderboard", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
