"""The containers of the collection are found by their marks, whatever the options of a run are."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.placement import (
    chosen_namespace,
    namespace_of_binding,
    namespace_of_registration,
    placement_problem,
)

OURS = {"labels": {"app.kubernetes.io/part-of": "osc.peerpods"}}
SUBJECTS = [
    {"kind": "ServiceAccount", "name": "other", "namespace": "a"},
    {"kind": "ServiceAccount", "name": "peerpods-node-capacity", "namespace": "b"},
]


@pytest.mark.parametrize(
    ("binding", "namespace"),
    [
        (None, None),
        ({"metadata": OURS, "subjects": SUBJECTS}, "b"),
        ({"metadata": OURS, "subjects": SUBJECTS[:1]}, None),
        ({"metadata": OURS}, None),
        # Of another owner.
        ({"metadata": {}, "subjects": SUBJECTS}, None),
        ({"metadata": {"labels": {"app.kubernetes.io/part-of": "other"}}, "subjects": SUBJECTS}, None),
    ],
)
def test_the_binding_names_the_namespace_of_the_agent(binding: dict | None, namespace: str | None):
    assert namespace_of_binding(binding) == namespace


def webhooks(*services: dict | None) -> dict:
    return {"webhooks": [{"name": "x", "clientConfig": {"service": service}} for service in services]}


@pytest.mark.parametrize(
    ("registration", "namespace"),
    [
        (None, None),
        ({"metadata": OURS, **webhooks(None, {"name": "peerpods-webhook", "namespace": "b"})}, "b"),
        ({"metadata": OURS, **webhooks({"name": "other", "namespace": "b"})}, None),
        ({"metadata": OURS}, None),
        ({"metadata": {}, **webhooks({"name": "peerpods-webhook", "namespace": "b"})}, None),
    ],
)
def test_the_registration_names_the_namespace_of_the_webhook(registration: dict | None, namespace: str | None):
    assert namespace_of_registration(registration) == namespace


@pytest.mark.parametrize(
    ("given", "found", "chosen", "is_refused"),
    [
        # A first installation.
        (None, [], "osc-peerpods", False),
        ("", [], "osc-peerpods", False),
        ("infra", [], "infra", False),
        # A later run without the option, and with it.
        (None, ["infra"], "infra", False),
        ("", ["infra"], "infra", False),
        ("infra", ["infra"], "infra", False),
        ("other", ["infra"], "infra", True),
        # The parts of an interrupted run.
        (None, ["infra", "other"], "infra", False),
        ("other", ["infra", "other"], "infra", True),
    ],
)
def test_an_existing_container_stays_where_it_is(given: str | None, found: list[str], chosen: str, is_refused: bool):
    assert chosen_namespace(given, found) == chosen
    for role, tags in (
        ("webhook", "--tags webhook, "),
        ("node_capacity", "--tags node_capacity,peerpodconfig_rollout, "),
    ):
        problem = placement_problem(role, given, found)
        assert bool(problem) == is_refused
        if problem:
            assert (
                f"set to {given}, but this collection has deployed it in infra. Leave {role}_namespace out" in problem
            )
            assert problem.endswith(f"{tags}which also removes the options that a run keeps: set them again.")
