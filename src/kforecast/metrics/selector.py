"""Kubernetes label selectors: from the user's words to their string form, from that to PromQL.

The string form, ``a=b,c in (d,e),!f``, is what the metrics provider takes (contract 4); its grammar:
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
# Commas separate requirements, but not inside the brackets of a set.
_SEPARATOR = re.compile(r",(?![^()]*\))")


class Requirement(NamedTuple):
    """One requirement: the label's value is among ``values``, or not; no values means any value."""

    label: str
    operator: Literal["in", "notin", "exists", "absent"]
    values: tuple[str, ...] = ()

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether a series with these labels is selected."""
        if self.operator == "in":
            return labels.get(self.label) in self.values
        if self.operator == "notin":
            return labels.get(self.label) not in self.values
        return (self.label in labels) == (self.operator == "exists")


def selector_text(selector: LabelSelector) -> str:
    """The string form of a selector, in the order Kubernetes writes it: sorted by label."""
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
    """Read the string form of a selector.

    Raises
    ------
    ValueError
        Naming the requirement that cannot be read.
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
    """Requirements as what stands between the braces of a PromQL selector: ``a="b",c=~"d|e",f=""``."""
    return ",".join(map(_matcher, requirements))


def _matcher(requirement: Requirement) -> str:
    # Prometheus' label names know neither dots nor dashes nor slashes; exporters put underscores there.
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
    """A PromQL string literal."""
    return json.dumps(text, ensure_ascii=False)
