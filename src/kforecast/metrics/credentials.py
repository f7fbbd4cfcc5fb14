"""TLS and credentials for sources that ask a server.

A configuration names the file or environment variable that holds a secret, never the secret itself, so that
no configuration, log, checkpoint or metadata can show it.
"""

import ipaddress
import os
import ssl
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


def read_secret(file: str | None, variable: str | None) -> str | None:
    """Read a secret from a file or an environment variable; None when neither is named.

    Raises
    ------
    ValueError
        When it cannot be read, is empty, or has more than one line.
    """
    if file is not None:
        try:
            secret = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: cannot be read: {_reason(error)}") from error
        named = file
    elif variable is not None:
        secret, named = os.environ.get(variable, "").strip(), f"the environment variable {variable}"
    else:
        return None
    if not secret or not secret.isprintable():
        raise ValueError(f"{named} {'holds no secret' if not secret else 'is not one line of text'}")
    return secret


def _check_file(path: str) -> str:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {_reason(error)}") from error
    return path


def _check_variable(name: str) -> str:
    read_secret(None, name)
    return name


def _check_secret_file(path: str) -> str:
    read_secret(path, None)
    return path


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


PemFile = Annotated[str, AfterValidator(_check_file)]
SecretFile = Annotated[str, AfterValidator(_check_secret_file)]
SecretVariable = Annotated[str, AfterValidator(_check_variable)]


class Tls(BaseModel):
    """Certificates to verify a server and to authenticate to it; all files are PEM."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    enabled: bool = False
    """Use TLS with the default certificate authorities; setting any other key enables TLS, too."""
    ca: PemFile | None = None
    """Certificate authority to trust instead of the default ones."""
    cert: PemFile | None = None
    """Client certificate, for servers that require one (mutual TLS)."""
    key: PemFile | None = None
    """Private key of the client certificate."""
    server_name: str | None = None
    """Host name in the server's certificate, where it differs from the address."""

    @property
    def wanted(self) -> bool:
        """Whether to use TLS."""
        return self.enabled or any((self.ca, self.cert, self.key, self.server_name))

    def context(self) -> ssl.SSLContext:
        """The settings as an SSLContext of Python."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            # Without a password argument, OpenSSL would prompt for one at the terminal.
            context.load_cert_chain(self.cert, self.key, password="")
        return context

    @model_validator(mode="after")
    def _holds_together(self) -> "Tls":
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: give both, or neither")
        try:
            self.context()
        except ssl.SSLError as error:
            files = " or ".join(filter(None, (self.ca, self.cert, self.key)))
            raise ValueError(f"{files}: not valid PEM, or not a matching pair: {error.reason}") from error
        return self


def is_loopback(host: str) -> bool:
    """Whether traffic to a host stays on this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    # The unspecified address, 0.0.0.0 or ::, connects to this machine, too.
    return address.is_loopback or address.is_unspecified
