# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where the credentials of cloud-api-adaptor come from, and why.

Sources: openshift/sandboxed-containers-operator (SCO) and openshift/cloud-credential-operator (CCO).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import METADATA_ONLY, Cluster
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import csv_version
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import PEER_PODS_SECRET
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.ownership import REQUESTED, STS

GIVEN, REQUEST, TOKEN = "given", "credentials_request", "token"

# The keys of peer-pods-secret that have a token instead of a secret (docs/credentials-handling.md of SCO).
TOKEN_KEYS = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AZURE_FEDERATED_TOKEN_FILE")

# The first release of the operator that makes peer-pods-secret from ROLEARN (SCO's pull request 2189; the CSV of 1.13.1
# has the annotation features.operators.openshift.io/token-auth-aws) or from CLIENTID, TENANTID and SUBSCRIPTIONID
# (pull request 879; config/peerpods/podvm/osc-podvm-create-job.yaml of 1.12.0 mounts a token for the cloud).
TAKES_TOKENS = {"AWS": (1, 13), "Azure": (1, 12)}

# CAA's b5fcd95e (2025-09, in v0.16.0): cloud-api-adaptor reads AWS_SESSION_TOKEN. 1.11 is the first release after it.
TAKES_SESSION_TOKENS = (1, 11)

# SCO's pull request 2189: the job that creates the image on AWS uses the given credentials, and creates neither the
# bucket nor the role vmimport with them (config/peerpods/podvm/aws-podvm-image-handler.sh). Before, it requests others.
IMAGE_JOB_TAKES_GIVEN = (1, 13)

# The first release whose job on AWS requests credentials that may create both, and waits for them without end
# (extended_credentials in config/peerpods/podvm/ami-helper.sh of 1.10).
IMAGE_JOB_REQUESTS = (1, 10)

CLOUD_CREDENTIAL_PATH = "/apis/operator.openshift.io/v1/cloudcredentials/cluster"
AUTHENTICATION_PATH = "/apis/config.openshift.io/v1/authentications/cluster"

# The Secret that CCO writes for the CredentialsRequest. From SCO's pull request 879 (1.12) on, the operator updates
# peer-pods-secret from it only if it is its controller, and creates peer-pods-secret with an owner that is not
# (isCCOFlowSecret and createOrUpdateSecret in controllers/credentials_controller.go): new credentials stay in it.
CCO_SECRET = "cco-secret"

# The credential of which CCO makes others, and its annotation with what it can make, which may be insufficient
# (pkg/operator/constants/constants.go of CCO).
ROOT_SECRETS = {"AWS": "aws-creds", "Azure": "azure-credentials"}
ROOT_NAMESPACE = "kube-system"
ROOT_ANNOTATION = "cloudcredential.openshift.io/mode"
INSUFFICIENT = "insufficient"


@dataclass(frozen=True)
class Choice:
    """The way in which cloud-api-adaptor gets its credentials, the reason for it, and why it cannot work, if so."""

    way: str
    reason: str
    problem: str = ""


def read_credentials(cluster: Cluster, platform: str | None, namespace: str) -> dict:
    """The facts that decide about the way: CCO's mode, the issuer of tokens, the root credential, peer-pods-secret.

    A fact is None if its object or its kind does not exist. Of the root credential only the metadata are read. No value
    of a Secret is returned.
    """
    settings = cluster.get(CLOUD_CREDENTIAL_PATH)
    authentication = cluster.get(AUTHENTICATION_PATH)
    name = ROOT_SECRETS.get(platform or "")
    root = cluster.get(f"/api/v1/namespaces/{ROOT_NAMESPACE}/secrets/{name}", METADATA_ONLY) if name else None
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    secret = cluster.get(f"{secrets}/{PEER_PODS_SECRET}")
    source = None if secret is None else secret_source(secret["metadata"].get("labels") or {}, secret.get("data") or {})
    granted = cluster.get(f"{secrets}/{CCO_SECRET}") if source == REQUEST else None
    return {
        # The default mode is an empty string.
        "mode": None if settings is None else (settings.get("spec") or {}).get("credentialsMode", ""),
        "issuer": None if authentication is None else (authentication.get("spec") or {}).get("serviceAccountIssuer"),
        "root": None if root is None else (root["metadata"].get("annotations") or {}).get(ROOT_ANNOTATION, ""),
        "secret": source,
        "secret_is_outdated": is_outdated((secret or {}).get("data") or {}, (granted or {}).get("data") or {}),
    }


def is_outdated(data: Mapping[str, str], granted: Mapping[str, str]) -> bool:
    """Whether peer-pods-secret has other credentials than the Secret that CCO granted."""
    return any(key.upper() in data and data[key.upper()] != value for key, value in granted.items())


def secret_source(labels: Mapping[str, str], keys: Collection[str]) -> str:
    """The way that peer-pods-secret came from. The operator labels the Secrets that it makes."""
    if STS in labels or (REQUESTED in labels and any(key in keys for key in TOKEN_KEYS)):
        return TOKEN
    return REQUEST if REQUESTED in labels else GIVEN


def choose_credentials(
    requested: str,
    platform: str | None,
    *,
    given: Sequence[str],
    token: Sequence[str],
    facts: Mapping[str, str | None] | None,
    csv: str | None,
) -> Choice:
    """The way for `requested`, the value of operator_install_credentials.

    `given` and `token` are the names of the options of either way that are set, `facts` what `read_credentials`
    returned (None if it failed), and `csv` is the ClusterServiceVersion that is or will be installed, if it is known.
    """
    problem = _no_tokens(platform, csv)
    if requested != "auto":
        return Choice(
            requested,
            f"operator_install_credentials is {requested}.",
            problem if requested == TOKEN else "",
        )
    if given and token:
        return Choice(
            TOKEN,
            f"{_are_set(token)}",
            f"{_are_set([*given, *token])} Set operator_install_credentials to {GIVEN} or {TOKEN}, or leave out the "
            "options of the other.",
        )
    if given:
        return Choice(GIVEN, _are_set(given))
    if token:
        return Choice(TOKEN, _are_set(token), problem)
    if facts is None:
        return Choice(GIVEN, "What the cluster can grant could not be read: the environment has the credentials.")
    if facts["secret"]:
        return Choice(facts["secret"], f"The existing {PEER_PODS_SECRET} came this way.")
    if facts["mode"] == "Manual" and facts["issuer"]:
        state = (
            "The cloud credential operator is in mode Manual, and the service account tokens of the cluster have the "
            f"issuer {facts['issuer']}."
        )
        if problem:
            return Choice(GIVEN, f"{problem} The environment has the credentials.")
        return Choice(TOKEN, state)
    reason = cannot_grant(facts, platform)
    if reason is None:
        return Choice(REQUEST, "The cloud credential operator can grant credentials.")
    return Choice(GIVEN, f"{reason} The environment has the credentials.")


def _are_set(options: Sequence[str]) -> str:
    return f"{' and '.join(options)} {'is' if len(options) == 1 else 'are'} set."


def _no_tokens(platform: str | None, csv: str | None) -> str:
    first = TAKES_TOKENS.get(platform or "")
    if not first or not csv or csv_version(csv) >= first:
        return ""
    release = ".".join(map(str, first))
    return (
        f"{csv} takes no tokens on {platform}: {release} is the first release that does. Upgrade the operator, or set "
        f"operator_install_credentials to {GIVEN}."
    )


def takes_session_token(csv: str | None) -> bool:
    """Whether cloud-api-adaptor of this release reads AWS_SESSION_TOKEN; true if the release is not known."""
    return not csv or csv_version(csv) >= TAKES_SESSION_TOKENS


def image_job_needs_bucket(way: str, csv: str | None) -> bool:
    """Whether the image job on AWS takes a bucket and the role vmimport that exist; otherwise it creates them. True if
    the release is not known."""
    return way == GIVEN and (not csv or csv_version(csv) >= IMAGE_JOB_TAKES_GIVEN)


def image_job_requests(way: str, csv: str | None) -> bool:
    """Whether the image job on AWS requests credentials although others are given; false if the release is not
    known."""
    return way == GIVEN and bool(csv) and IMAGE_JOB_REQUESTS <= csv_version(csv or "") < IMAGE_JOB_TAKES_GIVEN


def cannot_grant(facts: Mapping[str, str | None], platform: str | None) -> str | None:
    """Why CCO grants no credentials, as a sentence; None if it does."""
    if facts["mode"] is None:
        return "The cluster has no settings of the cloud credential operator."
    if facts["mode"] == "Manual":
        if facts["issuer"]:
            return "The cloud credential operator is in mode Manual, in which it grants no credentials."
        return "The cloud credential operator is in mode Manual, and the service account tokens have no public issuer."
    name = f"{ROOT_NAMESPACE}/{ROOT_SECRETS.get(platform or '')}"
    if facts["root"] is None:
        return f"The cloud credential operator has no root credential ({name})."
    if facts["root"] == INSUFFICIENT:
        return f"The root credential of the cloud credential operator ({name}) lacks permissions."
    return None
