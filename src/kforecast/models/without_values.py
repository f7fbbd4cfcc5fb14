"""Networks without initial values, whose weights are loaded."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Operations that keep a tensor's shape if the other operand is a number.
_ARITHMETIC = {"mul", "sub", "div", "__mul__", "__sub__", "__truediv__", "__setitem__"}


class WithoutValues(TorchFunctionMode):
    """Skips initial weights.

    On ``meta``, tensors have no values, yet torch would load its compiler to initialise them.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, or return the tensor that it would have initialised."""
        given = kwargs or {}
        if getattr(function, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else given["tensor"]
        if getattr(function, "__name__", None) in _ARITHMETIC and not isinstance(args[1], torch.Tensor):
            return args[0]
        return (torch.empty if function in (torch.rand, torch.randn) else function)(*args, **given)
