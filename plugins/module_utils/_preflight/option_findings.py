# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the options of the roles, which each role would validate only when it starts (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import behaviour_of
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster_findings import (
    OUR_CONFIGURATION,
    planned_csv,
)
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.features import OPERATORS_CONFIGURATION
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import finding
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# In place of the name of an image that OpenShift builds.
BUILT = "built"

# What an invalid option that is noticed late costs.
WHY = "Each role validates its options when it starts, after the roles before it have changed the cluster."


def option_findings(
    cluster: Mapping,
    settings: Mapping,
    validations: Iterable[Mapping],
    nulls: Iterable[str],
    problems: Mapping[str, Iterable[str]],
) -> Iterator[dict]:
    """`validations` are the results of validate_argument_spec, one for each role; `nulls` are options without a value,
    although they have a default; `problems` are sentences about the options of a role together, by role."""
    errors = [error.rstrip(".") for validation in validations for error in _errors(validation)]
    # The validation rejects a null of other types than a string.
    errors += [f"{name} is null" for name in nulls if not any(name in error for error in errors)]
    sentences = [f"{'. '.join(errors)}."] if errors else []
    sentences += [problem for role, each in problems.items() if _runs(role, cluster, settings) for problem in each]
    if sentences:
        yield finding("options", "error", " ".join(sentences), WHY, "Correct these options, or leave them out.")
    yield from _images(cluster, settings)


def _images(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    roles = list(_roles_with_image(cluster, settings))
    missing = [f"{role}_image" for role in roles if not settings["images"][role]]
    unbuilt = [f"{role}_image_source" for role in roles if settings["images"][role] == BUILT]
    lacks = []
    if missing:
        lacks.append(f"{join_names(missing)} {'is' if len(missing) == 1 else 'are'} not set")
    can_build = cluster["details"]["image_builds"] is not False
    if unbuilt and not can_build:
        lacks.append(
            f"{join_names(unbuilt)} {'is' if len(unbuilt) == 1 else 'are'} build, but this cluster does not build "
            "images: its capabilities Build and ImageRegistry are disabled"
        )
    if lacks:
        sources = join_names([f"{name}_source=build" for name in missing])
        yield finding(
            "images",
            # Another run may have the option, such as that of another job template.
            "error" if settings["fails"] else "warning",
            f"{'. '.join(lacks)}.",
            "The cluster pulls the images of the webhook and of the agent from a registry, or builds them.",
            "Build containers/webhook or containers/node_capacity, push it to a registry that the cluster can pull "
            "from, and name it in webhook_image or node_capacity_image."
            + (f" Or set {sources}, so that OpenShift builds it." if sources and can_build else ""),
        )


def _runs(role: str, cluster: Mapping, settings: Mapping) -> bool:
    """Whether this run has the role, and the webhook of the collection may be deployed."""
    manager, webhooks = settings["webhook_manager"], cluster["details"]["webhooks"] or ()
    is_of_operator = manager == "operator" or (
        manager == "auto" and any(webhook["configuration"] == OPERATORS_CONFIGURATION for webhook in webhooks)
    )
    return role in settings["roles"] and not (role == "webhook" and is_of_operator)


def _errors(validation: Mapping) -> list[str]:
    """The validation fails itself if an option refers to an undefined variable."""
    return validation.get("argument_errors") or ([validation["msg"]] if validation.get("failed") else [])


def _roles_with_image(cluster: Mapping, settings: Mapping) -> Iterator[str]:
    """The roles that deploy a container in this run; a role is left out if only the run itself can decide."""
    details = cluster["details"]
    configurations = {webhook["configuration"] for webhook in details["webhooks"] or ()}
    is_deployed = {
        "webhook": OUR_CONFIGURATION in configurations,
        "node_capacity": (details["limits"] or {}).get("agent_deployed"),
    }
    deploys = {
        "webhook": _deploys_webhook(details, settings["webhook_manager"], configurations),
        "node_capacity": _deploys_agent(cluster, settings),
    }
    for role, is_needed in deploys.items():
        # A run that changes nothing does not need the image of what is deployed.
        if is_needed and role in settings["roles"] and (settings["fails"] or not is_deployed[role]):
            yield role


def _deploys_webhook(details: Mapping, manager: str, configurations: set[str]) -> bool:
    """An operator that is not installed yet may deploy its own webhook."""
    if manager == "auto":
        return bool(details["operator"]) and OPERATORS_CONFIGURATION not in configurations
    return manager == "collection"


def _deploys_agent(cluster: Mapping, settings: Mapping) -> bool:
    """By the version of the operator that is installed or would be installed."""
    details, manager = cluster["details"], settings["node_capacity_manager"]
    if manager == "auto":
        is_upstream = any(advertiser["kind"] == "controller" for advertiser in details["advertisers"] or ())
        if is_upstream and not details["operator"] and "operator_install" not in settings["roles"]:
            return False
        csv = planned_csv(cluster, settings)
        version = (details["operator"] or {}).get("version") or (csv or "").partition(".v")[2]
        return bool(version) and behaviour_of(version).is_second
    return manager == "collection"
