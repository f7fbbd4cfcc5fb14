"""The loaders of a panel and its split, with and without worker processes."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from conftest import tensors_of
from kforecast.data.calendar import Calendar
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.panel import Panel
from kforecast.data.split import SplitSettings, split_windows
from kforecast.errors import DataError
from kforecast.window import Frequency, Window

HOUR = Frequency.parse("1H")
START = 1_704_067_200
SPLIT = {"validation": 0.2, "test": 0.0, "max_missing": 0.5, "mask_gaps": True}
SPLIT |= {"skip_zero_context": True, "skip_newest_window": False}


def _panel(bins=60):
    rng = np.random.default_rng(7)
    observed = rng.random((3, bins)) > 0.1
    values = np.where(observed, rng.uniform(1, 9, (3, bins)), 0).astype(np.float32)
    return Panel(values, observed, START, HOUR, (("shop/a", "qps"), ("shop/b", "qps"), ("shop/c", "cpu")))


def _module(panel=None, **changes):
    settings = {"batch_size": 16, "num_workers": 0, "fill": "interpolate", "seed": 3} | SPLIT | changes
    module = ForecastDataModule(panel or _panel(), Window(HOUR, 5, 3), **settings)
    module.setup("fit")
    return module


def _epochs(loader, epochs):
    batches = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def _equal(ours, theirs):
    return len(ours) == len(theirs) and all(
        torch.equal(one, two)
        for batch, other in zip(ours, theirs, strict=True)
        for one, two in zip(tensors_of(batch), tensors_of(other), strict=True)
    )


def test_worker_processes_change_neither_batches_nor_order(monkeypatch):
    monkeypatch.setattr("kforecast.data.windows._TRAINING_WINDOWS", 16)
    here, workers = _module(), _module(num_workers=2)
    ours = _epochs(here.train_dataloader(), (0, 1))
    assert len(ours) > 8
    assert _equal(ours, _epochs(workers.train_dataloader(), (0, 1)))
    assert _equal(list(here.val_dataloader()), list(workers.val_dataloader()))
    half = len(ours) // 2
    assert not _equal(ours[:half], ours[half:])


def test_training_goes_through_the_training_part_and_validation_through_its_own():
    module = _module()
    train = torch.cat([batch.context for batch in module.train_dataloader()])
    expected = module.windows[torch.from_numpy(np.asarray(module.split.train))].context
    assert torch.equal(train.sort(dim=0).values, expected.sort(dim=0).values)
    (validation,) = module.val_dataloader()
    assert _equal([validation], [module.windows[torch.from_numpy(np.asarray(module.split.validation))]])


def test_the_order_of_training_follows_the_seed():
    batches = [list(_module(seed=seed).train_dataloader()) for seed in (3, 3, 4)]
    assert _equal(batches[0], batches[1])
    assert not _equal(batches[0], batches[2])


def test_without_a_validation_part_there_is_no_loader():
    assert _module(validation=0.0).val_dataloader() == []


def test_the_split_is_made_with_the_settings():
    panel, window = _panel(), Window(HOUR, 5, 3)
    settings = {"test": 0.2, "skip_newest_window": True}
    made = split_windows(panel, window, SplitSettings(**(SPLIT | settings)))
    np.testing.assert_array_equal(_module(panel, **settings).split.train, made.train)


def test_an_epoch_and_a_validation_have_no_more_windows_than_wanted():
    module = _module(windows_per_epoch=20, validation_windows=7)
    first, second = _epochs(module.train_dataloader(), (0, 1))
    assert len(first.series) == len(second.series) == 20
    assert not torch.equal(first.context, second.context)
    (validation,) = module.val_dataloader()
    assert len(validation.series) == 7
    assert _equal([validation], list(module.val_dataloader()))


@pytest.mark.parametrize(
    "settings, at_once",
    [({}, 512), ({"limit_train_batches": 3}, 1), ({"max_steps": 9}, 1), ({"val_check_interval": 5}, 1)],
)
def test_batches_are_handed_out_together_unless_the_trainer_counts_them(settings, at_once):
    module = _module()
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **settings)
    assert module.batches_at_once == at_once
    assert len(list(module.train_dataloader())) == -(-len(module.split.train) // (16 * at_once))


def test_mask_gaps_reaches_the_batches():
    masked = torch.cat([batch.observed for batch in _module().train_dataloader()])
    counted = torch.cat([batch.observed for batch in _module(mask_gaps=False).train_dataloader()])
    assert not masked.all()
    assert counted.all()


def test_too_little_data_is_refused():
    with pytest.raises(DataError, match="need context 5 \\+ horizon 3 \\+ validation 3"):
        _module(_panel(bins=9))


def test_the_title_of_a_picture_names_series_and_time():
    assert _module().title(2 * 60 + 25) == "shop/c cpu, 2024-01-02 01:00 UTC"


def test_the_calendar_is_that_of_the_configuration(caplog):
    assert _module().calendar == Calendar()
    module = _module(timezone={"shop/b": "Europe/Berlin"})
    assert module.calendar.zone_numbers(module.panel.series).tolist() == [0, 1, 0]
    assert not caplog.records
    _module(timezone={"shop/b": "Europe/Berlin", "shop/d": "Asia/Tokyo"})
    (record,) = caplog.records
    assert record.getMessage() == "data.timezone names workloads that the data does not have: shop/d"
    with pytest.raises(ValueError, match="did you mean Asia/Tokyo"):
        _module(timezone="Asia/Tokio")
