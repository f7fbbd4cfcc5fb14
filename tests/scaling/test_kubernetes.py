"""Kubernetes' REST API: credentials of a pod and of a kubeconfig, failures in words."""

import base64
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from api_server import TOKEN, ApiServer

from conftest import free_port
from kforecast.errors import ConfigError, SourceError
from kforecast.scaling import kubernetes
from kforecast.scaling.kubernetes import Cluster, Kubernetes, StatusError

POD = "/api/v1/namespaces/shop/pods/a"


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    server = ApiServer({POD: {"kind": "Pod"}})
    with server.serve():
        yield server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "FIRST_PAUSE", 0.001)


def changed(path: Path, entry: str, **change: Any) -> str:
    """Change the cluster or the user of a kubeconfig; None removes a key."""
    content = yaml.safe_load(path.read_text())
    (one,) = content[f"{entry}s"]
    one[entry] = {key: value for key, value in (one[entry] | change).items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    return str(path)


def works(cluster: Cluster) -> bool:
    return Kubernetes(cluster).get(POD) == {"kind": "Pod"}


def test_the_credentials_of_a_pod(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=r"token: .*automountServiceAccountToken"):
        Cluster.of(None)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "ca.crt").write_bytes(api.authority.cert_pem.bytes())
    assert works(Cluster.of(None))
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        Cluster.of(None)


def test_outside_of_a_pod_a_kubeconfig_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="give --kubeconfig=FILE"):
        Cluster.of(None)


def test_a_kubeconfig_may_name_files_beside_it(api: ApiServer, tmp_path: Path) -> None:
    path = api.kubeconfig(tmp_path, tokenFile="token")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "ca.pem").write_bytes(api.authority.cert_pem.bytes())
    change = {"certificate-authority-data": None, "certificate-authority": "ca.pem"}
    assert works(Cluster.of(changed(path, "cluster", **change)))


def test_a_kubeconfig_may_hold_a_client_certificate(api: ApiServer, tmp_path: Path) -> None:
    client = trustme.CA().issue_cert("job@example.com")
    pem, key = (blob.bytes() for blob in (client.cert_chain_pems[0], client.private_key_pem))
    given = {"client-certificate-data": base64.b64encode(pem).decode()}
    (tmp_path / "key.pem").write_bytes(key)
    user = given | {"client-key": "key.pem", "token": TOKEN}
    assert works(Cluster.of(str(api.kubeconfig(tmp_path, **user))))
    (tmp_path / "key.pem").write_bytes(trustme.CA().issue_cert("b@c.de").private_key_pem.bytes())
    with pytest.raises(ConfigError, match=r"kubeconfig: .*KEY_VALUES_MISMATCH"):
        Cluster.of(str(tmp_path / "kubeconfig"))


def test_only_the_named_authority_is_trusted(api: ApiServer, tmp_path: Path) -> None:
    other = base64.b64encode(trustme.CA().cert_pem.bytes()).decode()
    path = api.kubeconfig(tmp_path)
    cluster = Cluster.of(changed(path, "cluster", **{"certificate-authority-data": other}))
    with pytest.raises(SourceError, match="certificate is refused"):
        works(cluster)
    assert works(Cluster.of(changed(path, "cluster", **{"insecure-skip-tls-verify": True})))
    assert isinstance(cluster.tls, ssl.SSLContext)
    assert TOKEN not in repr(cluster)


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: [", "not YAML"),
        ("[]", "current-context: missing"),
        ("{current-context: x, contexts: [{name: y, context: {}}]}", "no context 'x' in contexts"),
        ("{current-context: x, contexts: [{name: x, context: {cluster: c}}]}", "no cluster 'c' in clusters"),
    ],
)
def test_what_is_wrong_with_a_kubeconfig_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(ConfigError, match=said):
        Cluster.of(str(tmp_path / "kubeconfig"))


def test_other_ways_to_authenticate_are_refused(api: ApiServer, tmp_path: Path) -> None:
    path = api.kubeconfig(tmp_path, exec={"command": "aws"})
    with pytest.raises(ConfigError, match=r"authenticates by exec, .* kubectl create token"):
        Cluster.of(str(path))
    with pytest.raises(ConfigError, match="is not a URL"):
        Cluster.of(changed(path, "cluster", server="here"))
    with pytest.raises(ConfigError, match="cannot be read"):
        Cluster.of(str(tmp_path / "nowhere"))


def test_only_passing_failures_are_tried_again(api: ApiServer, tmp_path: Path) -> None:
    asked = Kubernetes(Cluster.of(str(api.kubeconfig(tmp_path))))
    for planned, requests in (([503, 429, 500], 4), ([503] * 4, 4), ([403], 1)):
        api.requests, api.failures = [], {("GET", POD): [*planned]}
        if len(planned) == 3:
            assert asked.get(POD)
        else:
            with pytest.raises(StatusError, match="planned") as failed:
                asked.get(POD)
            assert failed.value.status == planned[-1]
        assert len(api.requests) == requests
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:\d+: GET /: .*connect"):
        Kubernetes(Cluster(f"http://127.0.0.1:{free_port()}", None, None)).get("/")
