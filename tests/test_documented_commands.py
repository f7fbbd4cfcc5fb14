"""Every command in README.md and docs/ is valid: its flags, keys, options and values."""

import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import kforecast
from conftest import composed, run_command
from kforecast.config.checks import CONF_DIR, check_evaluate_settings, check_train_settings, plain
from test_python_api import WINDOW, traffic

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("README*.md"), ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Options of Hydra, some of them with a value.
HYDRA = {"--help", "--cfg", "job", "-m", "--multirun", "-sc", "install=bash", "--resolve"}
_COMMAND = re.compile(
    r"^(?:[A-Z_]+=\S+ )*(?:\S*/)?(?P<name>kforecast-[a-z-]+|python scripts/\w+\.py|torchrun|srun|make)(?= |$)"
)


class Command(NamedTuple):
    """A command line on a page."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """The words of the line, with a number for each shell variable."""
        text = re.sub(r"\$\{?\w+\}?", "2", self.line)
        return shlex.split(text, comments=True)

    @property
    def verb(self) -> str | None:
        """The primary config of the command; None for a program that is not ours."""
        module = r"-m kforecast\.(?:\w+\.)*(\w+)|scripts/(?!benchmark|pretrain)(\w+)\.py"
        if match := re.search(module, self.line):
            return match[1] or match[2]
        match = re.search(r"kforecast-([a-z-]+)(?= |$)", self.line)
        return match[1].replace("-", "_") if match else None

    @property
    def arguments(self) -> list[str]:
        """The arguments of the command."""
        words = self.words
        begin = next(
            place
            for place, word in enumerate(words)
            if re.search(r"kforecast[-.][\w.-]+$|^scripts/\w+\.py$", word)
        )
        return words[begin + 1 :]


def commands(page: Path) -> Iterator[Command]:
    """The commands in code blocks, and the complete ones in running text."""
    text = page.read_text(encoding="utf-8")
    for number, fence in enumerate(re.split(r"^```.*$", text, flags=re.MULTILINE)):
        inside = number % 2 == 1
        for line in re.sub(r"\\\n\s*", "", fence).splitlines():
            code = line.strip().removeprefix("$ ") if inside or line.startswith("    ") else ""
            if _COMMAND.match(code):
                yield Command(page.name, code)
        if not inside:
            for code in re.findall(r"`([^`\n]+)`", fence):
                if _COMMAND.match(code) and "..." not in code and " " in code:
                    yield Command(page.name, code)


FOUND = [command for page in PAGES for command in commands(page)]
OURS = [command for command in FOUND if command.verb is not None]
# A line that several pages have is composed once.
LINES = [*{command.line: command for command in OURS}.values()]


def test_the_reader_finds_commands() -> None:
    assert len(OURS) > 60
    assert {"train", "evaluate", "forecast", "fetch", "serve_metrics"} <= {command.verb for command in OURS}
    assert {"README.md", "train.md", "scale.md", "deploy.md"} <= {command.page for command in OURS}


@pytest.mark.parametrize("command", LINES, ids=lambda command: f"{command.page}: {command.line[:80]}")
def test_a_command_is_taken(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = command.verb
    assert verb is not None
    name = f"kforecast-{verb.replace('_', '-')}"
    assert name in PROJECT["scripts"], f"{name} is not a command in pyproject.toml"
    files_of_the_pages(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = [word for word in command.arguments if word not in HYDRA]
    flags = {word for word in given if word.startswith("--suggest-events")}
    if flags or not (CONF_DIR / f"{verb}.yaml").exists():
        module = importlib.import_module(PROJECT["scripts"][name].partition(":")[0])
        if not hasattr(module, "prepare"):  # not a Hydra command
            source = inspect.getsource(module)
            assert all(f'"{word.partition("=")[0]}"' in source for word in given if word.startswith("--"))
            return
        given, verb = module.prepare(given)
    if {"-m", "--multirun"} & {*command.arguments}:  # the first value of a sweep
        given = [re.sub(r"^([^=]+=[^,{\[(]+),.*", r"\1", word) for word in given]
    arguments = []
    for word in given:
        if word.startswith("--config-dir="):
            arguments.append(f"hydra.searchpath=[file://{tmp_path / word.partition('=')[2]}]")
        elif word.startswith("--repeat") or not is_installed(given):
            return  # it uses an earlier run, or an extra that is not installed
        else:
            arguments.append(word)
    if any(word.startswith("resume=") for word in given) and not names_a_source(given):
        arguments.append("source=synthetic")  # the source may come from the earlier run
    if has_source(verb) and not names_a_source(arguments):
        # Running text shows only the relevant arguments; the source is up to the reader.
        arguments.append("source.path=traffic.csv")
    cfg = composed(*arguments, name=verb)
    content = plain(cfg)
    assert content
    if verb == "train":
        check_train_settings(cfg)
    if verb == "evaluate":
        check_evaluate_settings(cfg)


def names_a_source(words: list[str]) -> bool:
    return any(
        word.startswith(("source=", "source.path=", "--dataset-file", "--metrics-server-addr"))
        for word in words
    )


def has_source(verb: str) -> bool:
    return "\n  - source: csv" in (CONF_DIR / f"{verb}.yaml").read_text(encoding="utf-8")


# Packages that extras install for options; without them, nothing can be composed or checked.
MODULES = {
    "hydra/launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "hydra/launcher=ray": "hydra_plugins.hydra_ray_launcher",
    "hydra/launcher=submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "hydra/launcher=submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
    "logger=mlflow": "mlflow",
    "logger=wandb": "wandb",
    "model=lightgbm": "lightgbm",
}


def is_installed(words: list[str]) -> bool:
    """Whether the extras of a command are installed; `make test-all` has all except ray."""
    return all(importlib.util.find_spec(MODULES[word]) for word in words if word in MODULES)


def files_of_the_pages(folder: Path) -> None:
    """Write the files that commands read during composition."""
    example = (ROOT / "docs" / "examples" / "train-config.yaml").read_text(encoding="utf-8")
    for name in ("train-config.yaml", "docs/examples/train-config.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(example, encoding="utf-8")
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    shop = re.search(r"`my_conf/source/shop\.yaml`:\n\n```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert shop is not None
    (folder / "my_conf" / "source").mkdir(parents=True)
    (folder / "my_conf" / "source" / "shop.yaml").write_text(shop[1], encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_has_every_target(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    code = re.findall(r"`([^`]+)`", page.read_text(encoding="utf-8").replace("```", ""))
    code += [command.line for command in FOUND if command.page == page.name]
    named = {match[1] for text in code if (match := re.match(r"make ([a-z-]+)", " ".join(text.split())))}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_in_a_sentence_is_one(page: Path) -> None:
    """`group.key=value` in running text, for any command."""
    known = known_keys()
    groups = {path.name for path in CONF_DIR.iterdir() if path.is_dir()} - {"hydra"}
    for text in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
        for key in re.findall(r"(?<![\w.+/-])([a-z_]+(?:\.[a-z_]+)+)=", text):
            first, last = key.partition(".")[0], key.rpartition(".")[2]
            if first in groups or first in ("evaluate", "forecast", "gate", "artifact", "serve", "scale"):
                assert key in known or last in known, f"{text}: {key}"


@cache
def known_keys() -> set[str]:
    """The keys of the commands that need nothing else, and all keys in conf/."""
    known = {
        key
        for verb in ("train", "fetch", "evaluate", "forecast", "serve_metrics", "serve", "scale")
        for key in keys(plain(composed(*needed(verb), name=verb)))
    }
    for file in CONF_DIR.rglob("*.yaml"):
        group = file.relative_to(CONF_DIR).parts[0]
        known |= {f"{group}.{key}" for key in re.findall(r"^(\w+):", file.read_text(), flags=re.MULTILINE)}
        known |= set(re.findall(r"^  (\w+):", file.read_text(), flags=re.MULTILINE))
    return known


def keys(content: dict[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


def needed(verb: str) -> list[str]:
    artifact = ["artifact_dir=model"] if verb in ("forecast", "evaluate", "scale") else []
    url = ["source.url=x"] if verb == "serve" else []
    return artifact + url + (["source.path=x"] if has_source(verb) else [])


def runs_here(command: Command) -> bool:
    """Whether the command needs only a model and a traffic file."""
    line = command.line
    whole = "artifact_dir=model --dataset-file=traffic.csv" in line and "evaluate.start" not in line
    return command.verb in ("forecast", "evaluate") and whole and not line.startswith("$")


@pytest.mark.slow
def test_commands_that_need_a_model_and_a_file_run(tmp_path: Path) -> None:
    traffic().to_csv(tmp_path / "traffic.csv", index=False)
    kforecast.train(traffic(), WINDOW, max_epochs=1, verbose=False).save(tmp_path / "model")
    lines = {command.line: command for command in FOUND if command.verb and runs_here(command)}
    assert len(lines) >= 6
    for line, command in lines.items():
        name = f"kforecast-{command.verb}"
        done = run_command(name, *command.arguments, cwd=tmp_path)
        assert done.returncode == 0 or ("require_skill" in line and done.returncode == 4), line + done.stderr
