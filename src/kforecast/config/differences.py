"""What differs between the settings something was begun with, and those it is to go on with."""

from typing import Any


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping with dotted keys."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, dict)
        found |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def differences(now: dict[str, Any], then: dict[str, Any], where: str) -> str:
    """A line for each key whose values differ, with a line break before it; empty when none do."""
    return "".join(
        f"\n  {name}: {now.get(name)!r} now, {then.get(name)!r} in {where}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    )
