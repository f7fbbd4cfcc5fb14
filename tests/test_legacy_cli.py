"""Kapacity's flags and train-config.yaml as a Hydra layer (contracts 1 and 2)."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from conftest import composed
from kforecast.config.checks import CONF_DIR, built, check_train_settings
from kforecast.config.legacy_cli import FLAGS, flags_for_hydra, read_train_config, translate
from kforecast.config.overrides import quote
from kforecast.errors import ConfigError
from kforecast.metrics.names import trimmed

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "train-config.yaml"

FIRST_GENERATION = """
targets:
- workloadNamespace: kapacity-test
  workloadName: nginx
  historyLength: 48H
  metrics:
  - type: Object
    object:
      metric: {name: nginx_ingress_controller_requests_rate}
      describedObject: {apiVersion: networking.k8s.io/v1, kind: Ingress, name: nginx-server}
freq: 10min
predictionLength: 3
contextLength: 7
hyperParams: {learningRate: 0.001, epochs: 100, batchSize: 32}
"""

SECOND_GENERATION = """
targets:
- workloadNamespace: kapacity-test
  workloadRef: {apiVersion: apps/v1, kind: StatefulSet, name: nginx}
  historyLength: 7d
  metrics:
  - name: qps
    type: Object
    object:
      metric: {name: requests, selector: {matchLabels: {app: "${app}"}}}
      describedObject: {apiVersion: networking.k8s.io/v1, kind: Ingress, name: nginx-server}
      target: {type: AverageValue, averageValue: 100m}
  - type: External
    external:
      metric:
        name: queue
        selector:
          matchExpressions:
          - {key: tier, operator: In, values: [front, "back, end"]}
          - {key: canary, operator: DoesNotExist}
  - name: pods
    type: Pods
    pods: {metric: {name: sessions}}
  - name: cpu
    type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: 30}}
  - name: sidecar
    type: ContainerResource
    containerResource: {name: memory, container: proxy}
freq: 1H
predictionLength: 6
contextLength: 24
hyperParams: {learningRate: 1e-3, epochs: 20, batchSize: "64"}
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A train-config.yaml in which every number differs from our defaults."""
    path = tmp_path / "train-config.yaml"
    path.write_text(
        "targets: []\nfreq: 1h\npredictionLength: 5\ncontextLength: 11\n"
        "hyperParams: {learningRate: 0.02, epochs: 17, batchSize: 48}\n"
    )
    return path


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return f"--config-file={path}"


def minimal(**changes: Any) -> str:
    return yaml.safe_dump({"freq": "10min", "predictionLength": 3, "contextLength": 7} | changes)


def spelled(arguments: list[str], with_equals: bool) -> list[str]:
    if with_equals:
        return arguments
    return [part for argument in arguments for part in argument.split("=", 1)]


@pytest.mark.parametrize("with_equals", [True, False], ids=["--flag=value", "--flag value"])
def test_every_flag(with_equals: bool, config_file: Path) -> None:
    cfg = composed(
        *spelled(
            [
                f"--config-file={config_file}",
                "--metrics-server-addr=localhost:9090",
                "--model-save-path=out/model",
                "--dataloader-num-workers=2",
            ],
            with_equals,
        )
    )
    assert cfg.window == {"freq": "1H", "context_length": 11, "prediction_length": 5}
    assert (cfg.optimizer.lr, cfg.trainer.max_epochs, cfg.data.batch_size) == (0.02, 17, 48)
    assert cfg.source._target_.endswith("KapacitySource")
    assert cfg.source.address == "localhost:9090"
    assert cfg.artifact_dir == "out/model"
    assert cfg.data.num_workers == 2
    settings = check_train_settings(cfg)
    assert settings.window.context_length == 11
    dataset = composed(*spelled(["--dataset-file=traffic.csv"], with_equals))
    assert dataset.source._target_.endswith("CsvSource")
    assert dataset.source.path == "traffic.csv"


@pytest.mark.parametrize("model", ["seasonal_mlp", "auto"])
def test_hyper_parameters_of_fcnet_leave_the_recipe_of_another_model_alone(
    model: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = composed(f"--config-file={config_file}", f"model={model}")
    recipe = composed(f"model={model}")
    for key in ("optimizer", "trainer", "data", "callbacks"):
        assert cfg[key] == recipe[key]
    assert cfg.window.context_length == 11
    assert f"are Fcnet's; model={model} has a recipe of its own" in capsys.readouterr().err
    # The command line wins.
    assert composed(f"--config-file={config_file}", f"model={model}", "optimizer.lr=0.5").optimizer.lr == 0.5


@pytest.mark.parametrize("given", [[], ["model=fcnet"]], ids=str)
def test_hyper_parameters_of_fcnet_are_for_fcnet(
    given: list[str], config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert composed(f"--config-file={config_file}", *given).trainer.max_epochs == 17
    assert capsys.readouterr().err == ""


def test_without_hyper_parameters_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert composed(written(tmp_path, minimal()), "model=auto").trainer.max_epochs == 60
    assert capsys.readouterr().err == ""


def test_flags_stand_anywhere_among_overrides() -> None:
    cfg = composed(
        "seed=7", "--model-save-path", "here", "optimizer.lr=0.5", "--dataset-file=t.csv", "+trainer.x=1"
    )
    assert (cfg.seed, cfg.artifact_dir, cfg.optimizer.lr) == (7, "here", 0.5)
    assert (cfg.source.path, cfg.trainer.x) == ("t.csv", 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "--dataset-file=t.csv", "seed=1,2", "optimizer.lr=0.1"],
        ["seed=1,2", "optimizer.lr=0.1", "-m", "--dataset-file=t.csv"],
        ["--dataset-file", "t.csv", "seed=1,2", "optimizer.lr=0.1", "--multirun"],
        ["--dataset-file=t.csv", "-m", "seed=1,2", "--model-save-path", "d", "optimizer.lr=0.1"],
        ["-m", "--dataset-file=t.csv"],
    ],
)
def test_overrides_stay_on_one_side_of_m(arguments: list[str]) -> None:
    translated = translate(arguments)
    flag = next(i for i, argument in enumerate(translated) if argument in ("-m", "--multirun"))
    assert not translated[:flag] or not translated[flag + 1 :]
    assert [argument for argument in translated if argument.startswith("source")] == [
        "source=csv",
        "source.path='t.csv'",
    ]
    # Our overrides come first, so that those of the user win.
    users = [argument for argument in arguments if argument.startswith(("seed=", "optimizer."))]
    assert [argument for argument in translated if argument.startswith(("seed=", "optimizer."))] == users
    assert not users or translated[-1 if flag == 0 else flag - 1] == users[-1]


def test_other_arguments_are_left_alone() -> None:
    arguments = ["--cfg", "job", "seed=1", "--config-name=train"]
    assert translate(arguments) == arguments
    assert translate([]) == []
    # No abbreviations: --config is not --config-file.
    assert translate(["--config=x"]) == ["--config=x"]


def test_a_verb_takes_only_its_flags() -> None:
    assert translate(["--model-save-path=m"], flags=["--dataset-file"]) == ["--model-save-path=m"]
    assert set(FLAGS) == {
        "--config-file",
        "--dataset-file",
        "--metrics-server-addr",
        "--model-save-path",
        "--dataloader-num-workers",
    }


def test_users_overrides_beat_the_file_and_the_flags(config_file: Path) -> None:
    cfg = composed(
        "optimizer.lr=0.5",
        f"--config-file={config_file}",
        "--dataset-file=t.csv",
        "--model-save-path=a",
        "--dataloader-num-workers=3",
        "window.context_length=9",
        "trainer.max_epochs=2",
        "data.batch_size=8",
        "data.num_workers=0",
        "artifact_dir=b",
        "source.path=u.csv",
    )
    assert cfg.window == {"freq": "1H", "context_length": 9, "prediction_length": 5}
    assert (cfg.optimizer.lr, cfg.trainer.max_epochs, cfg.data.batch_size) == (0.5, 2, 8)
    assert (cfg.data.num_workers, cfg.artifact_dir, cfg.source.path) == (0, "b", "u.csv")


def test_the_dataset_file_beats_the_metrics_server(tmp_path: Path) -> None:
    cfg = composed(
        written(tmp_path, FIRST_GENERATION), "--metrics-server-addr=h:1", "--dataset-file=traffic.csv"
    )
    assert cfg.source._target_ == "kforecast.metrics.csv.CsvSource"
    assert cfg.source.path == "traffic.csv"
    assert not {"address", "targets"} & set(cfg.source)


def test_the_file_beats_a_group_and_an_experiment_beats_the_file(config_file: Path) -> None:
    cfg = composed(f"--config-file={config_file}", "--dataset-file=t.csv", "window=1min", "optimizer=adamw")
    assert (cfg.window.freq, cfg.optimizer.lr) == ("1H", 0.02)
    cfg = composed(f"--config-file={config_file}", "--dataset-file=t.csv", "experiment=smoke")
    assert cfg.trainer.max_epochs == 1


def test_the_first_generation(tmp_path: Path) -> None:
    cfg = composed(written(tmp_path, FIRST_GENERATION), "--metrics-server-addr=h:1")
    assert cfg.window == {"freq": "10min", "context_length": 7, "prediction_length": 3}
    assert (cfg.optimizer.lr, cfg.trainer.max_epochs, cfg.data.batch_size) == (0.001, 100, 32)
    targets = OmegaConf.to_container(cfg, resolve=True)["source"]["targets"]
    assert targets == yaml.safe_load(FIRST_GENERATION)["targets"]


def test_the_second_generation_with_all_types_of_metric(tmp_path: Path) -> None:
    cfg = composed(written(tmp_path, SECOND_GENERATION), "source=kapacity", "source.address=h:1")
    assert cfg.window == {"freq": "1H", "context_length": 24, "prediction_length": 6}
    # YAML reads 1e-3 as text.
    assert (cfg.optimizer.lr, cfg.trainer.max_epochs, cfg.data.batch_size) == (1e-3, 20, 64)
    targets = OmegaConf.to_container(cfg, resolve=True)["source"]["targets"]
    said = yaml.safe_load(SECOND_GENERATION)["targets"]
    for block in (block for metric in said[0]["metrics"] for block in metric.values()):
        if isinstance(block, dict):
            block.pop("target", None)  # for autoscalers, ignored here
    assert targets == said


def test_the_names_of_series(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SECOND_GENERATION)
    (target,) = read_train_config(path).targets
    assert target.workload == "kapacity-test/nginx"
    assert [metric.series_name for metric in target.metrics] == ["qps", "queue", "pods", "cpu", "sidecar"]
    path.write_text(FIRST_GENERATION)
    (target,) = read_train_config(path).targets
    assert target.workload == "kapacity-test/nginx"
    assert target.metrics[0].series_name == "nginx_ingress_controller_requests_rate"


@pytest.mark.parametrize(
    "text, expected",
    [
        (minimal(), (0.001, 100, 32)),
        (minimal(hyperParams=None), (0.001, 100, 32)),
        (minimal(hyperParams={}), (0.001, 100, 32)),
        (minimal(hyperParams={"epochs": 5}), (0.001, 5, 32)),
        (minimal(hyperParams={"learningRate": 1, "batchSize": 1}), (1.0, 100, 1)),
        (minimal() + "hyperParams: {learningRate: 2e-3, epochs: '7'}\n", (0.002, 7, 32)),
        (minimal() + "hyperParams: {learningRate: .5}\n", (0.5, 100, 32)),
    ],
)
def test_hyper_parameters_may_be_absent(text: str, expected: tuple[float, int, int], tmp_path: Path) -> None:
    cfg = composed(written(tmp_path, text), "--dataset-file=t.csv")
    assert (cfg.optimizer.lr, cfg.trainer.max_epochs, cfg.data.batch_size) == expected


@pytest.mark.parametrize("key", ["contextLength", "predictionLength", "epochs", "batchSize", "learningRate"])
def test_truth_values_are_no_numbers(key: str, tmp_path: Path) -> None:
    inside = key in ("epochs", "batchSize", "learningRate")
    text = minimal(**({"hyperParams": {key: True}} if inside else {key: True}))
    with pytest.raises(ConfigError, match=key):
        translate([written(tmp_path, text)])


@pytest.mark.parametrize(
    "spelling, canonical",
    [("1min", "1min"), ("min", "1min"), ("10min", "10min")]
    + [(spelling, "1H") for spelling in ("1H", "H", "1h")]
    + [(spelling, "1D") for spelling in ("1D", "D", "1d")],
)
def test_spellings_of_freq(spelling: str, canonical: str, tmp_path: Path) -> None:
    cfg = composed(written(tmp_path, minimal(freq=spelling)), "--dataset-file=t.csv")
    assert cfg.window.freq == canonical


@pytest.mark.parametrize("length", ["30min", "48H", "7D", "48h", "7d"])
def test_history_lengths(length: str, tmp_path: Path) -> None:
    text = FIRST_GENERATION.replace("48H", length)
    cfg = composed(written(tmp_path, text), "--metrics-server-addr=h:1")
    assert cfg.source.targets[0].historyLength == length


@pytest.mark.parametrize("length", ["", "48", "H", "-1H", "0H", "1.5H", "48 H", "2W", "48S", "48HH"])
def test_wrong_history_lengths(length: str, tmp_path: Path) -> None:
    text = FIRST_GENERATION.replace("48H", f'"{length}"')
    with pytest.raises(ConfigError, match=r"targets\[0\]\.historyLength"):
        translate([written(tmp_path, text)])


def test_the_file_is_validated_whole_even_with_a_dataset(tmp_path: Path) -> None:
    text = FIRST_GENERATION.replace("type: Object", "type: Objekt")
    with pytest.raises(ConfigError, match=r"targets\[0\]\.metrics\[0\]\.type"):
        translate([written(tmp_path, text), "--dataset-file=traffic.csv"])


def test_a_verb_that_does_not_train_takes_no_recipe_from_the_file(tmp_path: Path) -> None:
    flags = ["--config-file", "--dataset-file", "--metrics-server-addr"]
    overrides = translate([written(tmp_path, FIRST_GENERATION), "--dataset-file=t.csv"], flags, "forecast")
    cfg = composed(*overrides, "artifact_dir=model", name="forecast")
    assert {*cfg.window.values()} == {None}
    assert cfg.source.path == "t.csv"


# Characters of Hydra's grammar, of OmegaConf's interpolations and of YAML literals, in any order.
PIECES = ["'", '"', "\\", ",", "${", "${a}", "$", "{", "}", "[", "]", "(", ")", "=", ":", " ", "~", "+", "@"]
PIECES += ["null", "true", "1", "1e3", "???", "#", "%", "\t", "/", "-", "a", "é", "模型", "🚦"]
TEXT = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), max_size=30),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conf/ with only the keys that flags and train-config.yaml set, because it is composed many times."""
    conf = tmp_path_factory.mktemp("small")
    (conf / "source").mkdir()
    for source in ("csv", "kapacity"):
        shutil.copy(CONF_DIR / "source" / f"{source}.yaml", conf / "source")
    whole = composed("source.path=x")
    keys = {name: OmegaConf.to_container(whole[name]) for name in ("window", "data", "optimizer", "trainer")}
    defaults = [{"source": "csv"}, "_self_", {"train_config": None}]
    content = {"defaults": defaults, "artifact_dir": None, **keys}
    (conf / "train.yaml").write_text(yaml.safe_dump(content))
    return conf


@settings(max_examples=10, deadline=None)
@given(model=TEXT, dataset=TEXT)
@example(model='it\'s a "model", really', dataset="C:\\data\\new\\")
@example(model="\\", dataset="\\'")
@example(model="\\${a}", dataset="\\\\${a}'")
@example(model="${oc.env:HOME}", dataset="${")
@example(model="-m", dataset="null")
@example(model="", dataset="--")
def test_any_path_arrives_as_it_was_typed(small: Path, model: str, dataset: str) -> None:
    assume("???" not in (model, dataset))  # means "no value" in OmegaConf, also as an override
    cfg = composed(f"--model-save-path={model}", f"--dataset-file={dataset}", conf=small)
    content = OmegaConf.to_container(cfg, resolve=True)
    assert content["artifact_dir"] == model
    assert content["source"]["path"] == dataset


@settings(max_examples=10, deadline=None)
@given(name=TEXT.filter(lambda text: trimmed(text) not in ("", "???")), workers=st.integers(-3, 300))
@example(name="\\${a}", workers=0)
def test_any_name_of_a_metric_arrives_as_it_was_written(
    small: Path, name: str, workers: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = yaml.safe_load(FIRST_GENERATION)
    content["targets"][0]["metrics"][0]["name"] = name
    argument = written(tmp_path_factory.mktemp("config"), yaml.safe_dump(content))
    flags = [argument, "--metrics-server-addr=h:1", f"--dataloader-num-workers={workers}"]
    cfg = composed(*flags, conf=small)
    resolved = OmegaConf.to_container(cfg, resolve=True)
    content["targets"][0]["metrics"][0]["name"] = trimmed(name)
    assert resolved["source"]["targets"] == content["targets"]
    assert resolved["data"]["num_workers"] == workers


def test_quoting_keeps_numbers_and_words_apart() -> None:
    assert quote("4", number=True) == "4"
    assert quote("4") == "'4'"
    assert quote("few", number=True) == "'few'"


def test_yaml_merge_keys_are_read(tmp_path):
    path = tmp_path / "train-config.yaml"
    path.write_text(
        "freq: 10min\npredictionLength: 3\ncontextLength: 7\n"
        "targets:\n"
        "- &first {workloadNamespace: a, workloadName: b, historyLength: 48H,\n"
        "          metrics: [{type: External, external: {metric: {name: m}}}]}\n"
        "- <<: *first\n"
        "  workloadName: c\n"
    )
    assert [target.workload for target in read_train_config(path).targets] == ["a/b", "a/c"]


def test_a_merged_mapping_that_merges_itself_has_no_key_twice(tmp_path):
    path = tmp_path / "train-config.yaml"
    path.write_text(
        "freq: 10min\npredictionLength: 3\ncontextLength: 7\n"
        "targets:\n"
        "- &second\n"
        "  <<: &first {workloadNamespace: a, workloadName: b, historyLength: 48H,\n"
        "              metrics: [{type: External, external: {metric: {name: m}}}]}\n"
        "  workloadName: c\n"
        "- {<<: *second, workloadName: d}\n"
    )
    assert [target.workload for target in read_train_config(path).targets] == ["a/c", "a/d"]


def test_a_deletion_is_an_override():
    flags = ["-m", "~callbacks.early_stopping", "--dataset-file=f"]
    assert translate(flags) == ["-m", "source=csv", "source.path='f'", "~callbacks.early_stopping"]


@pytest.mark.skipif(not EXAMPLE.exists(), reason="not a checkout")
def test_the_example_of_the_readme_is_a_train_config() -> None:
    content = read_train_config(EXAMPLE)
    assert [target.workload for target in content.targets] == ["shop/cart", "shop/checkout", "shop/search"]
    assert composed(f"--config-file={EXAMPLE}", "--metrics-server-addr=localhost:9090").source.targets


def test_what_only_flags_can_say_is_found_again() -> None:
    typed = ["train.py", "--config-file", "a b.yaml", "seed=1", "-cd", "own", "--config-name=other", "-m"]
    assert flags_for_hydra(typed) == ["--config-file=a b.yaml", "--config-name=other", "--config-dir=own"]
    assert flags_for_hydra(["train.py", "seed=1"]) == []


@given(st.text(st.sampled_from("a${}:.'\"\\ ,=[]#~()é-"), min_size=1, max_size=12))
@example("a${b}.csv")
@example("${oc.env:HOME}/${now:x}.csv")
@example("a\\${b}.csv")
@settings(deadline=None, max_examples=5)
def test_the_source_reads_the_path_of_the_dataset_file_literally(path: str) -> None:
    cfg = composed(f"--dataset-file={path}")
    assert built(cfg.source, "source").path == Path(path)
