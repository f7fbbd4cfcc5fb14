"""Forests: the sum of trees as followed by hand, and hostile trees, which are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.models.forest import Forest

FEATURES = 5


def grown(seed, trees, leaves, features=FEATURES):
    """Random trees of up to so many leaves, as tensors; the rest is padding."""
    rng = np.random.default_rng(seed)
    made = {
        "feature": rng.integers(0, features, (trees, leaves - 1)).astype(float),
        "threshold": rng.choice([-1.0, 0.0, 0.5, 1.0], (trees, leaves - 1)),
        "left": np.full((trees, leaves - 1), -1.0),
        "right": np.full((trees, leaves - 1), -1.0),
        "value": rng.standard_normal((trees, leaves)),
    }
    for tree in range(trees):
        inner = int(rng.integers(0, leaves))
        ends = [(None, None)]  # parent and side of each leaf so far
        for node in range(inner):
            parent, side = ends.pop(int(rng.integers(len(ends))))
            if parent is not None:
                made[side][tree, parent] = node
            ends += [(node, "left"), (node, "right")]
        for leaf, (parent, side) in enumerate(ends):
            if parent is not None:
                made[side][tree, parent] = -1 - leaf
    return {name: torch.from_numpy(values).float() for name, values in made.items()}


def by_hand(trees, row):
    total = 0.0
    for tree in range(len(trees["value"])):
        node = 0 if trees["left"].shape[1] else -1
        while node >= 0:
            seen = row[int(trees["feature"][tree, node])]
            side = "left" if seen <= trees["threshold"][tree, node] else "right"
            node = int(trees[side][tree, node])
        total += float(trees["value"][tree, -1 - node])
    return total


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 9))
@settings(max_examples=60)
def test_a_forest_is_the_sum_of_its_trees(seed, trees, leaves):
    given_trees = grown(seed, trees, leaves)
    rows = torch.from_numpy(np.random.default_rng(seed).choice([-2.0, -1, 0, 0.25, 0.5, 1, 3], (7, FEATURES)))
    forest = Forest(FEATURES)
    forest.grow(given_trees)
    expected = [by_hand(given_trees, row) for row in rows.float()]
    np.testing.assert_allclose(forest(rows.float()), expected, rtol=1e-5, atol=1e-6)


def test_many_rows_are_those_of_one_at_a_time():
    forest = Forest(FEATURES)
    forest.grow(grown(3, 5, 12))
    rows = torch.randn(2500, FEATURES, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.cat([forest(rows[place : place + 1]) for place in (0, 999, 1000, 2499)])
    assert torch.equal(forest(rows)[[0, 999, 1000, 2499]], one_by_one)


def test_without_trees_the_sum_is_zero():
    assert torch.equal(Forest(FEATURES)(torch.ones(3, FEATURES)), torch.zeros(3))


def test_a_state_dict_keeps_any_number_of_trees():
    forest, other = Forest(FEATURES), Forest(FEATURES)
    forest.grow(grown(1, 6, 8))
    other.grow(grown(2, 3, 5))
    other.load_state_dict(forest.state_dict())
    rows = torch.randn(50, FEATURES, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other(rows), forest(rows))
    assert other.count == 6


HOSTILE = {
    "a child is the node itself": ("left", (0, 1), 1.0),
    "a child is an earlier node": ("right", (1, 2), 0.0),
    "a child is no node": ("left", (0, 0), 7.0),
    "a child is no leaf": ("right", (0, 0), -9.0),
    "a child is half a node": ("left", (0, 0), 1.5),
    "a child is not a number": ("left", (0, 0), float("nan")),
    "a feature is negative": ("feature", (0, 0), -1.0),
    "a feature is past the last": ("feature", (0, 0), float(FEATURES)),
    "a feature is huge": ("feature", (0, 0), 1e30),
    "a threshold is infinite": ("threshold", (0, 0), float("inf")),
    "a leaf is not a number": ("value", (1, 2), float("nan")),
}


@pytest.mark.parametrize("name, place, value", HOSTILE.values(), ids=HOSTILE)
def test_hostile_trees_are_refused(name, place, value):
    trees = grown(1, 2, 8)
    trees[name][place] = value
    with pytest.raises(ValueError, match="trees"):
        Forest(FEATURES).grow(trees)
    with pytest.raises(RuntimeError, match="trees"):
        Forest(FEATURES).load_state_dict(trees | {"width": torch.tensor([float(FEATURES)])})


def test_trees_over_other_features_are_refused():
    forest = Forest(FEATURES)
    forest.grow(grown(1, 2, 8))
    with pytest.raises(RuntimeError, match="not over the 6 features"):
        Forest(FEATURES + 1).load_state_dict(forest.state_dict())
    with pytest.raises(RuntimeError, match="Missing"):
        Forest(FEATURES).load_state_dict(grown(1, 2, 8))


@pytest.mark.parametrize(
    "changed",
    [
        {"value": torch.zeros(2, 7)},
        {"value": torch.zeros(3, 8)},
        {"left": torch.zeros(2, 7, 1)},
        {"value": torch.zeros(8)},
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(changed):
    with pytest.raises(ValueError, match="same number"):
        Forest(FEATURES).grow(grown(1, 2, 8) | changed)


def test_too_many_trees_are_refused():
    with pytest.raises(ValueError, match="at most"):
        Forest(FEATURES).grow(grown(1, 10_001, 1))
    with pytest.raises(ValueError, match="at most"):
        Forest(FEATURES).grow(grown(1, 1, 1025))
