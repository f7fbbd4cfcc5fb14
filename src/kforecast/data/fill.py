"""Names of the policies for unobserved bins of a context; :mod:`kforecast.data.gaps` applies them.

A module of its own, because the configuration needs the names and :mod:`kforecast.data.gaps` imports torch.
"""

from typing import Literal, get_args

Fill = Literal["interpolate", "zero", "ffill"]
FILLS: tuple[Fill, ...] = get_args(Fill)
