"""The policies for unobserved bins of a context; :mod:`kforecast.data.gaps` carries them out."""

from typing import Literal, get_args

Fill = Literal["interpolate", "zero", "ffill"]
FILLS: tuple[Fill, ...] = get_args(Fill)
