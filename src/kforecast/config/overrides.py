"""Hydra's override grammar: quote values, insert overrides into a command line, recognise a sweep."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def _insert(arguments: list[str], overrides: list[str]) -> list[str]:
    """Insert overrides before the first one: Hydra accepts overrides on one side of ``-m`` only."""
    first = next((i for i, argument in enumerate(arguments) if is_override(argument)), len(arguments))
    return arguments[:first] + overrides + arguments[first:]


def append(arguments: list[str], overrides: list[str]) -> list[str]:
    """Insert overrides after the last one, so that they win."""
    last = max(
        (i for i, argument in enumerate(arguments) if is_override(argument)), default=len(arguments) - 1
    )
    return arguments[: last + 1] + overrides + arguments[last + 1 :]


def is_override(argument: str) -> bool:
    """Whether an argument is a Hydra override."""
    return ("=" in argument and not argument.startswith("-")) or argument.startswith("~")


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command line runs several jobs: with ``-m``, or with a search."""
    searches = [argument for argument in arguments if argument.startswith("hparams_search=")]
    search = searches[-1].partition("=")[2] if searches else "null"
    # The process of a single job of a search has hydra.mode=RUN.
    return ("hydra.mode=RUN" not in arguments and search not in ("null", "")) or bool(
        {"-m", "--multirun"} & set(arguments)
    )


def quote(text: str, number: bool = False) -> str:
    """Quote a value for Hydra's override grammar; with ``number`` a decimal number stays unquoted."""
    if number and text.lstrip("+-").isdecimal():
        return text
    # Inside quotes only a quote and the backslashes before it need escaping.
    escaped, slashes = "", 0
    for character in literal(text):
        if character == "'":
            escaped += "\\" * slashes + "\\"
        escaped += character
        slashes = slashes + 1 if character == "\\" else 0
    return "'" + escaped + "\\" * slashes + "'"


def typed(text: str) -> str:
    """A value as typed after ``key=`` in a shell, quoted for the shell and for Hydra where necessary."""
    return text if re.fullmatch(r"[\w./-]+", text) else shlex.quote(quote(text))


def literal(text: str) -> str:
    """Escape ``${`` in a user's text, which OmegaConf would read as an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
