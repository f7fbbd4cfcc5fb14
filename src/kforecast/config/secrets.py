"""Refuse secrets in plain text where a run would record them, and never repeat one in a message."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from kforecast.errors import ConfigError

# A key or a header with one of these words holds a secret.
_WORDS = re.compile(
    r"authori[sz]ation|cookie|token|secret|passw(or)?d|passphrase|api[-_]?key|access[-_]?key|private[-_]?key"
    r"|credential|(^|[-_])auth($|[-_])",
    re.IGNORECASE,
)
# Keys that only say where a secret is, and keys whose content is the user's own names and queries.
_EXEMPT = re.compile(
    r".*_(file|env)|secret_headers|queries|targets|templates|train_config|workload|metric|timezone"
)
# A user, a password or a token before the host of a URL.
_IN_URL = re.compile(r"://[^/?#\s'\"]+@")
# Resolved elsewhere, and only when it is needed.
_REFERENCE = "${"

_ADVICE = (
    "a secret in plain text, which the run folder would keep; name the file or the environment variable that "
    "holds it (source.token_file, source.token_env, source.username with source.password_file or "
    "source.password_env, source.secret_headers={HEADER: VARIABLE}), or write ${oc.env:VARIABLE}"
)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse a command line with a secret in it, before Hydra records it.

    Raises
    ------
    ConfigError
        Naming the key, not the value.
    """
    parser = OverridesParser.create()
    for argument in arguments:
        key, equals, value = argument.lstrip("+~").partition("=")
        if _IN_URL.search(argument):
            raise ConfigError(f"{key if equals and not _IN_URL.search(key) else 'an argument'}: {_ADVICE}")
        try:
            override = parser.parse_override(argument)
        except HydraException:  # a flag, or an override that Hydra will refuse and repeat
            override = None
        if override is not None and not override.is_sweep_override():
            tree = override.value()
        else:
            word = _WORDS.search(value) if "{" in value else None
            tree = {word[0]: value} if word else value
        for name in reversed(key.split(".")):
            tree = {name: tree}
        check_content(tree)


def check_content(content: object) -> None:
    """Refuse a configuration with a secret in it.

    Parameters
    ----------
    content:
        Plain values with unresolved interpolations.

    Raises
    ------
    ConfigError
        Naming the key, not the value.
    """
    for key in _secrets(content):
        raise ConfigError(f"{key}: {_ADVICE}")


def without_secrets(text: str) -> str:
    """Remove the user and the password from URLs in a library's message."""
    return _IN_URL.sub("://", text)


def forget(folder: Path) -> None:
    """Remove Hydra's copies of a configuration from a folder."""
    for name in ("config.yaml", "overrides.yaml", "hydra.yaml"):
        (folder / name).unlink(missing_ok=True)


def named_only(content: Any, written: Any) -> Any:
    """Resolved values, except that values from the environment keep their interpolation.

    Parameters
    ----------
    content, written:
        The same plain values with resolved and with unresolved interpolations.
    """
    if isinstance(content, dict) and isinstance(written, dict):
        return {key: named_only(value, written.get(key)) for key, value in content.items()}
    if isinstance(content, list) and isinstance(written, list):
        return [named_only(*pair) for pair in zip(content, written, strict=True)]
    return written if isinstance(written, str) and "oc.env" in written else content


def _secrets(content: object, path: str = "") -> Iterator[str]:
    if isinstance(content, dict):
        for name, value in content.items():
            key = f"{path}.{name}" if path else str(name)
            if _EXEMPT.fullmatch(str(name)):
                continue
            plain = type(value) in (str, int, float) and value and _REFERENCE not in str(value)
            if plain and _WORDS.search(str(name)):
                yield key
            yield from _secrets(value, key)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _secrets(value, f"{path}[{number}]")
    elif isinstance(content, str):
        of_address = path in ("source.address", "source.proxy", "--metrics-server-addr") and "@" in content
        if of_address or _IN_URL.search(content):
            yield path
