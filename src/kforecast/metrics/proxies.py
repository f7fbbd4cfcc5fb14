"""Proxies on the way to a server, chosen from the environment as curl chooses them.

https://everything.curl.dev/usingcurl/proxies/env.html
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from kforecast.metrics.credentials import is_loopback

# An entry of no_proxy that names a port, too.
_WITH_PORT = re.compile(r"(\[[^]]*\]|[^:]*):([0-9]+)")


@dataclass(frozen=True)
class Proxy:
    """A proxy, and where it was set.

    Attributes
    ----------
    url:
        May hold a user and a password, which no message shows.
    origin:
        The environment variable or the key that sets it.
    around:
        How to go around it.
    """

    url: str
    origin: str
    around: str

    def __str__(self) -> str:
        return f"the proxy {shown(self.url)} of {self.origin}"

    @property
    def way(self) -> str:
        """The end of a message about a failure."""
        return f", through {self}; {self.around} goes around it"


def from_environment(
    server: str,
    port: int | None,
    variables: Sequence[str],
    exceptions: Sequence[str] = ("no_proxy", "NO_PROXY"),
) -> Proxy | None:
    """The proxy for a server; None for the direct way, as always to this machine.

    Parameters
    ----------
    server, port:
        Host name or IP address of the server, and its port.
    variables, exceptions:
        Environment variables that hold a proxy, and those that list servers without one; the first that is
        set decides.
    """
    host = server.strip("[]").rstrip(".").lower()
    url, origin = _first_set(variables)
    if not url or is_loopback(host):
        return None
    excepted, _ = _first_set(exceptions)
    if any(_holds(entry, host, port) for entry in re.split(r"[\s,]+", excepted.lower())):
        return None
    return Proxy(url if "//" in url else f"http://{url}", origin, f"no_proxy={host}")


def _first_set(variables: Sequence[str]) -> tuple[str, str]:
    found = ((os.environ.get(name, "").strip(), name) for name in variables)
    return next((pair for pair in found if pair[0]), ("", ""))


def _holds(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of ``no_proxy`` holds for a server: a name, domain, address, network or ``*``."""
    if match := _WITH_PORT.fullmatch(entry):
        entry = match[1]
        if int(match[2]) != port:
            return False
    name = entry.strip("[]").removeprefix("*.").strip(".")
    if name in ("", "*"):
        return name == "*"
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except (ValueError, TypeError):  # a name, or an address of the other family
        return host == name or host.endswith(f".{name}")


def check_proxy(url: str) -> str:
    """Check that the URL of a proxy is one of HTTP.

    Raises
    ------
    ValueError
        When it is not; the message shows no password.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme.lower().startswith("socks"):
        raise ValueError(f"{shown(url)} is a SOCKS proxy, and only HTTP proxies are supported")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{shown(url)!r} is not a URL like http://proxy:3128")
    return url


def shown(url: str) -> str:
    """The URL without user and password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url.rpartition("@")[2]
