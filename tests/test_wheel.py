"""The published package works without the checkout: sdist, wheel, and the installed command."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from conftest import HANG
from kforecast.artifact import TRIO

ROOT = Path(__file__).parents[1]


def run(*arguments: object, cwd: Path) -> str:
    """Run a program that must succeed; its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, arguments)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist as for a release."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_conf(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"kforecast/{path.relative_to(top).as_posix()}"
        for top, below in ((ROOT, ROOT / "conf"), (ROOT / "src" / "kforecast", ROOT / "src" / "kforecast"))
        for path in below.rglob("*")
        if path.suffix in (".yaml", ".py", ".pyi", ".proto", ".typed", ".html", ".css")
    } | {"hydra_plugins/kforecast_search.py", "kforecast/models/pretrained.pth"}
    assert "kforecast/conf/train.yaml" in expected
    assert "kforecast/conf/window/10min.yaml" in expected
    assert expected <= names
    strangers = [name for name in names - expected if not name.startswith("kforecast-")]
    assert not strangers


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and the libraries of this environment."""
    tmp_path = tmp_path_factory.mktemp("installed")
    environment, empty = tmp_path / "environment", tmp_path
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"),
        *("install", "--quiet", "--no-deps", "--no-index", wheel),
        cwd=tmp_path,
    )
    # The libraries come from this environment, but not its .pth files, one of which names the
    # checkout.
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=empty).strip()
    )
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    script = "import kforecast.config.checks as c, sys; print(c.__file__, c.CONF_DIR, *sys.path, sep='\\n')"
    module, conf, *path = run(python, "-c", script, cwd=empty).splitlines()
    assert Path(module).is_relative_to(packages)
    assert Path(conf) == packages / "kforecast" / "conf"
    assert str(ROOT / "src") not in path
    assert str(ROOT) not in path
    return environment


def test_the_command_of_the_wheel_composes_its_own_configuration(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "bin" / "kforecast-train", "source=synthetic", "--cfg", "job", cwd=tmp_path)
    assert "_target_: kforecast.metrics.synthetic.SyntheticSource" in printed


@pytest.mark.slow
def test_the_command_of_the_wheel_trains_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    small = ["source.days=3", "source.workloads=1", "logger=none"]
    command = installed / "bin" / "kforecast-train"
    run(command, "source=synthetic", "experiment=smoke", *small, cwd=tmp_path)
    (artifact,) = (tmp_path / "outputs").glob("*/*/artifact")
    assert {file.name for file in artifact.iterdir()} >= set(TRIO)
