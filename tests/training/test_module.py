"""The loss and its gradient: masked targets do not count, and the numbers match those by hand."""

import functools

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from conftest import tensors_of
from kforecast.data.windows import WindowBatch
from kforecast.models.fcnet import Fcnet
from kforecast.training.gradients.automatic import Chunk, FlatParameters
from kforecast.training.gradients.fcnet import FcnetGradient
from kforecast.training.module import TRAIN_LOSS, VALIDATION_LOSS, ForecastModule
from kforecast.window import CALENDAR_TABLE_SIZES, Frequency, Window

WINDOW = Window(Frequency.parse("10min"), context_length=4, prediction_length=3)
TABLE_SIZES = torch.tensor([60, 24, 8, 32])


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """One thread, because synchronization slows down tiny networks on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _module(num_series=4):
    torch.manual_seed(0)
    return ForecastModule(Fcnet(WINDOW, num_series), functools.partial(torch.optim.SGD, lr=0.0), 8)


def _batch(count=4, seed=0, num_series=4):
    generator = torch.Generator().manual_seed(seed)
    return WindowBatch(
        context=torch.rand(count, 4, generator=generator) * 10 + 1,
        calendar=(torch.rand(count, 3, 4, generator=generator) * TABLE_SIZES).long(),
        series=torch.arange(count) % num_series,
        target=torch.rand(count, 3, generator=generator) * 10,
        observed=torch.ones(count, 3, dtype=torch.bool),
    )


def _mask(batch, observed):
    return batch._replace(observed=torch.tensor(observed, dtype=torch.bool))


def _gradients(module, batch):
    """The gradient of each parameter, computed as in training."""
    parameters = FlatParameters(module.net)
    gradient, chunk = FcnetGradient(module.net, parameters), Chunk(module.net, batch, len(batch.context))
    gradient.begin(chunk)
    gradient.add(0, len(batch.context))
    assert torch.isclose(chunk.losses()[0], module.loss(batch), rtol=1e-5)
    return {name: value.grad.clone() for name, value in module.named_parameters()}


def _identical(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


SOME = [[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 0]]
LAST_MASKED = [[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]]


@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=12, max_size=12))
@settings(deadline=None, max_examples=40)
def test_garbage_in_masked_targets_changes_no_bit_of_loss_or_gradient(garbage):
    module, batch = _module(), _mask(_batch(), SOME)
    dirty = batch._replace(target=batch.target.where(batch.observed, torch.tensor(garbage).reshape(4, 3)))
    assert torch.equal(module.loss(batch), module.loss(dirty))
    assert _identical(_gradients(module, batch), _gradients(module, dirty))


def test_observed_targets_do_change_the_gradient():
    module, batch = _module(), _mask(_batch(), SOME)
    far = batch._replace(target=batch.target.where(~batch.observed, -1e3))
    assert not _identical(_gradients(module, batch), _gradients(module, far))


def test_a_window_without_observed_targets_contributes_exactly_nothing():
    module = _module()
    batch = _mask(_batch(), LAST_MASKED)
    gradients = _gradients(module, batch)
    # Only the last window uses the embedding of its series.
    embedding = gradients["net.static_embeddings.0.weight"]
    assert (embedding[3] == 0).all()
    assert (embedding[:3] != 0).any(dim=1).all()

    other = _batch(seed=9)
    for field in ("context", "calendar", "target"):
        changed = getattr(batch, field).clone()
        changed[3] = getattr(other, field)[3]
        assert not torch.equal(changed, getattr(batch, field))
        assert _identical(gradients, _gradients(module, batch._replace(**{field: changed})))

    rest = WindowBatch(*(part[:3] for part in tensors_of(batch)))
    assert torch.isclose(module.loss(batch), module.loss(rest), rtol=1e-6)
    for name, gradient in _gradients(module, rest).items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-7)


def test_the_loss_by_hand():
    module = _module()
    with torch.no_grad():  # the forecast is the bias for every window
        module.net.lc.weight.zero_()
        module.net.lc.bias.copy_(torch.tensor([1.0, 5.0, -1.0]))
    batch = _batch(2)._replace(
        context=torch.tensor([[1.0, 3.0, -2.0, 2.0], [0.0, 40.0, 0.0, 0.0]]),  # levels 2 and 10
        target=torch.tensor([[4.0, 6.0, 777.0], [10.0, -777.0, 20.0]]),
    )
    batch = _mask(batch, [[1, 1, 0], [1, 0, 1]])
    errors = [abs(4 / 2 - 1), abs(6 / 2 - 5), abs(10 / 10 - 1), abs(20 / 10 + 1)]
    assert module.loss(batch).item() == pytest.approx(sum(errors) / 4)
    torch.testing.assert_close(module(batch), torch.tensor([[2.0, 10.0, -2.0], [10.0, 50.0, -10.0]]))


def test_the_loss_is_the_mean_error_of_the_scaled_forecast():
    module, batch = _module(), _mask(_batch(), SOME)
    forecast = module(batch).double()
    errors = []
    for row in range(4):
        level = batch.context[row].double().abs().mean()
        for step in range(3):
            if batch.observed[row, step]:
                errors.append((forecast[row, step] - batch.target[row, step]).abs() / level)
    assert module.loss(batch).item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


WINDOWS = (
    st.sampled_from(["1min", "10min", "1H", "1D"]),
    st.integers(1, 6),
    st.integers(1, 4),
    st.booleans(),
)


@given(*WINDOWS, st.integers(1, 70), st.integers(1, 90))
@settings(deadline=None, max_examples=25)
def test_the_gradient_of_every_batch_is_that_of_automatic_differentiation(
    freq, context, horizon, shared, size, count
):
    _check_gradient(freq, context, horizon, shared, size, count)


@pytest.mark.slow
@given(*WINDOWS, st.integers(1, 700), st.integers(1, 900))
@settings(deadline=None, max_examples=100)
def test_the_gradient_of_every_large_batch_is_that_of_automatic_differentiation(
    freq, context, horizon, shared, size, count
):
    _check_gradient(freq, context, horizon, shared, size, count)


def _check_gradient(freq, context, horizon, shared, size, count):
    window = Window(Frequency.parse(freq), context, horizon)
    torch.manual_seed(count)
    net = Fcnet(window, 3, shared, day_of_month=not shared)
    module = ForecastModule(net, functools.partial(torch.optim.SGD, lr=0.0), size)
    parameters = FlatParameters(net)
    sizes = torch.tensor([CALENDAR_TABLE_SIZES[field] for field in window.frequency.calendar_fields])
    batch = WindowBatch(
        context=torch.rand(count, context) * 10 + 1,
        calendar=(torch.rand(count, horizon, len(sizes)) * sizes).long(),
        series=torch.randint(0, 3, (count,)),
        target=torch.rand(count, horizon) * 10,
        observed=torch.rand(count, horizon) > 0.2,
    )
    gradient, chunk = FcnetGradient(net, parameters), Chunk(net, batch, size)
    gradient.begin(chunk)
    found, expected, losses = [], [], []
    for begin, stop in chunk.bounds:
        parameters.gradient.zero_()
        gradient.add(begin, stop)
        found.append(parameters.gradient.clone())
    for begin, stop in chunk.bounds:
        parameters.gradient.zero_()
        loss = module.loss(WindowBatch(*(part[begin:stop] for part in tensors_of(batch))))
        loss.backward()
        expected.append(parameters.gradient.clone())
        losses.append(loss.detach())
    assert [stop - begin for begin, stop in chunk.bounds[:-1]] == [size] * (len(found) - 1)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(chunk.losses(), torch.stack(losses), rtol=1e-5, atol=1e-7)


def test_a_forecast_grows_with_the_traffic():
    module, batch = _module(), _batch()
    torch.testing.assert_close(module(batch._replace(context=1024 * batch.context)), 1024 * module(batch))


def test_a_context_of_zeros_has_the_smallest_level_of_the_consumer():
    module, batch = _module(), _batch(1)
    with torch.no_grad():
        module.net.lc.weight.zero_()
        module.net.lc.bias.zero_()
    silent = batch._replace(context=torch.zeros(1, 4), target=torch.full((1, 3), 2.0))
    assert module.loss(silent).item() == pytest.approx(2e10, rel=1e-5)


def test_the_optimizer_has_every_parameter():
    module = _module()
    optimizer = module.configure_optimizers()
    (group,) = optimizer.param_groups
    (flat,) = group["params"]
    assert isinstance(optimizer, torch.optim.SGD)
    state = [value.flatten() for value in module.state_dict().values()]
    assert sorted(flat.tolist()) == sorted(torch.cat(state).tolist())
    with torch.no_grad():
        flat.fill_(0.5)
    assert all((value == 0.5).all() for value in module.parameters())


def _trainer(max_epochs=1, **settings):
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        **settings,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _loader(batches):
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


# Batches of different sizes and with different numbers of observed targets.
BATCHES = [_mask(_batch(4, seed=1), SOME), _mask(_batch(1, seed=2), [[0, 1, 0]]), _batch(3, seed=3)]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_training_loss_of_an_epoch_is_the_mean_of_its_batch_losses():
    module, trainer = _module(), _trainer()
    expected = torch.stack([module.loss(batch) for batch in BATCHES]).mean().item()
    trainer.fit(module, _loader(BATCHES))
    assert trainer.callback_metrics[TRAIN_LOSS].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_validation_loss_is_the_mean_over_all_observed_targets():
    module = _module()
    losses = torch.stack([module.loss(batch) for batch in BATCHES])
    counts = torch.tensor([float(batch.observed.sum()) for batch in BATCHES])
    expected = ((losses * counts).sum() / counts.sum()).item()
    assert expected != pytest.approx(losses.mean().item(), rel=1e-3)
    (found,) = _trainer().validate(module, _loader(BATCHES), verbose=False)
    assert found[VALIDATION_LOSS] == pytest.approx(expected, rel=1e-5)


def _fitted(batches, epochs, trainer=None, ckpt_path=None, **settings):
    """The saved weights of a training with batches of at most 4 windows."""
    torch.manual_seed(0)
    make = functools.partial(torch.optim.SGD, lr=0.01)
    module = ForecastModule(Fcnet(WINDOW, 4), make, batch_size=4, **settings)
    trainer = trainer or _trainer(epochs)
    trainer.fit(module, _loader(batches), ckpt_path=ckpt_path, weights_only=True)
    return torch.cat([value.flatten() for value in module.state_dict().values()])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_network_holds_the_average_of_the_weights_of_all_steps():
    batches = [_batch(4, seed=seed) for seed in range(5)]
    weights = [_fitted(batches[:count], 1) for count in range(6)]
    average = weights[0]
    for step, value in enumerate(weights[1:], start=1):
        share = max(4 / 8, 10 / (10 + step))
        average = average + share * (value - average)
    averaged = _fitted(batches, 1, average_windows=8)
    torch.testing.assert_close(averaged, average, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(averaged, weights[-1], rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_average_goes_on_from_a_checkpoint(tmp_path):
    batches = [_batch(4, seed=seed) for seed in range(5)]
    expected = _fitted(batches, 4, average_windows=40)
    first = _trainer(2)
    _fitted(batches, 2, first, average_windows=40)
    first.save_checkpoint(tmp_path / "half.ckpt")
    found = _fitted(batches, 4, ckpt_path=tmp_path / "half.ckpt", average_windows=40)
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_gradient_is_cut_to_its_norm():
    batch = _batch(4)
    start, free = _fitted([], 0), _fitted([batch], 1)
    cut = _fitted([batch], 1, gradient_clip_val=0.001)
    assert torch.linalg.norm(free - start) > 0.01 * 0.0011
    assert torch.linalg.norm(cut - start).item() == pytest.approx(0.01 * 0.001, rel=0.01)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_several_batches_at_once_are_several_steps():
    batches = [_batch(4, seed=seed) for seed in range(5)]
    together = WindowBatch(*(torch.cat(parts) for parts in zip(*map(tensors_of, batches), strict=True)))
    one, several = _trainer(), _trainer()
    assert torch.equal(_fitted(batches, 1, one), _fitted([together], 1, several))
    assert one.global_step == several.global_step == 5
    torch.testing.assert_close(one.callback_metrics[TRAIN_LOSS], several.callback_metrics[TRAIN_LOSS])
