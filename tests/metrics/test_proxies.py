"""Sources behind a proxy: which requests go through it, and what its failures say."""

import base64
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from http_proxy import HttpProxy
from hypothesis import given
from hypothesis import strategies as st
from provider import Provider
from test_kapacity import assert_exact
from test_kapacity import source as kapacity
from test_prometheus import Server
from test_prometheus import source as prometheus

from conftest import free_port, run_command
from kforecast.errors import ConfigError, SourceError
from kforecast.metrics import fetching
from kforecast.metrics.proxies import check_proxy, from_environment, shown


@pytest.fixture(autouse=True)
def only_the_variables_of_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.001)


@pytest.mark.parametrize(
    "no_proxy, goes_around",
    [
        ("", False),
        ("*", True),
        ("prom.shop.internal", True),
        ("shop.internal", True),
        (".internal", True),
        ("*.internal", True),
        ("PROM.Shop.Internal", True),
        ("other, prom.shop.internal", True),
        ("other prom.shop.internal:9090", True),
        ("prom.shop.internal:80", False),
        ("rom.shop.internal", False),
        ("10.0.0.0/8", False),
        (",", False),
    ],
)
def test_no_proxy(no_proxy: str, goes_around: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("a_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert (from_environment("prom.shop.internal", 9090, ["a_proxy"]) is None) == goes_around


@pytest.mark.parametrize(
    "host, no_proxy, goes_around",
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.0/30", True),
        ("10.1.2.4", "10.1.2.0/30", False),
        ("10.1.2.4", "2.4", False),
        ("[2001:db8::1]", "2001:db8::/32", True),
        ("[2001:db8::1]", "[2001:db8::1]:9090", True),
        ("[2001:db8::1]", "10.0.0.0/8", False),
        # This machine never.
        ("localhost", "", True),
        ("LOCALHOST.", "", True),
        ("127.9.9.9", "", True),
        ("[::1]", "", True),
        ("[::ffff:127.0.0.1]", "", True),
        ("0.0.0.0", "", True),
        ("127.0.0.1.example.org", "", False),
    ],
)
def test_addresses(host: str, no_proxy: str, goes_around: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("a_proxy", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (from_environment(host, 9090, ["a_proxy"]) is None) == goes_around


@given(secret=st.text("abcXYZ019:@/?#%", min_size=1), host=st.from_regex(r"[a-z]{1,9}", fullmatch=True))
def test_no_message_about_a_proxy_shows_its_password(secret: str, host: str) -> None:
    url = f"ftp://me:hush{secret}@{host}:99999"
    assert shown(url) == f"ftp://{host}:99999"
    with pytest.raises(ValueError, match="is not a URL") as caught:
        check_proxy(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_provider_on_this_machine_is_asked_directly(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    with Provider().serve() as address:
        for host in ("localhost", "127.0.0.1"):
            assert_exact(kapacity(address.replace("localhost", host)).fetch())


def test_a_provider_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with Provider().serve() as address, (proxy := HttpProxy(address)).serve() as url:
        monkeypatch.setenv("http_proxy", url.replace("//", "//me:hush@"))
        assert_exact(kapacity("provider.internal:9090").fetch())
    assert {head.splitlines()[0] for head in proxy.requests} == {"CONNECT provider.internal:9090 HTTP/1.1"}
    assert base64.b64encode(b"me:hush").decode() in proxy.requests[0]


def failure_of(source: Any, caplog: pytest.LogCaptureFixture) -> str:
    with pytest.raises(SourceError) as caught:
        source.fetch()
    assert "hush" not in str(caught.value) + caplog.text
    return str(caught.value)


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_grpc_names_the_proxy_that_fails(
    variable: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    nobody = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(variable, f"http://me:hush@{nobody}")
    said = failure_of(kapacity("provider.internal:9090", attempts=2), caplog)
    assert said.startswith("provider.internal:9090: cannot be reached: Connection refused (2 attempts)")
    assert (
        f"through the proxy http://{nobody} of {variable}; no_proxy=provider.internal goes around it" in said
    )


def test_grpc_through_a_proxy_that_refuses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with HttpProxy(refusal="403 Forbidden").serve() as url:
        monkeypatch.setenv("http_proxy", url)
        said = failure_of(kapacity("provider.internal:9090", attempts=1), caplog)
    assert "HTTP proxy returned response code 403" in said
    assert f"through the proxy {url} of http_proxy" in said


@pytest.mark.parametrize("name, around", [("no_proxy", "internal"), ("NO_PROXY", "*")])
def test_grpc_goes_around_a_proxy(
    name: str, around: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with (proxy := HttpProxy()).serve() as url:
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv(name, around)
        assert "through the proxy" not in failure_of(kapacity("provider.internal:9090", attempts=1), caplog)
    assert proxy.requests == []


@pytest.mark.parametrize(
    "variables, settings",
    [
        ({"http_proxy": "{}"}, {}),
        ({"all_proxy": "{}"}, {}),
        ({"ALL_PROXY": "{}"}, {}),
        ({"http_proxy": "{}", "no_proxy": "elsewhere"}, {}),
        ({"no_proxy": "*"}, {"proxy": "{}"}),
        ({"http_proxy": "http://nobody:1"}, {"proxy": "{}"}),
    ],
)
def test_prometheus_behind_a_proxy(
    variables: dict[str, str], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    with server.serve() as address, (proxy := HttpProxy(address)).serve() as url:
        with_login = url.replace("//", "//m%C3%BCller:hush@")
        for name, text in variables.items():
            monkeypatch.setenv(name, text.format(with_login))
        settings = {name: text.format(with_login) for name, text in settings.items()}
        asked = prometheus("http://prom.internal:9090", concurrency=1, **settings)
        assert len(asked.fetch()) == 121
    assert "hush" not in repr(asked) + str(asked) + asked.model_dump_json() + repr(asked.report)
    assert proxy.requests[0].startswith("POST http://prom.internal:9090/api/v1/query_range HTTP/1.1")
    assert base64.b64encode("müller:hush".encode()).decode() in proxy.requests[0]


@pytest.mark.parametrize(
    "variables, settings",
    [
        ({"HTTP_PROXY": "{}"}, {}),  # as curl
        ({"https_proxy": "{}", "HTTPS_PROXY": "{}"}, {}),
        ({"http_proxy": "{}", "no_proxy": "prom.internal"}, {}),
        ({"http_proxy": "{}", "NO_PROXY": "*"}, {}),
        ({"http_proxy": "{}"}, {"proxy": "none"}),
    ],
)
def test_prometheus_asked_directly(
    variables: dict[str, str],
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (proxy := HttpProxy()).serve() as url:
        for name, text in variables.items():
            monkeypatch.setenv(name, text.format(url))
        asked = prometheus("http://prom.internal:9090", attempts=1, **settings)
        assert "through the proxy" not in failure_of(asked, caplog)
    assert proxy.requests == []


def test_prometheus_on_this_machine_needs_the_key_to_go_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Server().serve() as address, (proxy := HttpProxy(address)).serve() as url:
        monkeypatch.setenv("http_proxy", url)
        prometheus(address).fetch()
        assert proxy.requests == []
        prometheus(address, proxy=url).fetch()
        assert proxy.requests


def test_prometheus_names_the_proxy_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    nobody = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("https_proxy", f"http://me:hush@{nobody}")
    said = failure_of(prometheus("https://prom.internal", attempts=1), caplog)
    assert f"the proxy http://{nobody} of https_proxy; no_proxy=prom.internal goes around it" in said
    said = failure_of(prometheus("http://localhost:1", attempts=1, proxy=f"http://me:hush@{nobody}"), caplog)
    assert f"the proxy http://{nobody} of source.proxy; source.proxy=none goes around it" in said


@pytest.mark.parametrize("url", ["http://prom.internal", "https://prom.internal"])
@pytest.mark.parametrize(
    "refusal, words", [("407 No", "give http_proxy a user and a password"), ("502 No", "HTTP 502")]
)
def test_prometheus_and_a_proxy_that_refuses(
    url: str, refusal: str, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with (asked := HttpProxy(refusal=refusal)).serve() as proxy:
        scheme = url.partition(":")[0]
        monkeypatch.setenv(f"{scheme}_proxy", proxy.replace("//", "//me:hush@"))
        said = failure_of(prometheus(url, attempts=1), caplog)
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:hush').decode()}" in asked.requests[0]
    assert words.replace("http_proxy", f"{scheme}_proxy") in said
    assert f"through the proxy {proxy} of {scheme}_proxy" in said


def test_a_socks_proxy_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://me:hush@proxy:1080")
    asked = prometheus("http://prom.internal")
    with pytest.raises(ConfigError, match=r"ALL_PROXY: socks5h://proxy:1080 is a SOCKS proxy.*no_proxy=prom"):
        asked.check()
    prometheus("http://prom.internal", proxy="none").check()
    prometheus("http://localhost:9090").check()


@pytest.mark.parametrize(
    "proxy, words",
    [
        ("socks5://proxy:1080", "is a SOCKS proxy"),
        ("ftp://proxy", "is not a URL like http://proxy:3128"),
        ("http://proxy:99999", "is not a URL"),
        ("http://me:hush@proxy:3128", "source.proxy: a secret in plain text"),
        ("me:hush@proxy:3128", "source.proxy: a secret in plain text"),
        ("${oc.env:PROXY}", "'ftp://proxy' is not a URL"),
    ],
)
def test_wrong_proxies_are_refused(proxy: str, words: str, tmp_path: Path) -> None:
    arguments = ["source=prometheus", "source.url=http://prom", f"source.proxy='{proxy}'"]
    environment = {"PROXY": "ftp://me:hush@proxy"}
    done = run_command("kforecast-fetch", *arguments, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert words in done.stderr
    assert "hush" not in done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("error: ")] == []
