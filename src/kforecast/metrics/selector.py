"""Kubernetes label selectors: converted to their string form, parsed from it, and translated to PromQL.

The metrics provider takes the string form, ``a=b,c in (d,e),!f`` (contract 4). Its grammar:
https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors.
"""

import json
import re
from typing import Literal, NamedTuple

from kforecast.metrics.spec import LabelSelector

_NAME = r"[A-Za-z0-9](?:[\w./-]*[A-Za-z0-9])?"
_VALUE = r"[\w.-]*"
_EQUALITY = re.compile(rf"({_NAME})\s*(==|=|!=)\s*({_VALUE})")
_SET = re.compile(rf"({_NAME})\s+(in|notin)\s*\(([^()]*)\)")
_EXISTENCE = re.compile(rf"(!?)\s*({_NAME})")
# Commas separate requirements, except inside the parentheses of a set.
_SEPARATOR = re.compile(r",(?![^()]*\))")


class Requirement(NamedTuple):
    """One requirement on a label: its value is (not) one of ``values``, or the label (does not) exist."""

    label: str
    operator: Literal["in", "notin", "exists", "absent"]
    values: tuple[str, ...] = ()

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether a series with these labels meets the requirement."""
        if self.operator == "in":
            return labels.get(self.label) in self.values
        if self.operator == "notin":
            return labels.get(self.label) not in self.values
        return (self.label in labels) == (self.operator == "exists")


def selector_text(selector: LabelSelector) -> str:
    """The string form of a selector, sorted by label as Kubernetes does."""
    parts = [(label, f"{label}={value}") for label, value in selector.matchLabels.items()]
    for expression in selector.matchExpressions:
        key, values = expression.key, ",".join(sorted(expression.values))
        text = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }[expression.operator]
        parts.append((key, text))
    return ",".join(text for _, text in sorted(parts))


def parse_selector(text: str) -> list[Requirement]:
    """Parse the string form of a selector.

    Raises
    ------
    ValueError
        When a requirement cannot be parsed; the message names it.
    """
    requirements: list[Requirement] = []
    for part in filter(None, map(str.strip, _SEPARATOR.split(text))):
        if match := _EQUALITY.fullmatch(part):
            operator: Literal["in", "notin"] = "notin" if match[2] == "!=" else "in"
            requirements.append(Requirement(match[1], operator, (match[3],)))
        elif match := _SET.fullmatch(part):
            values = tuple(value.strip() for value in match[3].split(","))
            requirements.append(Requirement(match[1], "in" if match[2] == "in" else "notin", values))
        elif match := _EXISTENCE.fullmatch(part):
            requirements.append(Requirement(match[2], "absent" if match[1] else "exists"))
        else:
            raise ValueError(f"selector {text!r}: {part!r} cannot be read")
    return requirements


def promql_matchers(requirements: list[Requirement]) -> str:
    """The label matchers of a PromQL selector, without the braces: ``a="b",c=~"d|e",f=""``."""
    return ",".join(map(_matcher, requirements))


def _matcher(requirement: Requirement) -> str:
    # Label names in Prometheus have no dots, dashes or slashes; exporters replace them by underscores.
    label = re.sub(r"\W", "_", requirement.label)
    if requirement.operator == "exists":
        return f'{label}!=""'
    if requirement.operator == "absent":
        return f'{label}=""'
    negated = requirement.operator == "notin"
    if len(requirement.values) == 1:
        return f"{label}{'!=' if negated else '='}{quoted(requirement.values[0])}"
    pattern = "|".join(re.escape(value) for value in requirement.values)
    return f"{label}{'!~' if negated else '=~'}{quoted(pattern)}"


def quoted(text: str) -> str:
    """The text as a PromQL string literal."""
    return json.dumps(text, ensure_ascii=False)
