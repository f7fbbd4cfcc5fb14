"""Random numbers of a resumed training, which continue those of the interrupted one."""

from typing import Any

import torch
from torch import nn

from kforecast.models.context_mlp import LongMaskDropout

_RANDOM, _MASKS = "random_state", "masks"


def keep_random_state(net: nn.Module, device: torch.device, checkpoint: dict[str, Any]) -> None:
    """Add the state of torch's generators and the current dropout masks to a checkpoint."""
    checkpoint[_RANDOM] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        checkpoint[_RANDOM]["cuda"] = torch.cuda.get_rng_state(device)
    checkpoint[_MASKS] = {name: module.drawn for name, module in _with_masks(net)}


def load_random_state(net: nn.Module, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Restore the network's masks; returns the state of the generators, for :func:`set_random_state`."""
    for name, module in _with_masks(net):
        module.drawn = checkpoint[_MASKS][name]
    return dict(checkpoint[_RANDOM])


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set torch's generators, directly before the first step: setup draws random numbers too."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _with_masks(net: nn.Module) -> list[tuple[str, LongMaskDropout]]:
    return [(name, module) for name, module in net.named_modules() if isinstance(module, LongMaskDropout)]
