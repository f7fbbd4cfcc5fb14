"""Validate plain values with pydantic; one message lists all problems: path, value, remedy."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kforecast.errors import ConfigError

# Characters of a mistyped word that are compared with known words; longer ones would be slow.
_LONGEST = 100
_MOST_PROBLEMS = 50

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], content: object, name: str) -> Model:
    """Create a model from plain values.

    Parameters
    ----------
    name:
        The name of the values in the message, for instance a file name.

    Raises
    ------
    ConfigError
        When values are wrong; its message lists all problems.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(list_problems(name, problems_of(error, model=model))) from error


def problems_of(error: ValidationError, prefix: str = "", model: type[BaseModel] | None = None) -> list[str]:
    """The problems in words: path (below ``prefix``), value, remedy."""
    start = (prefix,) if prefix else ()
    return [
        _describe(found | {"loc": start + found["loc"]}, model) for found in error.errors(include_url=False)
    ]


def list_problems(name: str, problems: list[str]) -> str:
    """One line for one problem, a list for several; very long lists are cut."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}"
    listed = [*problems[:_MOST_PROBLEMS], *(["..."] if len(problems) > _MOST_PROBLEMS else [])]
    return f"{name} has {len(problems)} problems:" + "".join(f"\n  {problem}" for problem in listed)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` when a known word is close, else an empty string."""
    close = difflib.get_close_matches(word[:_LONGEST], list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def short(value: object) -> str:
    """A value for a message in at most 60 characters; huge values are never formatted whole."""
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = writer.maxlong = 200
    text = writer.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _describe(found: Any, model: type[BaseModel] | None) -> str:
    path = _path(found["loc"])
    if found["type"] == "extra_forbidden":
        known = _keys_beside(model, found["loc"]) if model is not None else []
        listed = f"; known: {', '.join(known)}" if known else ""
        return f"{path}: unknown key{nearest(str(found['loc'][-1]), known) or listed}"
    if found["type"] == "missing":
        return f"{path}: missing"
    if found["type"] in ("model_type", "dict_type"):
        said = f"{short(found['input'])} is not a mapping"
        return f"{path}: {said}" if path else said
    message = found["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if found["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {short(found['input'])} is wrong: {message.replace('input should', 'it should')}"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in (
        short(part)[1:-1] if isinstance(part, str) and len(part) > 60 else part for part in location
    ):
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where an unknown key was found."""
    current: Any = model
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        if field is None:
            return []
        current = _model_inside(field.annotation)
        if current is None:
            return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_inside(annotation: Any) -> Any:
    """The model inside a field's type: ``X``, ``X | None``, ``list[X]``, ``Annotated[...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (inside := _model_inside(argument)) is not None:
            return inside
    return None
