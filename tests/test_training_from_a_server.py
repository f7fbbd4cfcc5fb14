"""``kforecast-train`` with a provider: kept history, hidden secrets, and a server that dies."""

import json
import threading
from pathlib import Path

import grpc
import pandas as pd
import yaml
from provider import Provider, answer

from conftest import HANG, run_command
from kforecast.artifact import TRIO
from kforecast.metrics.proto import provider_pb2 as pb

END = 1_704_500_000 // 60 * 60
SECRET = "hush-hush-4711"
NOTHING_HELD_OUT = ["data.validation=0", "data.test=0", "monitor=train/loss"]  # so there is no report


def config(folder: Path, *names: str) -> list[str]:
    targets = [
        {
            "workloadNamespace": "shop",
            "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "historyLength": "3D",
            "metrics": [{"type": "Resource", "resource": {"name": "cpu"}}],
        }
        for name in names
    ]
    content = {"targets": targets, "freq": "10min", "predictionLength": 3, "contextLength": 7}
    content["hyperParams"] = {"learningRate": 0.001, "epochs": 1, "batchSize": 64}
    (folder / "train-config.yaml").write_text(yaml.safe_dump(content))
    return ["--config-file=train-config.yaml", "--model-save-path=model", f"source.end={END}"]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_history_is_kept_for_a_second_run_and_the_token_nowhere(tmp_path: Path) -> None:
    arguments = config(tmp_path, "a", "b")
    provider = Provider()
    with provider.serve() as address:
        done = run_command(
            "kforecast-train",
            *arguments,
            f"--metrics-server-addr={address}",
            "source.token_env=PROVIDER_TOKEN",
            "hydra.run.dir=first",
            *NOTHING_HELD_OUT,
            cwd=tmp_path,
            env={"PROVIDER_TOKEN": SECRET},
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert provider.metadata[0]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in done.stdout + done.stderr
    files = everything(tmp_path)
    assert {"first/history.parquet", "first/.hydra/config.yaml", "model/metadata.json"} <= set(files)
    assert [name for name, content in files.items() if SECRET.encode() in content] == []

    kept = "first/history.parquet"
    assert f"source=csv source.path={kept}" in done.stdout
    repeated = [a for a in arguments if not a.startswith(("source.", "--model"))]
    own = ["source=csv", f"source.path={kept}", "artifact_dir=again", *NOTHING_HELD_OUT]
    done = run_command("kforecast-train", *repeated, *own, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "again" / TRIO[0]).read_bytes() == (tmp_path / "model" / TRIO[0]).read_bytes()


def test_a_server_killed_half_way_leaves_everything_as_it_was(tmp_path: Path) -> None:
    arguments = config(tmp_path, *"abcdef")
    (tmp_path / "model").mkdir()
    for name in TRIO:
        (tmp_path / "model" / name).write_text(f"earlier {name}")
    (tmp_path / "history.csv").write_text("earlier history")
    before = everything(tmp_path)

    for command, more in (
        ("kforecast-train", arguments),
        ("kforecast-fetch", [arguments[0], arguments[2], "output=history.csv"]),
    ):
        asked_enough = threading.Event()

        provider = Provider()

        def until_killed(
            request: pb.QueryRequest, enough: threading.Event = asked_enough, dead: Provider = provider
        ) -> pb.QueryResponse:
            if request.query.workload_resource.name > "b":
                enough.set()
                dead.stopped.wait(HANG)
            return answer(request)

        provider.answer = until_killed
        serving = provider.serve()
        address = serving.__enter__()
        killer = threading.Thread(
            target=lambda s=serving, e=asked_enough: (e.wait(HANG), s.__exit__(None, None, None))
        )
        killer.start()
        try:
            done = run_command(
                command, f"--metrics-server-addr={address}", *more, "hydra.run.dir=run", cwd=tmp_path
            )
            assert asked_enough.is_set(), done.stdout + done.stderr
        finally:
            asked_enough.set()  # a command that fails before it asks must not be waited for
            killer.join()
        assert done.returncode == 3, done.stdout + done.stderr
        error = done.stderr.splitlines()[-1]
        assert error.startswith(f"error: {address}: ")
        assert "5 attempts" in error
        after = everything(tmp_path)
        assert {name: after[name] for name in before} == before
        assert not any("history" in name for name in set(after) - set(before))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def test_a_refusal_is_one_line_and_source_failed(tmp_path: Path) -> None:
    provider = Provider(faults={(grpc.StatusCode.UNAUTHENTICATED, "who are you"): 1.0})
    with provider.serve() as address:
        done = run_command(
            "kforecast-train", *config(tmp_path, "a"), f"--metrics-server-addr={address}", cwd=tmp_path
        )
    assert done.returncode == 3
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"error: {address}: UNAUTHENTICATED: who are you (source.token_file")
    assert not (tmp_path / "model").exists()


def test_a_step_coarser_than_the_bins_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    provider = Provider()
    with provider.serve() as address:
        arguments = [*config(tmp_path, "a"), f"--metrics-server-addr={address}", "source.step=900"]
        done = run_command("kforecast-train", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: source.step: 900 s is coarser than the bins of 10min")
    assert provider.requests == []


def test_the_kept_history_has_the_columns_of_a_dataset(tmp_path: Path) -> None:
    provider = Provider()
    with provider.serve() as address:
        arguments = [config(tmp_path, "a")[0], f"--metrics-server-addr={address}", f"source.end={END}"]
        done = run_command("kforecast-fetch", *arguments, "output=history.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    frame = pd.read_parquet(tmp_path / "history.parquet")
    assert [*frame.columns] == ["timestamp", "value", "workload", "metric"]
    assert json.loads((tmp_path / "report.json").read_text())["fetch"]["questions"][0]["requests"] == 1
