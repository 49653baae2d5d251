from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import (
    SYSTEM_NAMESPACES,
    AdmissionError,
    namespaces,
    stored_selector,
)


@pytest.mark.parametrize(
    ("namespace", "excluded"),
    [
        ("kube-system", True),
        ("openshift", True),
        ("openshift-etcd", True),
        ("openshift-sandboxed-containers-operator", True),
        ("openshifty", False),
        ("kubernetes", False),
        ("default", False),
        ("my-openshift-app", False),
    ],
)
def test_the_system_namespaces(namespace, excluded):
    assert (namespace in namespaces(SYSTEM_NAMESPACES)) is excluded


def test_an_empty_list_contains_no_namespace():
    assert "a" not in namespaces([])


@pytest.mark.parametrize("pattern", ["*", "", "a*b", "*a", "a**", "A", "-a", "a.b", 'a"', "a" * 64, "a_b"])
def test_invalid_namespace_patterns_are_rejected(pattern):
    with pytest.raises(AdmissionError, match="is not a namespace"):
        namespaces([pattern])


def test_empty_parts_of_a_selector_are_equal_to_missing_ones():
    selector = {"matchLabels": {"a": "b"}, "matchExpressions": []}
    assert stored_selector(selector) == {"matchLabels": {"a": "b"}}
