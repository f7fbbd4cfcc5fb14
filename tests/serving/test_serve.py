"""``kforecast-serve`` as a process: answers over HTTP and gRPC, signals, bad settings."""

import json
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from untrained import SERIES, rows_of, save

from conftest import BIN, HANG, free_port, run_command
from kforecast.serving.proto import externalscaler_pb2 as pb
from kforecast.serving.proto import externalscaler_pb2_grpc as pb_grpc

TLS = ("serve.tls.cert=cert.pem", "serve.tls.key=key.pem")
ARGUMENTS = ("source=csv", "serve.replay=true", "source.path=traffic.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("serve")
    save(made / "model")
    rows_of(100.0, 0).to_csv(made / "traffic.csv", index=False)
    (made / "token").write_text("secret\n")
    authority = trustme.CA()
    for name in ("", "client_"):  # of the server, and of a client
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(made / f"{name}cert.pem")
        issued.private_key_pem.write_to_path(made / f"{name}key.pem")
    authority.cert_pem.write_to_path(made / "ca.pem")
    return made


def get(url: str, token: str = "", context: ssl.SSLContext | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=HANG, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


@contextmanager
def server(
    folder: Path,
    *arguments: str,
    source: Sequence[str] = ARGUMENTS,
    address: str = "",
    context: ssl.SSLContext | None = None,
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running server that is ready: its address, and its process; with a context over TLS."""
    address = address or f"localhost:{free_port()}"
    ready = f"http{'' if context is None else 's'}://{address}/readyz"
    command = [str(BIN / "kforecast-serve"), *source, "artifact_dir=model", f"serve.address={address}"]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen([*command, *arguments], cwd=folder, stdout=log, stderr=log, text=True)
    try:
        until = time.monotonic() + HANG
        while get(ready, context=context)[0] != 200:
            assert process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < until, (folder / "serve.log").read_text()
            time.sleep(0.1)
        yield address, process
    finally:
        process.kill()
        process.wait(timeout=HANG)


def test_a_server_from_start_to_sigterm(folder: Path) -> None:
    grpc_address = f"localhost:{free_port()}"
    with server(folder, f"serve.grpc={grpc_address}", "serve.token_file=token") as (address, process):
        assert get(f"http://{address}/healthz")[0] == 200
        asked = f"http://{address}/forecast?workload=shop/a&metric=qps"
        assert get(asked)[0] == 401
        assert get(asked, "wrong")[0] == 401
        status, text = get(asked, "secret")
        answer: dict[str, Any] = json.loads(text)
        assert status == 200, text
        assert answer["value"] == max(answer["forecast"], answer["observed"])
        assert (answer["workload"], answer["metric"], answer["window"]) == ("shop/a", "qps", 4 * 3600)
        for wrong, code, words in (
            ("", 400, "workload and metric missing"),
            ("?workload=shop/a&metric=none", 404, "known: shop/a qps"),
            ("?workload=shop/a&metric=qps&window=1e9", 400, "the horizon, 14400 seconds"),
            ("?workload=shop/a&metric=qps&lead=soon", 400, "not a number"),
            ("?workload=shop/a&metric=qps&lead=0&window=0", 400, "not both"),
            ("?workload=shop/a&metric=qps&quantile=2", 400, "0.995"),
            ("?workload=shop/a&metric=qps&quartile=0.5", 400, "unknown parameter 'quartile'"),
        ):
            status, text = get(f"http://{address}/forecast{wrong}", "secret")
            assert (status, words in json.loads(text)["error"]) == (code, True), text
        metrics = get(f"http://{address}/metrics", "secret")[1]
        for workload, metric in SERIES:
            assert f'kforecast_observed{{metric="{metric}",workload="{workload}"}}' in metrics
        assert "shop/b" in get(f"http://{address}/", "secret")[1]
        assert "/forecast" in json.loads(get(f"http://{address}/openapi.json", "secret")[1])["paths"]
        assert get(f"http://{address}/nothing", "secret")[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=HANG) == 143
    log = (folder / "serve.log").read_text()
    assert "Only this machine can reach it" in log
    assert "Traceback" not in log


def test_a_client_certificate_stands_for_the_token_of_keda(folder: Path) -> None:
    """Which sends none to an external scaler; clients of HTTP have the token."""
    grpc_address = f"localhost:{free_port()}"
    given = [*TLS, "serve.tls.client_ca=ca.pem", "serve.token_file=token", f"serve.grpc={grpc_address}"]
    ca, key, cert = ((folder / f"{name}.pem").read_bytes() for name in ("ca", "client_key", "client_cert"))
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    metadata = {"workload": "shop/a", "metric": "qps", "target": "50"}
    request = pb.GetMetricsRequest(scaledObjectRef=pb.ScaledObjectRef(scalerMetadata=metadata))

    def ask(*credentials: bytes) -> Any:
        secure = grpc.ssl_channel_credentials(ca, *credentials)
        with grpc.secure_channel(grpc_address, secure) as channel:
            (metric,) = pb_grpc.ExternalScalerStub(channel).GetMetrics(request, timeout=HANG).metricValues
            return metric.metricValueFloat

    with server(folder, *given, context=context) as (address, _):
        asked = f"https://{address}/forecast?workload=shop/a&metric=qps"
        assert get(asked, context=context)[0] == 401
        assert json.loads(get(asked, "secret", context)[1])["value"] == pytest.approx(ask(key, cert))
        with pytest.raises(grpc.RpcError) as error:
            ask()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_port_in_use_is_named_and_ctrl_c_ends_cleanly(folder: Path) -> None:
    with server(folder) as (address, process):
        done = run_command(
            "kforecast-serve", "artifact_dir=model", *ARGUMENTS, f"serve.address={address}", cwd=folder
        )
        assert done.returncode == 3, done.stderr
        assert "serve.address=HOST:PORT" in done.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=HANG) == 130
    assert "Traceback" not in (folder / "serve.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["artifact_dir=null"], "give artifact_dir=DIR"),
        (["artifact_dir=none"], "no such directory"),
        (["retrain.dir=models"], "not both"),
        (["serve.shard=3/3"], "0/3 to 2/3"),
        (["serve.window=1e6"], "beyond the horizon, 14400 s"),
        (["serve.quantile=1"], "serve.quantile"),
        (["serve.tls.cert=token"], "cert and key go together"),
        (["serve.tls.client_ca=ca.pem"], "client_ca needs cert and key"),
        ([*TLS, "serve.tls.client_ca=token", "serve.grpc=localhost:0"], "token: not a certificate in PEM"),
        ([*TLS, "serve.tls.client_ca=ca.pem"], "only clients of serve.grpc show certificates"),
        (["serve.token_file=missing"], "missing: cannot be read"),
        (["serve.address=8080"], "serve.address"),
    ],
)
def test_bad_settings_are_refused_in_one_line(folder: Path, arguments: list[str], words: str) -> None:
    done = run_command("kforecast-serve", "artifact_dir=model", *ARGUMENTS, *arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
