"""MkDocs hooks: pages from outside of docs/, and the order of all pages."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Pages made from files outside of docs/.
BESIDE = {
    "index.md": "README.md",
    "index.zh-CN.md": "README.zh-CN.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
# Titles of the pages whose heading is the project's name.
TITLES = {"index.md": "Start", "index.zh-CN.md": "中文"}
# Other pages follow in alphabetical order.
FIRST = (
    *("index", "train", "sources", "models", "pretrained", "evaluate"),
    *("deploy", "serve", "retrain", "experiments", "python"),
)
LAST = ("lab-log", "architecture", "development", "changelog", "security", "index.zh-CN")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every page into the navigation, in order."""
    names = {path.stem for path in Path(config.docs_dir).glob("*.md")}
    names |= {page.removesuffix(".md") for page, file in BESIDE.items() if (ROOT / file).exists()}
    between = sorted(names - {*FIRST, *LAST})
    pages = [f"{name}.md" for name in (*FIRST, *between, *LAST) if name in names]
    config.nav = [{TITLES[page]: page} if page in TITLES else page for page in pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of docs/ as pages."""
    for page, name in BESIDE.items():
        if (ROOT / name).exists():
            text = (ROOT / name).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=_moved(text)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Remove the backslash before a pipe in code: GitHub needs it in tables, Python-Markdown shows it."""
    text = markdown if page.file.src_uri in BESIDE else _linked(markdown)
    return re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), text)


def _moved(text: str) -> str:
    """Rewrite the links of a file outside of docs/ for a page inside of it."""
    text = _linked(text)
    return re.sub(r"\]\(docs/", "](", text)


def _linked(text: str) -> str:
    """Point links at the pages made from files outside of docs/; drop links to source code."""
    for page, name in BESIDE.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}(?=[)#])", f"]({page}", text)
    return re.sub(
        r"\[([^\]\n]+)\]\(\.\./([^)#\s]+)\)",
        lambda link: link[1] if (ROOT / link[2]).exists() else link[0],
        text,
    )
