"""The number of threads depends on the batch size and the number of cores."""

import pytest
import torch

from kforecast.training.distributed.threads import choose_threads


@pytest.fixture(autouse=True)
def _as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "wanted, batch_size, cores, quota, allowed, processes, expected",
    [
        (3, 32, 1, "max 100000", "", 1, 3),
        ("auto", 32, 8, "max 100000", "", 1, 1),
        ("auto", 1024, 8, "max 100000", "", 1, 2),
        ("auto", 100_000, 8, "max 100000", "", 1, 8),
        ("auto", 100_000, 8, "250000 100000", "", 1, 2),
        ("auto", 100_000, 8, "50000 100000", "", 1, 1),
        ("auto", 100_000, 8, None, "3", 1, 3),
        ("auto", 100_000, 8, None, "1", 2, 4),  # a launcher's own limit does not count
        ("auto", 2048, 8, None, "", 2, 2),
    ],
)
def test_threads(wanted, batch_size, cores, quota, allowed, processes, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("kforecast.training.distributed.threads._cores", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes > 1:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr("kforecast.training.distributed.threads._QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert choose_threads(wanted, batch_size, processes) == expected == torch.get_num_threads()
