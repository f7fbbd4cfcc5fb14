"""What the files of an artifact are made into: its network, its calendar, its combination."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from kforecast.artifact import Artifact
from kforecast.data.calendar import Calendar
from kforecast.errors import ArtifactError
from kforecast.models import NETWORKS, Network
from kforecast.models.combination import Combination
from kforecast.models.naive import NAIVE
from kforecast.untrusted import shortened

# With a number these leave a tensor's shape as it is.
_ARITHMETIC = {"mul", "sub", "div", "__mul__", "__sub__", "__truediv__", "__setitem__"}


class _WithoutValues(TorchFunctionMode):
    """Compute no initial weights: on ``meta`` they have no values, yet torch loads its compiler for them."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, or return the tensor whose values it would have changed."""
        given = kwargs or {}
        if getattr(function, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else given["tensor"]
        if getattr(function, "__name__", None) in _ARITHMETIC and not isinstance(args[1], torch.Tensor):
            return args[0]
        return (torch.empty if function in (torch.rand, torch.randn) else function)(*args, **given)


def network_of(artifact: Artifact, name: str) -> Network:
    """The network in an artifact, in evaluation mode; ``name`` is what messages call it.

    Raises
    ------
    ArtifactError
        When it is an unknown one, or the files do not fit each other.
    """
    config = artifact.config
    if config.model not in NETWORKS:
        raise ArtifactError(
            f"{name}: unknown model {shortened(config.model)!r}; known: {', '.join(NETWORKS)}"
        )
    outside = [key for key, number in artifact.item_ids.items() if not 0 <= number < config.num_series]
    if outside:
        raise ArtifactError(
            f"{name}: the id of {shortened(outside[0])!r} is not below num_series {config.num_series}"
        )
    try:
        # Without memory at first: the checkpoint's shapes are checked before a network of the size that the
        # config claims is built.
        with torch.device("meta"), _WithoutValues():
            net = NETWORKS[config.model](config.window, config.num_series, **config.network)
        net.load_state_dict({key: value.float() for key, value in artifact.state.items()}, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        said = shortened(" ".join(str(error).split()), 500)
        raise ArtifactError(f"{name}: the checkpoint does not fit estimator_config.yaml: {said}") from error
    return net.eval()


def calendar_of(artifact: Artifact, name: str) -> Calendar:
    """Its local time and holidays; raises ArtifactError when they are none."""
    config = artifact.config
    try:
        return Calendar.from_dict(config.calendar) if config.calendar else Calendar()
    except ValueError as error:
        raise ArtifactError(f"{name}: calendar in estimator_config.yaml: {shortened(error)}") from error


def combination_of(artifact: Artifact, net: Network, name: str) -> Combination | None:
    """Its weights of naive forecasts, if any; raises ArtifactError when they are none."""
    config = artifact.config
    if not config.combination:
        return None
    try:
        found = Combination.from_dict(config.combination, config.prediction_length)
        if unknown := [part for part in found.weights if part not in (*net.parts, *NAIVE)]:
            raise ValueError(f"unknown forecaster {unknown[0]!r}")
    except ValueError as error:
        raise ArtifactError(f"{name}: combination in estimator_config.yaml: {shortened(error)}") from error
    return found
