"""Search space of a search: Hydra overrides with several values as Optuna distributions."""

from collections.abc import Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from kforecast.errors import ConfigError

Space = dict[str, BaseDistribution]


def read_space(overrides: Sequence[str]) -> tuple[Space, list[str]]:
    """The distribution of each parameter, and the other overrides as typed; the last override of a key wins.

    Raises
    ------
    ConfigError
        When an override cannot be read, or none has several values.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    space: Space = {}
    fixed: dict[str, str] = {}
    for text in overrides:
        try:
            override = parser.parse_override(text)
            name = override.get_key_element()
            space.pop(name, None)
            fixed.pop(name, None)
            if override.is_sweep_override():
                space[name] = _distribution(override)
            else:
                fixed[name] = text
        except (HydraException, TypeError, ValueError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            raise ConfigError(f"the search space: cannot read {text}: {reason}") from error
    if not space:
        raise ConfigError(
            "there is nothing to search over: give ranges in hydra.sweeper.params, or as "
            "key=interval(low,high)"
        )
    return space, list(fixed.values())


def _distribution(override: Override) -> BaseDistribution:
    values: Any = override.value()
    if isinstance(values, IntervalSweep):
        return _numbers(values.start, values.end, log="log" in values.tags)
    if isinstance(values, RangeSweep):
        return _numbers(values.start, values.stop, step=values.step)
    if isinstance(values, ChoiceSweep):
        values.shuffle = False  # a random order would make every start different
    # Values other than numbers are quoted, because they become overrides again.
    one_of = [
        value if isinstance(value, bool | int | float) else Transformer.str(value)
        for value in override.sweep_iterator()
    ]
    return CategoricalDistribution(one_of)


def _numbers(low: Any, high: Any, **more: Any) -> BaseDistribution:
    if all(isinstance(number, int) for number in (low, high, more.get("step", 1))):
        return IntDistribution(low, high, **more)
    return FloatDistribution(low, high, **more)


def grid_of(space: Space) -> dict[str, list[Any]]:
    """All values of each parameter, for a grid search.

    Raises
    ------
    ConfigError
        When a parameter has infinitely many.
    """
    return {name: _points(name, distribution) for name, distribution in space.items()}


def _points(name: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        low, high, step = distribution.low, distribution.high, distribution.step
        return [min(low + number * step, high) for number in range(round((high - low) / step) + 1)]
    raise ConfigError(f"hydra/sweeper/sampler=grid: {name}: give its values: a,b,c or range(low,high,step)")
