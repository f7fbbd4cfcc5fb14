"""The store of champions: links, history, rollback, and the leftovers of a kill."""

import json
from pathlib import Path

import pandas as pd
import pytest

from kforecast.artifact import Artifact, sha256
from kforecast.errors import ArtifactError, ConfigError, OutputError
from kforecast.retraining.store import Cycle, Store
from test_artifact import make_artifact

TIME = "2026-01-01T00:00:00+00:00"


def add(root: Path, value: float, promote: bool = True, keep: int = 5) -> int:
    """Record a cycle whose candidate has a weight of its own; return its number."""
    with Store(root).writing("a test") as store:
        number, before = store.state.newest + 1, store.state.champion
        make_artifact(value).save(store.version(number))
        decision = "kept" if not promote else "first" if before is None else "promoted"
        cycle = Cycle(time=TIME, decision=decision, champion=number if promote else before, candidate=number)
        former = store.state.former
        store.decide(cycle, (*former, before) if promote and before is not None else former, keep)
        store.write_history()
    return number


def kept(root: Path) -> set[str]:
    return {path.name for path in (root / "versions").iterdir()}


def test_links_lead_to_the_champion_and_the_newest_candidate(tmp_path: Path) -> None:
    root = tmp_path / "models" / "shop"
    assert Store(root).champion is None
    assert not root.exists()
    add(root, 0.1)
    add(root, 0.2, promote=False)
    assert (root / "champion").readlink() == Path("versions/1")
    assert (root / "candidate").readlink() == Path("versions/2")
    assert sha256(root / "champion") != sha256(root / "candidate")
    assert Artifact.load(root / "champion").item_ids == make_artifact(0.1).item_ids
    assert Store(root).champion == root / "champion"
    frame = pd.read_csv(root / "history.csv")
    assert list(frame["decision"]) == ["first", "kept"]
    assert list(frame["champion"]) == [1, 1]
    # The directory can be moved as a whole.
    root.rename(tmp_path / "elsewhere")
    assert Artifact.load(tmp_path / "elsewhere" / "champion")


def test_versions_that_nobody_needs_are_forgotten(tmp_path: Path) -> None:
    for number in range(1, 7):
        add(tmp_path, number / 10, keep=2)
    assert kept(tmp_path) == {"4", "5", "6"}
    assert Store(tmp_path).state.former == (4, 5)
    add(tmp_path, 0.7, promote=False, keep=2)
    add(tmp_path, 0.8, promote=False, keep=2)
    assert kept(tmp_path) == {"4", "5", "6", "8"}
    assert len(Store(tmp_path).state.cycles) == 8


def test_a_version_that_was_changed_is_found_out(tmp_path: Path) -> None:
    add(tmp_path, 0.1)
    store = Store(tmp_path)
    store.check(1)
    (tmp_path / "versions" / "1" / "item2id.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"versions/1: is not what it was .*sha256"):
        store.check(1)


def test_what_a_killed_process_has_left_is_put_right(tmp_path: Path) -> None:
    add(tmp_path, 0.1)
    add(tmp_path, 0.2)
    # One process killed after state.json, before the links; another one while saving a candidate.
    (tmp_path / "champion").unlink()
    (tmp_path / "champion").symlink_to("versions/1")
    make_artifact(0.3).save(tmp_path / "versions" / "3")
    (tmp_path / "versions" / ".4.abcd1234").mkdir()
    (tmp_path / ".champion.new").symlink_to("versions/1")
    with Store(tmp_path).writing("a test"):
        assert (tmp_path / "champion").readlink() == Path("versions/2")
        assert kept(tmp_path) == {"1", "2"}
    assert add(tmp_path, 0.4) == 3


def test_only_one_process_writes(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "m").writing("the first"),
        pytest.raises(OutputError, match="the first is writing"),
        Store(tmp_path / "m").writing("the second"),
    ):
        pass


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    make_artifact(0.1).save(tmp_path / "model")
    with pytest.raises(
        ConfigError, match=r"retrain.dir: .*model holds checkpoint.pth .* a directory of its own"
    ):
        Store(tmp_path / "model")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        Store(tmp_path / "file")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"champion": "../../etc"}', '{"champion": 0}', '{"surplus": 1}', "\x00", '{"former": 1}'],
)
def test_a_state_that_is_not_ours_is_refused(text: str, tmp_path: Path) -> None:
    add(tmp_path, 0.1)
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ConfigError, match=r"state\.json"):
        Store(tmp_path)
    assert kept(tmp_path) == {"1"}


def test_the_state_reads_back_equal(tmp_path: Path) -> None:
    add(tmp_path, 0.1)
    state = Store(tmp_path).state
    assert json.loads((tmp_path / "state.json").read_text())["cycles"][0]["time"] == TIME
    assert state.cycles[0] == Cycle(time=TIME, decision="first", champion=1, candidate=1)
    assert set(state.sha256[1]) >= {"checkpoint.pth", "metadata.json"}
