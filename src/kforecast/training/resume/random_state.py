"""Random numbers of a resumed training: it draws what the interrupted one would have drawn next."""

from typing import Any

import torch
from torch import nn

from kforecast.models.context_mlp import LongMaskDropout

_RANDOM, _MASKS = "random_state", "masks"


def keep_random_state(net: nn.Module, device: torch.device, checkpoint: dict[str, Any]) -> None:
    """Put the state of torch's generators, and the masks that were drawn, into a checkpoint."""
    checkpoint[_RANDOM] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        checkpoint[_RANDOM]["cuda"] = torch.cuda.get_rng_state(device)
    checkpoint[_MASKS] = {name: module.drawn for name, module in _with_masks(net)}


def load_random_state(net: nn.Module, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Give the network its masks back; returns the generators' state, for :func:`set_random_state`."""
    for name, module in _with_masks(net):
        module.drawn = checkpoint[_MASKS][name]
    return dict(checkpoint[_RANDOM])


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set torch's generators, right before the first step: what comes in between may draw numbers too."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _with_masks(net: nn.Module) -> list[tuple[str, LongMaskDropout]]:
    return [(name, module) for name, module in net.named_modules() if isinstance(module, LongMaskDropout)]
