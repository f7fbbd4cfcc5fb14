"""The guard: how rarely it withdraws a forecast that helps, and how soon one that does not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.guard import (
    ABOVE,
    BELOW,
    SERVED,
    WORSE,
    GuardRules,
    Numbers,
    Withdrawals,
    newest_before,
    pinball,
    relative_losses,
    since,
    watch,
)

DAY = 144
RULES = GuardRules(window=1, day=DAY, chance=10 / 11)


def traffic(series: int, days: int, seed: int, noise: float = 0.05) -> np.ndarray:
    """A daily rhythm around 100."""
    random = np.random.default_rng(seed)
    bins = np.arange(days * DAY)
    shape = 100 * (1 + 0.6 * np.sin(2 * np.pi * bins / DAY))
    return shape * (1 + noise * random.standard_normal((series, len(bins))))


def numbers(actual: np.ndarray, served: np.ndarray, width: float = np.inf) -> Numbers:
    """``served`` as given, and a range of that width around it."""
    range_ = np.pad(served, ((0, 0), (0, 1)), mode="edge")
    return Numbers(actual, served, newest_before(actual, DAY), range_ - width / 2, range_ + width / 2)


def alarms(states: np.ndarray) -> int:
    away = states != SERVED
    return int(away[:, 0].sum() + (away[:, 1:] & ~away[:, :-1]).sum())


def helpful(actual: np.ndarray) -> np.ndarray:
    """The quantile of the costs, of one who knows the rhythm."""
    bins = np.arange(actual.shape[1])
    return np.broadcast_to(107 * (1 + 0.6 * np.sin(2 * np.pi * bins / DAY)), actual.shape).copy()


def test_a_forecast_that_helps_is_left_alone() -> None:
    actual = traffic(100, 21, seed=1)
    assert alarms(watch(RULES, numbers(actual, helpful(actual)))) == 0


@pytest.mark.parametrize("kind", ["as good", "autocorrelated", "heavy tails", "changing scale"])
def test_false_withdrawals_are_rare_where_both_are_equally_good(kind: str) -> None:
    """At the border of the hypothesis: the losses have the same mean, given the past; there is no margin."""
    random = np.random.default_rng(1)
    shape = (400, 14 * DAY)
    size = np.abs(random.standard_t(3, shape)) if kind == "heavy tails" else random.exponential(1, shape)
    if kind == "autocorrelated":
        # The size of the losses wanders slowly.
        wander = np.cumsum(random.standard_normal(shape), axis=1) / 20
        size *= np.exp(wander - wander.mean())
    if kind == "changing scale":
        size *= np.where(np.arange(shape[1]) // (3 * DAY) % 2, 30.0, 1.0)
    # Which of the two is better is drawn by a coin, whatever came before.
    first = random.random(shape) < 0.5
    served, reactive = np.where(first, size, 0.0), np.where(first, 0.0, size)
    actual = np.zeros(shape)
    none = np.full((shape[0], shape[1] + 1), np.nan)
    states = watch(RULES, Numbers(actual, served, reactive, none, none))
    weeks = 400 * (shape[1] - DAY) / (7 * DAY)
    # The bound is one in 200 weeks.
    assert alarms(states) <= weeks / 100


def test_the_evidence_of_a_fair_game_grows_like_the_time() -> None:
    """The mean of a Shiryaev-Roberts statistic is at most the number of bets: that bounds false alarms."""
    random = np.random.default_rng(3)
    capital = np.zeros(20_000)
    for _ in range(300):
        gain = 0.12 * np.where(random.random(len(capital)) < 0.5, 1, -1)
        capital = (1 + capital) * (1 + gain)
    assert abs(capital.mean() / 300 - 1) < 0.1


@pytest.mark.parametrize(("factor", "cause"), [(4.0, WORSE), (0.2, WORSE)])
def test_a_forecast_of_another_level_is_withdrawn_and_comes_back(factor: float, cause: int) -> None:
    actual = traffic(20, 12, seed=2)
    served = helpful(actual)
    begin, end = 6 * DAY, 8 * DAY
    actual[:, begin:end] *= factor
    states = watch(RULES, numbers(actual, served))
    assert (states[:, :begin] == SERVED).all()
    first = (states[:, begin:end] == cause).argmax(axis=1)
    assert (states[:, end - 1] == cause).all()
    assert first.max() < DAY, "within a day"
    back = (states[:, end:] == SERVED).argmax(axis=1)
    assert (states[:, end + DAY] == SERVED).all(), "a day after the change ends"
    assert back.min() > 1, "by proof"


def test_a_withdrawal_does_not_end_by_itself() -> None:
    actual = traffic(5, 40, seed=2)
    served = helpful(actual)
    served[:, 6 * DAY :] *= 5
    states = watch(RULES, numbers(actual, served))
    assert (states[:, 7 * DAY :] == WORSE).all()
    silent = actual.copy()
    silent[:, 8 * DAY :] = np.nan
    assert (watch(RULES, numbers(silent, served))[:, -1] == WORSE).all(), "without values there is no proof"


@pytest.mark.parametrize(("factor", "cause"), [(3.0, ABOVE), (0.1, BELOW)])
def test_a_value_out_of_every_range_withdraws_at_once(factor: float, cause: int) -> None:
    actual = traffic(10, 4, seed=4)
    served = helpful(actual)
    at = 3 * DAY + DAY // 4
    actual[:, at] *= factor
    states = watch(RULES, numbers(actual, served, width=60.0))
    assert (states[:, at - 1] == SERVED).all()
    assert (states[:, at] == cause).all()


def test_a_forecast_that_allows_for_the_new_value_stays() -> None:
    actual = traffic(10, 4, seed=4)
    made = numbers(actual, helpful(actual), width=60.0)
    at = 3 * DAY + DAY // 4
    actual[:, at] *= 3
    high = made.high.copy()
    high[:, at + 1] = 1e4  # the next forecast follows
    assert (watch(RULES, replace(made, high=high)) == SERVED).all()


@pytest.mark.parametrize("level", [0.0, 5.0])
def test_flat_traffic_is_no_evidence(level: float) -> None:
    actual = np.full((3, 5 * DAY), level)
    made = numbers(actual, actual.copy(), width=0.0)
    assert (watch(RULES, made) == SERVED).all()


def test_windows_of_the_lead_do_not_overlap() -> None:
    rules = replace(RULES, window=5)
    actual = traffic(2, 4, seed=5)
    losses = relative_losses(rules, numbers(actual, helpful(actual)), first=3)
    known = np.flatnonzero(np.isfinite(losses[0, 0]))
    assert (np.diff(known) == 5).all()
    assert ((known + 3) % 5 == 4).all(), "at the last bin of windows that begin at multiples of 5"


def test_nothing_depends_on_what_comes_later() -> None:
    actual = traffic(4, 9, seed=6)
    served = helpful(actual)
    served[:2, 5 * DAY :] *= 4
    whole = watch(RULES, numbers(actual, served, width=80.0))
    for stop in (5 * DAY + 20, 6 * DAY):
        part = numbers(actual[:, :stop], served[:, :stop], width=80.0)
        # The range of the bin under way is another one: it is that of the next forecast.
        np.testing.assert_array_equal(watch(RULES, part)[:, :-1], whole[:, : stop - 1])


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(1e-3, 1e6),
    first=st.integers(0, 50),
    window=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_the_units_do_not_matter(scale: float, first: int, window: int, seed: int) -> None:
    rules = GuardRules(window, 12, 0.9)
    random = np.random.default_rng(seed)
    actual = random.exponential(1, (3, 80)) * (random.random((3, 80)) > 0.2)
    actual[random.random((3, 80)) < 0.1] = np.nan
    served = random.exponential(2, (3, 80))
    made = numbers(actual, served, width=8.0)
    other = Numbers(*(scale * one for one in vars(made).values()))
    states = watch(rules, made, first)
    np.testing.assert_array_equal(watch(rules, other, first), states)
    assert set(np.unique(states)) <= {SERVED, WORSE, ABOVE, BELOW}
    losses = relative_losses(rules, made, first)
    assert (losses[np.isfinite(losses)] >= 0).all()


def test_a_withdrawal_known_from_before_is_kept_until_there_is_proof() -> None:
    actual = traffic(2, 8, seed=8)
    quiet = slice(0, DAY + 6)  # too short for a proof
    made = numbers(actual[:, quiet], helpful(actual)[:, quiet])
    known = Withdrawals(np.array([WORSE, SERVED], np.int8), np.array([-500, DAY + 6]))
    states = watch(RULES, made, known=known)
    assert states[:, -1].tolist() == [WORSE, SERVED]
    found = since(states, known)
    assert found.since[0] == -500
    assert found.state.tolist() == [WORSE, SERVED]
    longer = watch(RULES, numbers(actual, helpful(actual)), known=known)
    assert longer[:, -1].tolist() == [SERVED, SERVED]
    inside = Withdrawals(np.array([ABOVE, SERVED], np.int8), np.array([DAY + 2, DAY + 6]))
    states = watch(RULES, made, known=inside)
    assert states[0, DAY + 1 : DAY + 4].tolist() == [SERVED, ABOVE, ABOVE]
    assert since(states, inside).since[0] == DAY + 2


def test_the_loss_is_that_of_the_costs() -> None:
    np.testing.assert_allclose(pinball(10 / 11, np.array([5.0, 5.0]), np.array([6.0, 4.0])) * 11, [10.0, 1.0])


def test_the_newest_value_before_a_bin_ages() -> None:
    value = np.array([[1.0, np.nan, np.nan, np.nan, 2.0]])
    np.testing.assert_array_equal(newest_before(value, 3), [[np.nan, 1.0, 1.0, 1.0, np.nan]])
