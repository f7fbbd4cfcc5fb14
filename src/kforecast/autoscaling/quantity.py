"""Quantities of Kubernetes: ``500m``, ``2k``, ``1Gi``."""

import re

from kforecast.files.untrusted import shortened

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,3})|([KMGTPE]i|[numkMGTPE]))?"
)
_POWERS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_FACTORS = {sign: 10.0**power for sign, power in _POWERS.items()}
_FACTORS |= {f"{sign}i": 1024.0**power for power, sign in enumerate("KMGTPE", 1)}


def quantity(text: object) -> float:
    """A Kubernetes Quantity as a number: ``500m`` is 0.5, ``2Mi`` is 2,097,152.

    Raises
    ------
    ValueError
        When it is none.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None or isinstance(text, bool):
        raise ValueError(f"{shortened(text)!r} is not a quantity like 500m, 0.5 or 2Gi")
    return float(f"{match[1]}e{match[2] or 0}") * _FACTORS.get(match[3], 1.0)
