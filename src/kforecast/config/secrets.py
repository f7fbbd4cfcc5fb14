"""Secrets that stand in plain text where a run would keep them: refused, and never repeated in a message."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kforecast.errors import ConfigError

# Words of a key or a header whose value is a secret.
_WORDS = re.compile(
    r"authori[sz]ation|cookie|token|secret|passw(or)?d|passphrase|api[-_]?key|access[-_]?key|private[-_]?key"
    r"|credential|(^|[-_])auth($|[-_])",
    re.IGNORECASE,
)
# Keys that only name where a secret is.
_NAMED = re.compile(r"_(file|env)$|^secret_headers$")
# A user, a password or a token before the host of a URL.
_IN_URL = re.compile(r"://[^/?#\s'\"]+@")
# What is looked up elsewhere when it is needed.
_REFERENCE = "${"
# Names of metrics and workloads, labels and queries: anyone's words.
_WORDS_OF_USERS = ("queries", "targets", "templates", "train_config", "workload", "metric")

# Where a mapping of an override may hold settings of servers.
_SECTIONS = ("source", "logger", "callbacks", "hydra")

_ADVICE = (
    "a secret in plain text, which the run folder would keep; name the file or the environment variable that "
    "holds it (source.token_file, source.token_env, source.username with source.password_file or "
    "source.password_env, source.secret_headers={HEADER: VARIABLE}), or write ${oc.env:VARIABLE}"
)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse a command line with a secret in it, before Hydra writes it down.

    Raises
    ------
    ConfigError
        Naming the key, not the value.
    """
    for argument in arguments:
        key, _, value = argument.lstrip("+~").partition("=")
        key = key if value else "an argument"
        where = value or argument
        headers = key.rpartition(".")[2] == "headers" and _WORDS.search(value) and _REFERENCE not in value
        # What a mapping in the grammar of overrides holds: {name: value}.
        inside = re.findall(r"""[{,]\s*['"]?([\w-]+)['"]?\s*:\s*['"]?(?!\$\{|null\b)[^\s'",}]""", value)
        named = key.startswith(_SECTIONS) and any(map(_is_secret, inside))
        plain = _REFERENCE not in value and value not in ("", "null") and _is_secret(key.rpartition(".")[2])
        of_address = key in ("source.address", "--metrics-server-addr") and "@" in value
        if _IN_URL.search(where) or headers or (named and not _quotes(key)) or plain or of_address:
            raise ConfigError(f"{key}: {_ADVICE}")


def check_content(content: object) -> None:
    """Refuse a configuration with a secret in it.

    Parameters
    ----------
    content:
        Plain values, interpolations as they are written.

    Raises
    ------
    ConfigError
        Naming the key, not the value.
    """
    for key in _secrets(content):
        raise ConfigError(f"{key}: {_ADVICE}")


def without_secrets(text: str) -> str:
    """A library's message without the user and the password of an address that it quotes."""
    return _IN_URL.sub("://", text)


def forget(folder: Path) -> None:
    """Remove what Hydra has kept of a configuration in a folder."""
    for name in ("config.yaml", "overrides.yaml", "hydra.yaml"):
        (folder / name).unlink(missing_ok=True)


def _secrets(content: object, path: str = "") -> Iterator[str]:
    if isinstance(content, dict):
        for name, value in content.items():
            key = f"{path}.{name}" if path else str(name)
            if name in _WORDS_OF_USERS or _NAMED.search(str(name)):
                continue
            if isinstance(value, str) and value and _REFERENCE not in value and _is_secret(str(name)):
                yield key
            yield from _secrets(value, key)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _secrets(value, f"{path}[{number}]")
    elif isinstance(content, str) and _IN_URL.search(content):
        yield path


def _is_secret(name: str) -> bool:
    return bool(_WORDS.search(name)) and not _NAMED.search(name)


def _quotes(key: str) -> bool:
    """Whether what a key holds are words of users."""
    return any(part in key.split(".") for part in (*_WORDS_OF_USERS, "secret_headers"))


def named_only(content: Any, written: Any) -> Any:
    """Resolved values, but what came from the environment as it is written.

    Parameters
    ----------
    content, written:
        The same plain values, with interpolations resolved and not.
    """
    if isinstance(content, dict) and isinstance(written, dict):
        return {key: named_only(value, written.get(key)) for key, value in content.items()}
    if isinstance(content, list) and isinstance(written, list):
        return [named_only(*pair) for pair in zip(content, written, strict=True)]
    return written if isinstance(written, str) and "oc.env" in written else content
