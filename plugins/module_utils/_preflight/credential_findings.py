# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the credentials of cloud-api-adaptor (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.credentials import (
    GIVEN,
    REQUEST,
    TOKEN,
    Choice,
    cannot_grant,
    choose_credentials,
)
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster_findings import channel_head
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import CLOUDS, finding

CHECK = "vm-credentials"
WHY = "cloud-api-adaptor creates the VMs of peer pods with these credentials."

WAYS = {
    GIVEN: "access keys or a service principal that are given",
    REQUEST: "a CredentialsRequest",
    TOKEN: "a token of its service account",
}

# The option that names the identity, by cloud.
IDENTITIES = {"AWS": "operator_install_aws_role_arn", "Azure": "operator_install_azure_identity_client_id"}


def credential_findings(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    """The findings about the way that `choose_credentials` chooses for the options of the role operator_install."""
    platform, facts = cluster["platform"], cluster["details"]["credentials"]
    if platform not in CLOUDS:
        return
    options = settings["credentials"]
    installed = (cluster["details"]["subscription"] or {}).get("installed_csv")
    csv = installed or settings["starting_csv"] or channel_head(cluster, settings)
    choice = choose_credentials(
        options["requested"],
        platform,
        given=options["given"],
        token=options["token"],
        facts=facts,
        csv=csv,
    )
    problem = choice.problem or _missing(choice, options, platform, facts)
    summary = f"cloud-api-adaptor gets its credentials by {WAYS[choice.way]}. {choice.reason}"
    if problem:
        yield finding(CHECK, "error" if settings["installs"] else "warning", choice.reason, WHY, problem)
    elif facts is None:
        yield finding(CHECK, "unknown", f"{summary} {cluster['details']['unread']['credentials']}")
    else:
        yield finding(CHECK, "ok", summary)


def _missing(choice: Choice, options: Mapping, platform: str, facts: Mapping | None) -> str:
    """What the chosen way lacks, as a sentence; empty if it lacks nothing that the cluster shows."""
    if facts is None or facts["secret"] == choice.way:
        return ""
    if choice.way == TOKEN and IDENTITIES[platform] not in options["token"]:
        return (
            f"Set {IDENTITIES[platform]}, or set operator_install_credentials to {GIVEN} to use "
            f"{'an access key' if platform == 'AWS' else 'a service principal'}."
        )
    # Without settings of the cloud credential operator, its own answer to the CredentialsRequest is waited for.
    reason = cannot_grant(facts, platform) if choice.way == REQUEST and facts["mode"] is not None else None
    return f"{reason} Fix this, or set operator_install_credentials to {GIVEN} or {TOKEN}." if reason else ""
