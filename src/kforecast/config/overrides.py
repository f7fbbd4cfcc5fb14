"""Hydra's override grammar: quote values, insert overrides into a command line, recognise a sweep."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def _insert(arguments: list[str], overrides: list[str]) -> list[str]:
    """Put overrides before the first one there is: Hydra wants all of them on one side of ``-m``."""
    first = next((i for i, argument in enumerate(arguments) if is_override(argument)), len(arguments))
    return arguments[:first] + overrides + arguments[first:]


def append(arguments: list[str], overrides: list[str]) -> list[str]:
    """Put overrides behind the last one there is, so that they win."""
    last = max(
        (i for i, argument in enumerate(arguments) if is_override(argument)), default=len(arguments) - 1
    )
    return arguments[: last + 1] + overrides + arguments[last + 1 :]


def is_override(argument: str) -> bool:
    """Whether an argument is an override of Hydra's."""
    return ("=" in argument and not argument.startswith("-")) or argument.startswith("~")


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command line runs several jobs: by ``-m``, or because a search does so by itself."""
    searches = [argument for argument in arguments if argument.startswith("hparams_search=")]
    search = searches[-1].partition("=")[2] if searches else "null"
    # A process of one of its jobs is told that it is none.
    return ("hydra.mode=RUN" not in arguments and search not in ("null", "")) or bool(
        {"-m", "--multirun"} & set(arguments)
    )


def quote(text: str, number: bool = False) -> str:
    """Quote a value for Hydra's override grammar; a number stays one."""
    if number and text.lstrip("+-").isdecimal():
        return text
    # Only a quote, and backslashes before one, mean something inside quotes.
    escaped, slashes = "", 0
    for character in literal(text):
        if character == "'":
            escaped += "\\" * slashes + "\\"
        escaped += character
        slashes = slashes + 1 if character == "\\" else 0
    return "'" + escaped + "\\" * slashes + "'"


def typed(text: str) -> str:
    """A value as it is typed behind ``key=`` in a shell: quoted for it and for Hydra where it must be."""
    return text if re.fullmatch(r"[\w./-]+", text) else shlex.quote(quote(text))


def literal(text: str) -> str:
    """Keep omegaconf from reading ``${`` in a user's text as an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
