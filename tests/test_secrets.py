"""Secrets, given in every possible way: no file and no output of a run contains one."""

import base64
import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import START, composed, free_port, run_command
from kforecast.config.checks import plain, recorded
from kforecast.config.secrets import check_arguments
from kforecast.errors import ConfigError

SECRET = "hushhush-s3cr3t"
NOTHING_HELD_OUT = ["data.validation=0", "data.test=0", "monitor=train/loss"]  # so there is no report
FORMS = [
    SECRET,
    base64.b64encode(f"me:{SECRET}".encode()).decode(),
    base64.b64encode(SECRET.encode()).decode(),
]

QUERIES = "source.queries=[{workload: shop/web, metric: qps, query: up}]"


@contextmanager
def prometheus(status: int = 200) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Answers any query with a daily cycle, or with an error that repeats the request."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            from urllib.parse import parse_qs

            body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked.append(dict(self.headers))
            start, end = (int(body[name][0]) for name in ("start", "end"))
            values = ",".join(
                f'[{second},"{10 + (second - START) % 86400 / 8640}"]'
                for second in range(start, end + 1, 600)
            )
            text = f'{{"status":"success","data":{{"result":[{{"metric":{{}},"values":[{values}]}}]}}}}'
            if status != 200:
                text = '{"status":"error","error":"no"}'
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def assert_nowhere(folder: Path, *said: str) -> None:
    """Check that the output, and all files and names below a folder, contain no form of the secret."""
    for text in said:
        assert not [form for form in FORMS if form in text], text
    for path in folder.rglob("*"):
        assert SECRET not in path.name
        if path.is_file() and path.name != "secret" and "given" not in path.parts:
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
            assert not [form for form in FORMS if form.encode() in content], path


WAYS = {
    "a token in a file": ["source.token_file=secret"],
    "a token in the environment": ["source.token_env=SECRET"],
    "a password in a file": ["source.username=me", "source.password_file=secret"],
    "a password in the environment": ["source.username=me", "source.password_env=SECRET"],
    "a header in the environment": ["source.secret_headers={X-Api-Key: SECRET}"],
    "an interpolation": ["source.headers={X-Scope: '${oc.env:SECRET}'}"],
}
VERBS = {
    "train": ("kforecast-train", ["experiment=smoke", "model.day_of_month=false"]),
    "fetch": ("kforecast-fetch", ["output=history.csv.gz", "window=10min"]),
    "evaluate": ("kforecast-evaluate", ["artifact_dir=model", "evaluate.start=2024-01-03"]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    arguments = ["source=synthetic", "source.days=3", "source.workloads=1", "source.step=600"]
    names = ["experiment=smoke", "artifact_dir=model", *NOTHING_HELD_OUT, "logger=none"]
    done = run_command("kforecast-train", *arguments, *names, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "model"


def asking(url: str, *more: str) -> list[str]:
    moment = f"source.end={START + 3 * 86_400}"
    return [
        "source=prometheus",
        f"source.url={url}",
        QUERIES,
        moment,
        "source.history=3D",
        "source.step=600",
        *more,
    ]


def given(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "secret").write_text(SECRET + "\n")
    return {"SECRET": SECRET}


@pytest.mark.parametrize(
    "verb, way",
    [
        ("train", "an interpolation"),
        ("train", "a password in a file"),
        ("evaluate", "a password in the environment"),
        *(("fetch", way) for way in WAYS),
    ],
)
def test_a_run_that_succeeds(verb: str, way: str, tmp_path: Path, model: Path) -> None:
    command, arguments = VERBS[verb]
    if verb == "evaluate":
        (tmp_path / "model").symlink_to(model)
    with prometheus() as (url, asked):
        more = asking(url, *WAYS[way], *arguments)
        if way == "an interpolation" and verb == "train":
            # A logger's, too; metadata.json records its settings.
            more += ["logger=csv", "+logger.csv.prefix='${oc.env:SECRET}'"]
        elif verb == "train":
            more += NOTHING_HELD_OUT  # the other case writes a report
        done = run_command(command, *more, cwd=tmp_path, env=given(tmp_path))
    assert done.returncode == 0, done.stderr
    sent = [value for headers in asked for value in headers.values()]
    assert any(form in value for value in sent for form in FORMS)
    if verb == "train" and way == "an interpolation":
        # The prefix is part of the column names in Lightning's file, as configured.
        for path in tmp_path.rglob("metrics.csv"):
            path.unlink()
    assert_nowhere(tmp_path, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "verb, failure", [("train", "401"), ("fetch", "401"), ("fetch", "refused"), ("evaluate", "refused")]
)
def test_a_run_that_fails(verb: str, failure: str, tmp_path: Path, model: Path) -> None:
    command, arguments = VERBS[verb]
    if verb == "evaluate":
        (tmp_path / "model").symlink_to(model)
    ways = [
        "source.username=me",
        "source.password_env=SECRET",
        *WAYS["an interpolation"],
        "source.attempts=1",
    ]
    with prometheus(401) as (url, _):
        address = url if failure == "401" else f"http://127.0.0.1:{free_port()}"
        done = run_command(
            command,
            *asking(address, *ways, *arguments),
            cwd=tmp_path,
            env=given(tmp_path) | {"HYDRA_FULL_ERROR": "0"},
        )
    assert (done.returncode, done.stderr.count("error: ")) == (3, 1), done.stderr
    assert_nowhere(tmp_path, done.stdout, done.stderr)


PLAIN = [
    [f"source.url=http://me:{SECRET}@localhost:1"],
    [f"source.url=https://{SECRET}@localhost:1"],
    [f"source.url='http://me:{SECRET}@localhost:1'"],
    ["source.url=http://localhost:1", f"source.headers={{Authorization: Bearer {SECRET}}}"],
    ["source.url=http://localhost:1", f"+source.headers.X-Api-Key={SECRET}"],
    ["source.url=http://localhost:1", f"source.headers={{'X-Auth-Token': {SECRET}}}"],
    ["source.url=http://localhost:1", f"+source.password={SECRET}"],
    ["source.url=http://localhost:1", f"source.token={SECRET}"],
    ["source.url=http://localhost:1", f"++logger.wandb.api_key={SECRET}"],
    ["source.url=http://localhost:1", f"+logger.m={{tracking_uri: 'http://me:{SECRET}@h'}}"],
    ["source.url=http://localhost:1", f"+logger.m={{password: {SECRET}}}"],
    ["source.url=http://localhost:1", f"hydra.job.env_set.MY_TOKEN={SECRET}"],
    [f"--metrics-server-addr=http://me:{SECRET}@localhost:1"],
    [f"--metrics-server-addr=me:{SECRET}@localhost:1"],
    ["--metrics-server-addr", f"http://me:{SECRET}@localhost:1"],
    [f"--dataset-file=https://me:{SECRET}@h/traffic.csv"],
    [f"source.url=http://me:{SECRET}@localhost:1", "-m", "seed=1,2"],
]


@pytest.mark.parametrize("arguments", PLAIN, ids=lambda arguments: arguments[-1].replace(SECRET, "..."))
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"\$\{oc\.env:VARIABLE\}") as caught:
        check_arguments(arguments)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "argument",
    [
        "source.token_env=SECRET",
        "source.token_file=/run/secrets/token",
        "source.secret_headers={Authorization: SECRET}",
        "source.url=http://localhost:9090/a@b",
        "source.password_env=null",
        "source.headers={X-Scope-OrgID: tenant}",
        "source.headers={X-Scope: '${oc.env:SECRET}'}",
        "logger.wandb.api_key=${oc.env:KEY}",
        "source.queries=[{workload: a, metric: token, query: 'rate(tokens{token=\"x\"}[5m:1m] @ 12)'}]",
        "serve.templates={tokens: 'sum(x)'}",
        "--dataset-file=a@b.csv",
        "+logger.m={tracking_uri: 'http://localhost:5000'}",
    ],
)
def test_what_is_no_secret_passes(argument: str) -> None:
    check_arguments([argument])


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_a_command_keeps_nothing_of_a_refused_secret(verb: str, tmp_path: Path, model: Path) -> None:
    command, arguments = VERBS[verb]
    done = run_command(
        command, *asking(f"http://me:{SECRET}@localhost:1", *arguments, "hydra.run.dir=run"), cwd=tmp_path
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: source.url: a secret in plain text")
    assert_nowhere(tmp_path, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "line",
    [f"headers: {{Authorization: Bearer {SECRET}}}", f"url: http://me:{SECRET}@h", f"password: {SECRET}"],
)
def test_a_secret_in_a_file_of_ones_own_is_not_copied(line: str, tmp_path: Path) -> None:
    (tmp_path / "given" / "source").mkdir(parents=True)
    own = "url: http://localhost:1\n" if "url" not in line else ""
    (tmp_path / "given" / "source" / "shop.yaml").write_text(f"defaults: [prometheus]\n{own}{line}\n")
    arguments = ["--config-dir=given", "source=shop", QUERIES, "hydra.run.dir=run"]
    done = run_command("kforecast-train", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert_nowhere(tmp_path, done.stdout, done.stderr)


def test_what_is_recorded_names_the_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    own = "+logger.m={tracking_uri: '${oc.env:SECRET}', tags: ['a ${oc.env:SECRET}', b], name: '${monitor}'}"
    kept = recorded(composed("source=synthetic", own))
    assert SECRET not in repr(kept)
    assert kept["logger"]["m"]["tags"] == ["a ${oc.env:SECRET}", "b"]
    assert kept["logger"]["m"]["name"] == "validation/loss"
    assert SECRET in repr(plain(composed("source=synthetic", own)))
