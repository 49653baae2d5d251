# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the credentials of cloud-api-adaptor (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.credentials import (
    CCO_SECRET,
    GIVEN,
    REQUEST,
    TOKEN,
    Choice,
    cannot_grant,
    choose_credentials,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import PEER_PODS_SECRET
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster_findings import channel_head
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import CLOUDS, MAY_BE_GRANTED, finding
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

CHECK, IDENTITY_CHECK = "vm-credentials", "vm-identity"
WHY = "cloud-api-adaptor creates the VMs of peer pods with these credentials."
POLICIES = "The files in docs/policies have the policies. Give them to those who administrate the cloud."

WAYS = {
    GIVEN: "access keys or a service principal that are given",
    REQUEST: "a CredentialsRequest",
    TOKEN: "a token of its service account",
}

OUTDATED = (
    f"{PEER_PODS_SECRET} has other credentials than {CCO_SECRET}, which the cloud credential operator has renewed. The "
    "sandboxed containers operator does not copy them again."
)
RENEW = (
    f"Delete {PEER_PODS_SECRET} and change {CCO_SECRET} in the namespace of the operator, so that it copies them: oc "
    f"delete secret {PEER_PODS_SECRET} && oc annotate --overwrite secret {CCO_SECRET} renewed=$(date +%s). Then "
    "replace the pods of cloud-api-adaptor, each while no peer pod runs on its node."
)

CREATE = "operator_install_create_identity"

# The option that names the identity, by cloud.
IDENTITIES = {"AWS": "operator_install_aws_role_arn", "Azure": "operator_install_azure_identity_client_id"}


def credential_findings(cluster: Mapping, settings: Mapping, identity: Mapping | None, plan: Mapping) -> Iterator[dict]:
    """The findings about the way that `choose_credentials` chooses for the options of the role operator_install.

    `identity` is the result of the module that checks the role or managed identity, if one was checked; `plan` that of
    the filter operator_settings, if it was computed.
    """
    platform, facts = cluster["platform"], cluster["details"]["credentials"]
    options = settings["credentials"]
    # The finding about the options reports an invalid one.
    if platform not in CLOUDS or options["requested"] not in ("auto", *WAYS):
        return
    # A report does not read Secrets.
    if facts is None and "credentials" not in cluster["details"]["unread"]:
        return
    choice = chosen_credentials(cluster, settings)
    problem = (
        choice.problem
        or _missing(choice, options, platform, facts)
        or " ".join((plan.get("credentials") or {}).get("problems") or ())
    )
    summary = f"cloud-api-adaptor gets its credentials by {WAYS[choice.way]}. {choice.reason}"
    if problem:
        yield finding(CHECK, "error" if settings["installs"] else "warning", choice.reason, WHY, problem)
    elif facts is None:
        yield finding(CHECK, "unknown", f"{summary} {cluster['details']['unread']['credentials']}")
    elif choice.way == REQUEST and facts["secret_is_outdated"]:
        yield finding(CHECK, "warning", f"{summary} {OUTDATED}", WHY, RENEW)
    else:
        yield finding(CHECK, "ok", summary)
    if identity and not identity.get("skipped"):
        error = "error" if settings["installs"] else "warning"
        yield (_created if CREATE in options["token"] else _given)(identity, error)


def _created(result: Mapping, error: str) -> dict:
    """The finding about the role or managed identity that operator_install creates: the result of a dry run."""
    if "changes" not in result:
        return finding(IDENTITY_CHECK, error, result["msg"], WHY, POLICIES)
    name = (result.get("role") or result["identity"])["name"]
    if result.get("denied"):
        return finding(
            IDENTITY_CHECK,
            "warning",
            f"{name} will be changed: {join_names(result['changes'])}. The credentials of this run may lack "
            f"permissions for that: {join_names(result['denied'])}.",
            "Without them, the role operator_install fails after ports were opened.",
            f"Grant them as in the guide for AWS. {MAY_BE_GRANTED}",
        )
    if result["changes"]:
        return finding(IDENTITY_CHECK, "ok", f"{name} will be changed: {join_names(result['changes'])}.")
    return finding(IDENTITY_CHECK, "ok", f"{name} is complete.")


def _given(result: Mapping, error: str) -> dict:
    """The finding about the role or managed identity that is set."""
    if "problems" not in result:
        # Who may not read a role may still use it.
        return finding(IDENTITY_CHECK, "unknown", result["msg"])
    if result["problems"]:
        return finding(IDENTITY_CHECK, error, " ".join(result["problems"]), WHY, POLICIES)
    if result["denied"]:
        denied = join_names(result["denied"])
        return finding(
            IDENTITY_CHECK,
            "warning",
            f"It may lack permissions: {denied}. {result['unknown']}".rstrip(),
            WHY,
            f"If other policies or roles grant them on the resources of the cluster, ignore this. {POLICIES}",
        )
    if result["unknown"]:
        return finding(IDENTITY_CHECK, "unknown", result["unknown"])
    return finding(IDENTITY_CHECK, "ok", "cloud-api-adaptor can use it, and its policies allow what is needed.")


def chosen_credentials(cluster: Mapping, settings: Mapping) -> Choice:
    """The way that the role operator_install chooses for these options."""
    options = settings["credentials"]
    return choose_credentials(
        options["requested"],
        cluster["platform"],
        given=options["given"],
        token=options["token"],
        facts=cluster["details"]["credentials"],
        csv=csv_of(cluster, settings),
    )


def csv_of(cluster: Mapping, settings: Mapping) -> str | None:
    """The ClusterServiceVersion that is or will be installed, if it is known."""
    installed = (cluster["details"]["subscription"] or {}).get("installed_csv")
    return installed or settings["starting_csv"] or channel_head(cluster, settings)


def _missing(choice: Choice, options: Mapping, platform: str, facts: Mapping | None) -> str:
    """What the chosen way lacks, as a sentence; empty if it lacks nothing that the cluster shows."""
    if facts is None or facts["secret"] == choice.way:
        return ""
    if choice.way == TOKEN and not options["token"]:
        return (
            f"Set {IDENTITIES[platform]}, set {CREATE} to true to create it, or set "
            f"operator_install_credentials to {GIVEN} to use "
            f"{'an access key' if platform == 'AWS' else 'a service principal'}."
        )
    # Without settings of the cloud credential operator, its own answer to the CredentialsRequest is waited for.
    reason = cannot_grant(facts, platform) if choice.way == REQUEST and facts["mode"] is not None else None
    return f"{reason} Fix this, or set operator_install_credentials to {GIVEN} or {TOKEN}." if reason else ""
