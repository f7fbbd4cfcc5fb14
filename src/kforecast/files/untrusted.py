"""Read files from untrusted sources in bounded memory and time; nothing in them is executed.

Each function raises a ValueError with the reason; the caller adds the name of the file.
"""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import yaml

# Deeper than any file of ours, and far below Python's recursion limit.
_MOST_DEPTH = 64
# Longest text of one value: parsing a number of several megabytes takes minutes.
_LONGEST_SCALAR = 4096
_MOST_BITS = 1024


def read_file(path: Path, most: int) -> bytes:
    """Read a regular file, or a link to one.

    Raises
    ------
    ValueError
        When it is something else (a device or a pipe may be endless), or has more than ``most`` bytes.
    OSError
        When it cannot be read.
    """
    # O_NONBLOCK: opening a pipe must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is not a regular file")
        if about.st_size > most:
            raise ValueError(f"it has more than {most:,} bytes, the limit for such a file")
        content = file.read(about.st_size + 1)
    if len(content) > about.st_size:  # some files in /proc do, and are endless
        raise ValueError("it grows while being read")
    return content


def parse_json(content: bytes, most_values: int) -> Any:
    """Parse JSON; no object in it may repeat a key.

    Parameters
    ----------
    most_values:
        Maximum number of numbers, texts, lists and objects, approximately. In memory these may take thirty
        times the size of the text.

    Raises
    ------
    ValueError
        When it is not such JSON, or exceeds a limit.
    """
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > most_values:
        raise ValueError(f"it holds more than {most_values:,} values")
    try:
        return json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_jsons(content: bytes, most_values: int) -> list[Any]:
    """Parse JSON values that stand one after the other, as ``jq`` prints them; as :func:`parse_json`."""
    try:
        return [parse_json(content, most_values)]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
    text = content.decode("utf-8").strip()
    decoder, found, at = json.JSONDecoder(object_pairs_hook=_unique), [], 0
    while at < len(text):
        value, end = decoder.raw_decode(text, at)
        found.append(value)
        at = end + len(text[end : end + 1000]) - len(text[end : end + 1000].lstrip())
    return found


def parse_yaml(text: str, most_values: int, *, aliases: bool = False) -> Any:
    """Parse YAML into plain values with PyYAML's safe loader; no mapping in it may repeat a key.

    Parameters
    ----------
    most_values:
        Maximum number of values, approximately. The loader reads about ten thousand per second.
    aliases:
        Whether to accept aliases. Each copy counts: a few lines can stand for billions of values.

    Raises
    ------
    ValueError
        When the text is not YAML, has object tags, repeats a key, or exceeds a limit: ``most_values``,
        64 levels, 4,096 characters or 1,024 bits per value.
    """
    if sum(map(text.count, ",[{\n")) > most_values:
        raise ValueError(f"it holds more than {most_values:,} values")
    try:
        loader = _BoundedLoader(text, most_values, aliases)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        prefix = "" if isinstance(error, _Refused) else "not YAML: "
        raise ValueError(f"{prefix}{line}{shortened(problem)}") from error
    except (ValueError, OverflowError) as error:  # PyYAML's reaction to "\U99999999"
        raise ValueError(f"not YAML: {shortened(error)}") from error


def shortened(value: object, most: int = 200) -> str:
    """Any value as text on one line, shortened for a message."""
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
        raise ValueError(f"the key {shortened(twice)!r} appears twice")
    return found


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that this module refuses to load."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _BoundedLoader(yaml.SafeLoader):
    """A safe loader in one pass, whose result takes memory in proportion to the limits."""

    def __init__(self, text: str, most_values: int, aliases: bool) -> None:
        super().__init__(text)
        self._most_values, self._aliases = most_values, aliases
        self._values = self._depth = self._deepest = 0
        # Values and levels of each anchor whose node is complete.
        self._sizes: dict[str, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        values, deepest = self._values, self._deepest
        self._depth += 1
        self._deepest = self._depth
        if index is not None or not isinstance(parent, yaml.MappingNode):  # not a key
            self._values += 1
        if isinstance(event, yaml.AliasEvent):
            self._count_alias(event)
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_SCALAR:
            place = index.value if isinstance(index, yaml.ScalarNode) else "a value"
            raise _Refused(f"{place} has more than {_LONGEST_SCALAR:,} characters", event.start_mark)
        if self._deepest > _MOST_DEPTH:
            raise _Refused(f"nested more than {_MOST_DEPTH} levels deep", event.start_mark)
        if self._values > self._most_values:
            source = "aliases expand to " if self._sizes else ""
            raise _Refused(f"{source}more than {self._most_values:,} values", event.start_mark)
        node = super().compose_node(parent, index)
        if event.anchor is not None and not isinstance(event, yaml.AliasEvent):
            self._sizes[event.anchor] = self._values - values, self._deepest - self._depth
        self._depth -= 1
        self._deepest = max(deepest, self._deepest)
        return node

    def _count_alias(self, event: yaml.AliasEvent) -> None:
        if not self._aliases:
            raise _Refused("aliases are not allowed", event.start_mark)
        if event.anchor in self.anchors and event.anchor not in self._sizes:
            raise _Refused(f"the alias *{event.anchor} is inside its own anchor", event.start_mark)
        values, levels = self._sizes.get(event.anchor or "", (0, 0))  # PyYAML refuses an unknown anchor
        self._values += values
        self._deepest += levels

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (key.tag, key.value) in seen:
                raise _Refused(f"the key {shortened(key.value)!r} appears twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            # A date like 2024-99-99, a number with too many digits, a tag that does not fit its value.
            kind = node.tag.rpartition(":")[2]
            raise _Refused(f"{shortened(node.value, 60)!r} is not of type {kind}", node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise _Refused(f"the number {shortened(node.value, 60)} is too large", node.start_mark)
        return value


def inside(content: Any, *names: Any) -> Any:
    """Look up a value in nested mappings; None when a name is missing."""
    for name in names:
        content = content.get(name) if isinstance(content, dict) and isinstance(name, str) else None
    return content


def finite(value: Any) -> float | None:
    """The value as a float when it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the range of floats
        return None
