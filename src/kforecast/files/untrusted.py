"""Files that may be anyone's, read in bounded memory and time: nothing in them is executed.

What is refused is a ValueError that says why; who reads knows the file and says its name.
"""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import yaml

# Deeper than any file of ours, and far from the depth at which Python gives up.
_MOST_DEPTH = 64
# The longest text that stands for one value; a number of megabytes takes minutes to be understood.
_LONGEST_SCALAR = 4096


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file, or of a link to one.

    Raises
    ------
    ValueError
        When it is something else (a device or a pipe may have no end), or holds more than ``most`` bytes.
    OSError
        When it cannot be read.
    """
    # Not to wait for whoever writes into a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is not a regular file")
        if about.st_size > most:
            raise ValueError(f"it has more than {most:,} bytes, the most that is read of such a file")
        content = file.read(about.st_size + 1)
    if len(content) > about.st_size:  # as do some of /proc, which have no end either
        raise ValueError("it grows while it is read")
    return content


def parse_json(content: bytes, most_values: int) -> Any:
    """The value that JSON text stands for; no object in it may have a key twice.

    Parameters
    ----------
    most_values:
        About how many numbers, texts, lists and objects are allowed: each takes memory, which may be thirty
        times the text's.

    Raises
    ------
    ValueError
        When it is not such JSON.
    """
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > most_values:
        raise ValueError(f"it holds more than {most_values:,} values")
    try:
        return json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parse_yaml(text: str, most_values: int) -> Any:
    """The plain values that YAML text stands for, read by PyYAML's safe loader.

    Parameters
    ----------
    most_values:
        About how many values are allowed; it reads some ten thousand a second.

    Raises
    ------
    ValueError
        When it is not YAML, or has tags of objects, aliases (of which a few lines make billions of values),
        values of more than 4,096 characters or more than 64 levels.
    """
    if sum(map(text.count, ",[{\n")) > most_values:
        raise ValueError(f"it holds more than {most_values:,} values")
    try:
        return yaml.load(text, _PlainLoader)
    except yaml.YAMLError as error:
        said = error.problem if isinstance(error, yaml.MarkedYAMLError) else None
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where is not None else ""
        raise ValueError(
            f"it is not YAML that a safe reader reads: {line}{shortened(said or error)}"
        ) from error


def shortened(value: object, most: int = 200) -> str:
    """A value in words that fit a message, on one line, whatever it is."""
    if isinstance(value, str):
        text = value
    else:
        try:
            text = str(value)
        except (ValueError, RecursionError):  # an integer of thousands of digits
            text = type(value).__name__
    text = "".join(sign if sign.isprintable() else " " for sign in text[: most + 1])
    return text if len(text) <= most else text[:most] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shortened(twice)!r} stands twice")
    return found


class _PlainLoader(yaml.SafeLoader):
    """Of a text that is read in one pass, into values that take memory in proportion to it."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise self._refused("aliases are not read")
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_SCALAR:
            raise self._refused(f"a value has more than {_LONGEST_SCALAR:,} characters")
        if self.depth > _MOST_DEPTH:
            raise self._refused("it is nested too deep")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def _refused(self, words: str) -> yaml.MarkedYAMLError:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return yaml.MarkedYAMLError(problem=words, problem_mark=mark)


def inside(content: Any, *names: Any) -> Any:
    """What lies in mappings in mappings, by its names; None where it does not."""
    for name in names:
        content = content.get(name) if isinstance(content, dict) and isinstance(name, str) else None
    return content


def finite(value: Any) -> float | None:
    """A value that is a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # of an integer that no float can hold
        return None
