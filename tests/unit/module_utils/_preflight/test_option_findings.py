from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.option_findings import option_findings

HEADS = {"stable": "sandboxed-containers-operator.v1.13.0", "old": "sandboxed-containers-operator.v1.8.1"}
CATALOG = {"name": "c", "namespace": "n", "channels": [*HEADS], "heads": HEADS, "default_channel": "stable"}
OPERATORS = {"configuration": "mutating-webhook-configuration"}
OURS = {"configuration": "peerpods-webhook"}
CONTROLLER = {"kind": "controller"}


def found(
    details: dict | None = None,
    validations: list[dict] | None = None,
    nulls: list[str] | None = None,
    problems: dict | None = None,
    **settings: object,
) -> list[dict]:
    """The findings of a first installation without images, with these differences."""
    defaults = {
        "roles": ["operator_install", "webhook", "node_capacity"],
        "fails": True,
        "images": {"webhook": "", "node_capacity": ""},
        "webhook_manager": "auto",
        "node_capacity_manager": "auto",
        "starting_csv": "",
        "channel": "stable",
        "source": "c",
        "source_namespace": "n",
    }
    nothing = {
        "webhooks": [],
        "limits": {"agent_deployed": False},
        "image_builds": True,
        "operator": None,
        "subscription": None,
        "runtime_class": None,
        "catalogs": [CATALOG],
        "advertisers": [],
    }
    cluster = {"details": {**nothing, **(details or {})}}
    return list(option_findings(cluster, {**defaults, **settings}, validations or [], nulls or [], problems or {}))


def installed(version: str | None, **details: object) -> dict:
    return {"operator": {"version": version}, "runtime_class": {}, **details}


BOTH, AGENT, WEBHOOK = "webhook_image, node_capacity_image are", "node_capacity_image is", "webhook_image is"


@pytest.mark.parametrize(
    ("details", "settings", "missing"),
    [
        # A new operator may deploy its own webhook. From 1.9 on, it does not change a limit without a restart.
        ({}, {}, AGENT),
        ({}, {"channel": "old"}, None),
        ({}, {"starting_csv": HEADS["old"]}, None),
        ({"catalogs": None}, {}, None),
        ({"catalogs": None}, {"starting_csv": HEADS["stable"]}, AGENT),
        # An installed operator shows what it deploys.
        (installed("1.13.0"), {}, BOTH),
        (installed("1.13.0", webhooks=[OPERATORS]), {}, AGENT),
        (installed("1.8.1"), {}, WEBHOOK),
        (installed("1.8.1", webhooks=None), {}, WEBHOOK),
        # A version that cannot be read is that of the channel at most.
        (installed(None, webhooks=[OPERATORS]), {}, AGENT),
        # Chosen.
        ({}, {"webhook_manager": "collection", "node_capacity_manager": "collection"}, BOTH),
        (installed("1.13.0"), {"webhook_manager": "operator", "node_capacity_manager": "operator"}, None),
        # Given, or built.
        (installed("1.13.0"), {"images": {"webhook": "built", "node_capacity": "agent:1"}}, None),
        (installed("1.13.0"), {"images": {"webhook": "", "node_capacity": "agent:1"}}, WEBHOOK),
        # A run of other roles, and a cluster with another installation of the upstream project.
        (installed("1.13.0"), {"roles": ["peerpodconfig_rollout"]}, None),
        (installed("1.13.0"), {"roles": ["webhook"]}, WEBHOOK),
        ({"advertisers": [CONTROLLER]}, {"roles": ["node_capacity"]}, None),
        ({"advertisers": [CONTROLLER]}, {}, AGENT),
        # The image of what is deployed is needed to deploy it again.
        (installed("1.13.0", webhooks=[OURS], limits={"agent_deployed": True}), {}, BOTH),
    ],
)
def test_a_missing_image_is_an_error_before_the_first_change(details: dict, settings: dict, missing: str | None):
    findings = found(details, **settings)
    assert [(finding["check"], finding["status"]) for finding in findings] == ([("images", "error")] if missing else [])
    assert not missing or findings[0]["found"] == f"{missing} not set."


BUILT = {"images": {"webhook": "built", "node_capacity": ""}}


@pytest.mark.parametrize(
    ("can_build", "sentence", "advice"),
    [
        (True, "node_capacity_image is not set.", "node_capacity_image. Or set node_capacity_image_source=build, so"),
        (None, "node_capacity_image is not set.", "node_capacity_image. Or set node_capacity_image_source=build, so"),
        (
            False,
            "node_capacity_image is not set. webhook_image_source is build, but this cluster does not build images",
            "node_capacity_image.",
        ),
    ],
)
def test_an_image_is_built_only_by_a_cluster_that_can(can_build: bool | None, sentence: str, advice: str):
    (finding,) = found(installed("1.13.0", image_builds=can_build), **BUILT)
    assert finding["found"].startswith(sentence)
    assert finding["fix"].endswith(advice) or advice in finding["fix"]
    assert ("Or set" in finding["fix"]) is (can_build is not False)


@pytest.mark.parametrize(
    ("details", "statuses"),
    [
        (installed("1.13.0"), ["warning"]),
        (installed("1.13.0", webhooks=[OURS], limits={"agent_deployed": True}), []),
        (installed("1.13.0", webhooks=[OURS], limits=None), ["warning"]),
    ],
)
def test_a_run_that_changes_nothing_does_not_need_images(details: dict, statuses: list[str]):
    assert [finding["status"] for finding in found(details, fails=False)] == statuses


def test_invalid_options_of_all_roles_are_one_error():
    validations = [
        {"msg": "The arg spec validation passed"},
        {"skipped": True},
        {"argument_errors": ["value of a must be one of: x, y, got: z", "argument 'b' is of type str."]},
        {"failed": True, "msg": "'nope' is undefined"},
    ]
    (finding,) = found(validations=validations, nulls=["a", "c"], roles=[])
    assert (finding["check"], finding["status"]) == ("options", "error")
    assert finding["found"] == (
        "value of a must be one of: x, y, got: z. argument 'b' is of type str. 'nope' is undefined. c is null."
    )


PROBLEMS = {"webhook": ["Two ports are one."], "peerpodconfig_rollout": ["Two waves are one."]}
GIVEN = {"webhook": "webhook:1", "node_capacity": "agent:1"}


@pytest.mark.parametrize(
    ("details", "settings", "reported"),
    [
        ({}, {"roles": ["webhook", "peerpodconfig_rollout"]}, "Two ports are one. Two waves are one."),
        ({}, {"roles": ["webhook"]}, "Two ports are one."),
        ({}, {"roles": ["operator_install"]}, None),
        # The options of a webhook that is not deployed.
        ({}, {"roles": ["webhook"], "webhook_manager": "operator"}, None),
        ({"webhooks": [OPERATORS]}, {"roles": ["webhook"]}, None),
        ({"webhooks": [OPERATORS]}, {"roles": ["webhook"], "webhook_manager": "collection"}, "Two ports are one."),
    ],
)
def test_problems_of_the_options_of_a_role_are_errors_of_runs_with_the_role(
    details: dict, settings: dict, reported: str | None
):
    findings = found(details, problems=PROBLEMS, images=GIVEN, **settings)
    assert [(finding["check"], finding["status"]) for finding in findings] == (
        [("options", "error")] if reported else []
    )
    assert not reported or findings[0]["found"] == reported
