"""Templates of pages that need nothing besides themselves."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from kforecast.pages.drawing import COLOURS


def template(name: str) -> Template:
    """A page of ours, by its file in this package: everything in it is escaped.

    All begin with ``head.html`` and have ``style.css`` within.
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
