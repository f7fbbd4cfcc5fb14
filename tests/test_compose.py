"""Configurations are composed without a trace in the state that Hydra keeps for the process."""

import threading

import pytest
from hydra import initialize_config_dir, version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from omegaconf import OmegaConf

from kforecast.config.compose import composed
from kforecast.config.explain import explain


def test_values_and_overrides() -> None:
    cfg = composed("train", ["model=auto", "optimizer.lr=0.5"], values={"seed": 7, "data.holidays": "a=b"})
    assert (cfg.optimizer.lr, cfg.seed, cfg.data.holidays) == (0.5, 7, "a=b")
    assert "hydra" not in cfg
    assert (
        OmegaConf.to_container(cfg, resolve=False)["artifact_dir"] == "${hydra:runtime.output_dir}/artifact"
    )


def test_with_a_folder_interpolations_are_resolved() -> None:
    cfg = composed("train", output_dir="folder")
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert plain["artifact_dir"] == "folder/artifact"


def test_the_state_of_another_application_stays(tmp_path) -> None:
    OmegaConf.register_new_resolver("now", lambda pattern: "theirs", replace=True)
    try:
        JobRuntime.instance().set("name", "theirs")
        with initialize_config_dir(str(tmp_path), job_name="theirs", version_base="1.2"):
            OmegaConf.register_new_resolver("now", lambda pattern: "theirs", replace=True)
            before = [kind.instance() for kind in (GlobalHydra, HydraConfig, JobRuntime, Plugins)]
            theirs = (GlobalHydra.instance().hydra, HydraConfig.instance().cfg)
            composed("train", output_dir="folder")
            with pytest.raises(HydraException) as caught:
                composed("train", ["optimizer.lrr=1"])
            assert str(explain(caught.value, "train")).startswith("unknown key optimizer.lrr; did you mean")
            after = [kind.instance() for kind in (GlobalHydra, HydraConfig, JobRuntime, Plugins)]
            assert all(one is other for one, other in zip(before, after, strict=True))
            assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg) == theirs
            assert JobRuntime.instance().get("name") == "theirs"
            assert str(version.getbase()) == "1.2"
            assert OmegaConf.create({"at": "${now:%Y}"}).at == "theirs"
    finally:
        OmegaConf.clear_resolver("now")


def test_resolvers_that_were_not_there_go() -> None:
    before = {name: OmegaConf.has_resolver(name) for name in ("now", "hydra", "python_version")}
    composed("train")
    assert before == {name: OmegaConf.has_resolver(name) for name in before}


def test_threads_take_turns() -> None:
    seeds: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: seeds.append(composed("train", [f"seed={n}"]).seed))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seeds) == [0, 1, 2, 3]
