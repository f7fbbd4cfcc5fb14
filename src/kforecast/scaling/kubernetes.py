"""Kubernetes' REST API, as far as a job in a pod needs it: credentials and JSON requests.

https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/,
https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

import asyncio
import base64
import binascii
import json
import os
import ssl
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from kforecast.errors import ConfigError, SourceError
from kforecast.files.untrusted import inside, shortened
from kforecast.metrics.credentials import read_secret

Manifest = dict[str, Any]

# Where Kubernetes mounts the credentials of a pod.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Seconds until a request times out, attempts of each request, and seconds between the first two of them.
_DEADLINE = 30.0
_ATTEMPTS = 4
FIRST_PAUSE = 0.3
# Statuses after which another attempt may succeed.
_PASSING = (429, 500, 502, 503, 504)


class StatusError(SourceError):
    """The API server answers with a status of failure.

    Attributes
    ----------
    status:
        The HTTP status.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _PassingError(Exception):
    """A failure after which another attempt may succeed."""


@dataclass(frozen=True, repr=False)
class Cluster:
    """An API server and the credentials for it.

    Attributes
    ----------
    url:
        Its base URL.
    tls:
        Whom to trust, and the client's certificate; None for plain HTTP.
    token:
        A bearer token; None if a certificate authenticates.
    """

    url: str
    tls: ssl.SSLContext | None
    token: str | None

    @classmethod
    def of(cls, kubeconfig: str | None) -> Self:
        """The cluster of a kubeconfig's current context; without a kubeconfig, the cluster of this pod.

        Raises
        ------
        ConfigError
            When there is no such file or no pod around us, or its credentials cannot be used.
        """
        return cls._around() if kubeconfig is None else cls._of_kubeconfig(Path(kubeconfig))

    @classmethod
    def _around(cls) -> Self:
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
        if not host or not port:
            raise ConfigError(
                "KUBERNETES_SERVICE_HOST is not set, so this is no pod: give --kubeconfig=FILE to reach a "
                "cluster from outside"
            )
        try:
            token = read_secret(str(SERVICE_ACCOUNT / "token"), None)
            tls = ssl.create_default_context(cafile=SERVICE_ACCOUNT / "ca.crt")
        except (ValueError, OSError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"{SERVICE_ACCOUNT}: {error}; the pod needs automountServiceAccountToken"
            ) from error
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", tls, token)

    @classmethod
    def _of_kubeconfig(cls, path: Path) -> Self:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: the kubeconfig cannot be read: {error}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not YAML: {shortened(error)}") from error
        try:
            context = _named(content, "context", inside(content, "current-context"))
            cluster = _named(content, "cluster", inside(context, "cluster"))
            user = _named(content, "user", inside(context, "user"))
            url = inside(cluster, "server")
            if not isinstance(url, str) or not url.startswith(("https://", "http://")):
                raise ValueError(f"server {shortened(url)!r} is not a URL")
            if unsupported := {"proxy-url", "tls-server-name"} & {*cluster}:
                raise ValueError(f"its cluster has {', '.join(sorted(unsupported))}, which is not supported")
            tls = _tls(path.parent, cluster, user) if url.startswith("https://") else None
            return cls(url.rstrip("/"), tls, _token(path.parent, user))
        except (ValueError, OSError) as error:
            raise ConfigError(f"{path}: {error}") from error


def _named(content: Any, kind: str, name: Any) -> Manifest:
    """The entry of a kubeconfig's list ``contexts``, ``clusters`` or ``users``."""
    if name is None:
        raise ValueError(
            f"{'current-context' if kind == 'context' else f'the {kind} of its context'}: missing"
        )
    entries = inside(content, f"{kind}s")
    for entry in entries if isinstance(entries, list) else []:
        if inside(entry, "name") == name and isinstance(entry.get(kind), dict):
            found: Manifest = entry[kind]
            return found
    raise ValueError(f"no {kind} {shortened(name)!r} in {kind}s; kubectl config view shows the file")


def _token(folder: Path, user: Manifest) -> str | None:
    if unsupported := {"exec", "auth-provider", "username"} & {*user}:
        raise ValueError(
            f"its user authenticates by {', '.join(sorted(unsupported))}, which is not supported; use a "
            "token, tokenFile or a client certificate: kubectl create token NAME makes a token"
        )
    if (file := user.get("tokenFile")) is not None:
        return read_secret(str(folder / file), None)
    token = user.get("token")
    return None if token is None else str(token)


def _tls(folder: Path, cluster: Manifest, user: Manifest) -> ssl.SSLContext:
    ca = _pem(folder, cluster, "certificate-authority")
    tls = ssl.create_default_context(cadata=None if ca is None else ca.decode("ascii", "replace"))
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    certificate, key = (_pem(folder, user, name) for name in ("client-certificate", "client-key"))
    if certificate is not None and key is not None:
        # OpenSSL reads them from files only; temporary ones are readable by their owner alone.
        with ExitStack() as stack:
            files = [stack.enter_context(tempfile.NamedTemporaryFile()) for _ in range(2)]
            for file, pem in zip(files, (certificate, key), strict=True):
                file.write(pem)
                file.flush()
            tls.load_cert_chain(files[0].name, files[1].name, password="")
    return tls


def _pem(folder: Path, entry: Manifest, name: str) -> bytes | None:
    """A PEM text that is in the kubeconfig itself, or in a file that it names."""
    if (data := entry.get(f"{name}-data")) is not None:
        try:
            return base64.b64decode(str(data), validate=True)
        except binascii.Error as error:
            raise ValueError(f"{name}-data is not base64") from error
    return None if (file := entry.get(name)) is None else (folder / str(file)).read_bytes()


class Kubernetes:
    """Requests to the API server of a cluster.

    Each raises :class:`StatusError` for a status of failure, and
    :class:`~kforecast.errors.SourceError` when the server cannot be reached or does not answer in JSON.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def get(self, path: str, **query: str) -> Manifest:
        """Read an object or a list."""
        return self._ask("GET", path, query)

    def post(self, path: str, manifest: Manifest) -> Manifest:
        """Create an object."""
        return self._ask("POST", path, manifest=manifest)

    def put(self, path: str, manifest: Manifest) -> Manifest:
        """Replace an object, unless another has changed it since its ``resourceVersion`` (status 409)."""
        return self._ask("PUT", path, manifest=manifest)

    def _ask(
        self, method: str, path: str, query: dict[str, str] | None = None, manifest: Manifest | None = None
    ) -> Manifest:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_PassingError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential_jitter(FIRST_PAUSE, max=10 * FIRST_PAUSE, jitter=FIRST_PAUSE),
            reraise=True,
        )
        try:
            return asyncio.run(retrying(self._ask_once, method, path, query, manifest))
        except _PassingError as error:
            raise error.__cause__ or error from None

    async def _ask_once(
        self, method: str, path: str, query: dict[str, str] | None, manifest: Manifest | None
    ) -> Manifest:
        cluster = self._cluster
        headers = {"Accept": "application/json"}
        if cluster.token is not None:
            headers["Authorization"] = f"Bearer {cluster.token}"
        said = f"{cluster.url}: {method} {path}"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_DEADLINE)) as session,
                session.request(
                    method,
                    cluster.url + path,
                    params=query,
                    json=manifest,
                    headers=headers,
                    ssl=True if cluster.tls is None else cluster.tls,
                    allow_redirects=False,
                ) as answer,
            ):
                status, body = answer.status, await answer.read()
        except aiohttp.ClientConnectorCertificateError as error:
            raise SourceError(
                f"{cluster.url}: the server's certificate is refused: {error.certificate_error}"
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or f"no answer within {_DEADLINE:g} s"
            raise _PassingError from SourceError(f"{said}: {reason}")
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        if not 200 <= status < 300:
            reason = inside(content, "message") or body[:200].decode("utf-8", "replace")
            failed = StatusError(f"{said}: status {status}: {shortened(reason)}{_remedy(status)}", status)
            if status in _PASSING:
                raise _PassingError from failed
            raise failed
        if not isinstance(content, dict):
            raise SourceError(f"{said}: the answer is not an object in JSON; is it an API server?")
        return content


def _remedy(status: int) -> str:
    if status == 401:
        return "; the token is not valid there"
    if status == 403:
        return "; the service account needs this right (docs/kapacity-job.md)"
    return ""
