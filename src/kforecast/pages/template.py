"""Jinja templates of self-contained HTML pages."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from kforecast.pages.colours import COLOURS


@cache
def template(name: str) -> Template:
    """The template of a page, by its file name in this package; all values are escaped.

    Every page starts with ``head.html`` and embeds ``style.css``.
    """
    environment = Environment(
        loader=PackageLoader("kforecast", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["colours"] = COLOURS
    return environment.get_template(name)
