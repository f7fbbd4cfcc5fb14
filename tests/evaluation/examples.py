"""Property tests with few examples in the fast suite and many in the long one."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy


def checked(
    *strategies: SearchStrategy[Any], few: int, many: int, derandomize: bool = False
) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """Like ``@given``, as two tests: one with ``few`` examples, and a slow one with ``many``.

    ``derandomize`` draws the same examples in every run.
    """

    def decorate(check: Callable[..., None]) -> Callable[[int], None]:
        def test(examples: int) -> None:
            sized = settings(max_examples=examples, derandomize=derandomize)
            sized(given(*strategies)(check))()

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        counts = [few, pytest.param(many, marks=pytest.mark.slow)]
        return pytest.mark.parametrize("examples", counts)(test)

    return decorate
