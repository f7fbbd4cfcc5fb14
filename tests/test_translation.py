"""README.zh-CN.md matches README.md: the same headings, commands, links and tables, in order."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")


class Section(NamedTuple):
    """The parts of a section that do not depend on the language."""

    level: int
    code: list[str]
    words: Counter[str]
    links: list[tuple[str, str]]
    rows: list[int]


def code_of(text: str) -> list[str]:
    """Lines of code blocks without comments; of the layout, only the column of names."""
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for block in fenced:
        layout = block.startswith("conf/")
        found += [re.split(r"\s{2,}", line)[0] if layout else line for line in block.splitlines()]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found += [line for line in outside.splitlines() if line.startswith("    ")]
    return [re.sub(r"\s+# .*", "", line) for line in found]


def sections(text: str) -> list[Section]:
    """The sections by heading; text before the first heading has none."""
    blocks = re.sub(r"^```.*?^```$", lambda block: block[0].replace("\n#", "\n\0"), text, flags=re.M | re.S)
    found = []
    for part in re.split(r"^(?=#+ )", blocks, flags=re.MULTILINE)[1:]:
        part = part.replace("\0", "#")
        prose = re.sub(r"^(?:```.*?^```|    [^\n]*)$", "", part, flags=re.MULTILINE | re.DOTALL)
        rows = [line.count("|") for line in prose.splitlines() if line.startswith("|")]
        links = re.findall(r"(!?)\[[^\]]*\]\(([^)]*)\)", prose)
        found.append(
            Section(
                level=len(part) - len(part.lstrip("#")),
                code=code_of(part),
                words=Counter(re.findall(r"`([^`\n]+)`", " ".join(prose.split()))),
                links=[link for link in links if not link[1].startswith("README")],
                rows=rows,
            )
        )
    return found


def test_there_are_as_many_headings_of_each_level() -> None:
    levels = [section.level for section in sections(ENGLISH)]
    assert len(levels) >= 6
    assert [section.level for section in sections(CHINESE)] == levels


@pytest.mark.parametrize("number", range(len(sections(ENGLISH))))
@pytest.mark.parametrize("part", ["code", "words", "links", "rows"])
def test_a_section_says_the_same(number: int, part: str) -> None:
    assert getattr(sections(CHINESE)[number], part) == getattr(sections(ENGLISH)[number], part)


def test_it_is_in_chinese_and_each_leads_to_the_other() -> None:
    assert "](README.zh-CN.md)" in ENGLISH.split("\n\n")[1]
    assert "](README.md)" in CHINESE.split("\n\n")[1]
    prose = re.sub(r"```.*?```|^    [^\n]*$|`[^`\n]*`|\([^)]*\)", "", CHINESE, flags=re.MULTILINE | re.DOTALL)
    for paragraph in prose.split("\n\n"):
        if len(paragraph) > 40:
            assert re.search(r"[\u4e00-\u9fff]", paragraph), paragraph
