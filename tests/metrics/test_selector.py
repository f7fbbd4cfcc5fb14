"""Label selectors: the string form keeps the meaning."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.metrics.selector import parse_selector, promql_matchers, selector_text
from kforecast.metrics.spec import LabelSelector

LABELS = st.sampled_from(["app", "a.b/c-d", "tier"])
VALUES = st.sampled_from(["x", "y", "z-1", ""])
SOME = st.lists(VALUES, min_size=1, max_size=3)
EXPRESSIONS = st.one_of(
    st.fixed_dictionaries({"key": LABELS, "operator": st.sampled_from(["In", "NotIn"]), "values": SOME}),
    st.fixed_dictionaries({"key": LABELS, "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
)
SELECTORS = st.fixed_dictionaries(
    {"matchLabels": st.dictionaries(LABELS, VALUES), "matchExpressions": st.lists(EXPRESSIONS, max_size=3)}
)


def selects(selector: LabelSelector, labels: dict[str, str]) -> bool:
    """Evaluate a selector as Kubernetes defines it."""
    meaning = {
        "In": lambda one: labels.get(one.key) in one.values,
        "NotIn": lambda one: labels.get(one.key) not in one.values,
        "Exists": lambda one: one.key in labels,
        "DoesNotExist": lambda one: one.key not in labels,
    }
    return all(labels.get(key) == value for key, value in selector.matchLabels.items()) and all(
        meaning[one.operator](one) for one in selector.matchExpressions
    )


@settings(deadline=None)
@given(content=SELECTORS, labels=st.dictionaries(LABELS, VALUES))
def test_the_string_form_selects_the_same(content: dict[str, object], labels: dict[str, str]) -> None:
    selector = LabelSelector.model_validate(content)
    requirements = parse_selector(selector_text(selector))
    assert all(requirement.holds(labels) for requirement in requirements) == selects(selector, labels)


def test_the_string_form_is_sorted_by_label() -> None:
    expressions = [
        {"key": "c", "operator": "In", "values": ["e", "d"]},
        {"key": "b", "operator": "DoesNotExist"},
    ]
    selector = LabelSelector.model_validate({"matchLabels": {"d": "1"}, "matchExpressions": expressions})
    assert selector_text(selector) == "!b,c in (d,e),d=1"


@pytest.mark.parametrize(
    "text, matchers",
    [
        ("", ""),
        ("a=b", 'a="b"'),
        ("a==b,c!=d", 'a="b",c!="d"'),
        ("c in (d, e.f)", r'c=~"d|e\\.f"'),
        ("c notin (d)", 'c!="d"'),
        ("a, !b", 'a!="",b=""'),
        ("app.kubernetes.io/name=web", 'app_kubernetes_io_name="web"'),
    ],
)
def test_matchers_of_promql(text: str, matchers: str) -> None:
    assert promql_matchers(parse_selector(text)) == matchers


@pytest.mark.parametrize("text", ["a=b,=c", "a in b", "a in (b", 'a="b"} or vector(1)'])
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        parse_selector(text)
