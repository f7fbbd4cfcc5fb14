"""Messages for bad values: path, value and remedy, all problems in one message."""

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from kforecast.errors import ArtifactError, ConfigError, DataError, KforecastError, TrainingError
from kforecast.validation import list_problems, nearest, validate


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(default=1, ge=1)
    label: str = Field(default="", alias="theLabel")


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    inner: Inner = Inner()
    many: list[Inner] = []
    word: str = "a"

    @field_validator("word")
    @classmethod
    def _short(cls, word):
        if len(word) > 3:
            raise ValueError("At most 3 letters")
        return word


def _refusal(content):
    with pytest.raises(ConfigError) as caught:
        validate(Outer, content, "the file")
    return str(caught.value)


def test_good_content_becomes_the_model():
    model = validate(Outer, {"inner": {"size": 2}, "many": [{"theLabel": "x"}]}, "the file")
    assert model.inner.size == 2
    assert model.many[0].label == "x"


def test_one_problem_stands_in_one_line():
    message = _refusal({"inner": {"size": 0}})
    assert message.startswith("the file: inner.size: 0 is wrong: it should be greater than or equal to 1")
    assert "\n" not in message


def test_several_problems_are_a_list_with_paths():
    message = _refusal({"inner": {"size": "x"}, "many": [{}, {"size": -1}], "word": "long"})
    first, *problems = message.splitlines()
    assert first == "the file has 3 problems:"
    assert [problem.split(":")[0].strip() for problem in problems] == ["inner.size", "many[1].size", "word"]
    assert problems[2].endswith("word: at most 3 letters")


@pytest.mark.parametrize(
    "content, words",
    [
        ({"iner": {}}, "iner: unknown key; did you mean inner?"),
        ({"many": [{"thelabel": "x"}]}, "many[0].thelabel: unknown key; did you mean theLabel?"),
        ({"zzzz": 1}, "zzzz: unknown key; known: inner, many, word"),
        ({"inner": [1]}, "inner: [1] is not a mapping"),
        ({"many": ["x"]}, "many[0]: 'x' is not a mapping"),
    ],
)
def test_keys_and_shapes(content, words):
    assert _refusal(content) == f"the file: {words}"


def test_a_long_value_is_cut():
    message = _refusal({"inner": {"size": "x" * 500}})
    assert "xxx..." in message
    assert len(message) < 200


def test_list_problems_and_nearest():
    assert list_problems("it", ["a is wrong"]) == "it: a is wrong"
    assert list_problems("it", ["a", "b"]) == "it has 2 problems:\n  a\n  b"
    assert nearest("epochz", ["epochs", "lr"]) == "; did you mean epochs?"
    assert nearest("epochs", ["lr"]) == ""


def test_each_error_has_the_exit_code_of_its_kind():
    codes = {error: error.exit_code for error in (ConfigError, DataError, ArtifactError, TrainingError)}
    assert codes == {ConfigError: 2, DataError: 2, ArtifactError: 2, TrainingError: 3}
    assert all(issubclass(error, KforecastError) for error in codes)
