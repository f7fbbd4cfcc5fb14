"""Differences between the settings of an earlier run and those that would resume it."""

from typing import Any


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping with dotted keys."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, dict)
        found |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def differences(now: dict[str, Any], then: dict[str, Any], where: str) -> str:
    """One line for each key with different values, each after a line break; empty without differences."""
    return "".join(
        f"\n  {name}: {now.get(name)!r} now, {then.get(name)!r} in {where}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    )
