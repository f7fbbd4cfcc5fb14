"""docs/troubleshooting.md: every message that it explains exists in the source."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import kforecast

pytestmark = pytest.mark.usefixtures("unmeasured")

PAGE = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.+)`$", PAGE, flags=re.MULTILINE)
WARNINGS = re.findall(r"^\| `(.+?)` \|", PAGE, flags=re.MULTILINE)
# Stands for a value in a message.
VALUE = "\0"


@cache
def messages() -> tuple[str, ...]:
    """All string literals in the package, with a placeholder for each value."""

    def texts(tree: ast.AST) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[\w.,]*[sdgf]", VALUE, node.value)
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values
                )

    files = Path(kforecast.__file__).parent.rglob("*.py")
    return tuple(text for file in files for text in texts(ast.parse(file.read_text(encoding="utf-8"))))


def said(pattern: str) -> bool:
    parts = pattern.split("...")
    # A value on the page may stand for several values and words in the source, but not the other way round.
    found = re.compile(".*?".join(map(re.escape, parts)), flags=re.DOTALL)
    return any(found.search(text) for text in messages() if all(part in text for part in parts))


def test_the_page_explains_what_users_meet_most() -> None:
    assert len(HEADINGS) >= 40
    assert len(HEADINGS) == len(set(HEADINGS))


@pytest.mark.parametrize("pattern", [*HEADINGS, *WARNINGS])
def test_every_message_is_said_by_the_source(pattern: str) -> None:
    assert said(pattern)


def test_a_message_that_nobody_says_is_found_out() -> None:
    assert not said("unknown kay ... (--cfg job shows all keys)")
    assert not said("no such file ... anywhere")


def test_every_message_has_its_cause_and_remedy() -> None:
    for pattern in HEADINGS:
        answer = PAGE.partition(f"### `{pattern}`\n")[2].partition("\n#")[0].strip()
        assert len(answer) > 40, pattern
