"""The findings about the credentials of cloud-api-adaptor."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.credential_findings import credential_findings

NEW = {"mode": "", "issuer": "", "root": "mint", "secret": None, "secret_is_outdated": False}
TOKENS = {**NEW, "mode": "Manual", "issuer": "https://issuer", "root": None}


def findings(
    facts: dict | None = NEW,
    platform: str = "AWS",
    *,
    installs: bool = True,
    is_checked: bool = True,
    identity: dict | None = None,
    plan: dict | None = None,
    **options,
) -> list[dict]:
    defaults = {"requested": "auto", "given": [], "token": []}
    source = {"name": "redhat-operators", "namespace": "marketplace"}
    head = {"stable": f"sandboxed-containers-operator.v{options.pop('head', '1.13.0')}"}
    version = options.pop("version", None)
    cluster = {
        "platform": platform,
        "details": {
            "credentials": facts,
            "subscription": version and {"installed_csv": f"sandboxed-containers-operator.v{version}"},
            "catalogs": [{**source, "heads": head, "default_channel": "stable"}],
            "unread": {} if facts or not is_checked else {"credentials": "GET /x was rejected."},
        },
    }
    settings = {
        "installs": installs,
        "channel": "stable",
        "starting_csv": options.pop("starting_csv", ""),
        "source": source["name"],
        "source_namespace": source["namespace"],
        "credentials": defaults | options,
    }
    return list(credential_findings(cluster, settings, identity, plan or {}))


@pytest.mark.parametrize(
    ("secret", "is_outdated", "status"),
    [("credentials_request", True, "warning"), ("credentials_request", False, "ok"), ("given", True, "ok")],
)
def test_credentials_that_were_renewed(secret: str, is_outdated: bool, status: str):
    (finding,) = findings({**NEW, "secret": secret, "secret_is_outdated": is_outdated})
    assert finding["status"] == status
    assert ("oc delete secret peer-pods-secret && oc annotate" in finding["fix"]) is (status == "warning")


def test_a_report_has_no_finding_since_it_reads_no_secrets():
    assert findings(None, is_checked=False) == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "by a CredentialsRequest. The cloud credential operator can grant credentials."),
        ({"facts": {**NEW, "root": None}}, "has no root credential (kube-system/aws-creds). The environment has"),
        ({"facts": {**TOKENS, "secret": "token"}}, "by a token of its service account. The existing peer-pods-secret"),
        ({"facts": TOKENS, "token": ["operator_install_aws_role_arn"]}, "operator_install_aws_role_arn is set."),
        ({"facts": TOKENS, "head": "1.12.1"}, "sandboxed-containers-operator.v1.12.1 takes no tokens on AWS"),
        # The head of the channel is not what runs.
        ({"facts": TOKENS, "version": "1.12.0"}, "sandboxed-containers-operator.v1.12.0 takes no tokens on AWS"),
        ({"facts": TOKENS, "starting_csv": "sandboxed-containers-operator.v1.12.1"}, "v1.12.1 takes no tokens on AWS"),
        # No answer of the cloud credential operator is known.
        (
            {"facts": {**NEW, "mode": None, "root": None}, "requested": "credentials_request"},
            "by a CredentialsRequest.",
        ),
    ],
)
def test_the_way_and_its_reason(options: dict, found: str):
    (finding,) = findings(**options)
    assert (finding["check"], finding["status"]) == ("vm-credentials", "ok")
    assert found in finding["found"]


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (
            {"facts": TOKENS},
            "Set operator_install_aws_role_arn, set operator_install_create_identity to true to",
        ),
        ({"requested": "token"}, "or set operator_install_credentials to given to use an access key."),
        ({"facts": TOKENS, "platform": "Azure"}, "Set operator_install_azure_identity_client_id, set"),
        ({"requested": "token", "version": "1.12.0"}, "1.13 is the first release that does. Upgrade the operator"),
        ({"requested": "credentials_request", "facts": TOKENS}, "is in mode Manual"),
        ({"requested": "credentials_request", "facts": {**NEW, "root": None}}, "has no root credential"),
        ({"given": ["a"], "token": ["b"]}, "a and b are set. Set operator_install_credentials to given or token"),
    ],
)
def test_what_is_missing(options: dict, fix: str):
    (finding,) = findings(**options)
    assert finding["status"] == "error"
    assert fix in finding["fix"]
    # A run of other roles does not need them.
    (finding,) = findings(**options, installs=False)
    assert finding["status"] == "warning"


def test_a_cluster_that_could_not_be_read():
    (finding,) = findings(None)
    assert finding["status"] == "unknown"
    assert finding["found"].endswith("the environment has the credentials. GET /x was rejected.")


def test_another_cloud_has_no_finding():
    assert findings(platform="GCP") == []


def test_an_invalid_option_has_no_finding():
    assert findings(requested="variables") == []


CHECKED = {"problems": [], "denied": [], "unknown": ""}


@pytest.mark.parametrize(
    ("result", "token", "status", "message"),
    [
        (CHECKED, "arn", "ok", "cloud-api-adaptor can use it"),
        (
            {**CHECKED, "problems": ["It does not exist."]},
            "arn",
            "error",
            "It does not exist. The files in docs/policies",
        ),
        (
            {**CHECKED, "denied": ["ec2:RunInstances"]},
            "arn",
            "warning",
            "It may lack permissions: ec2:RunInstances.",
        ),
        ({**CHECKED, "denied": None, "unknown": "Not of this account."}, "arn", "unknown", "Not of this account."),
        ({"msg": "IAM rejected GetRole."}, "arn", "unknown", "IAM rejected GetRole."),
        # The role would fail.
        ({"msg": "IAM rejected GetRole."}, "operator_install_create_identity", "error", "IAM rejected GetRole."),
        (
            {"changes": ["create role", "put policy x"], "role": {"name": "r"}},
            "operator_install_create_identity",
            "ok",
            "r will be changed: create role, put policy x.",
        ),
        ({"changes": [], "identity": {"name": "i"}}, "operator_install_create_identity", "ok", "i is complete."),
        (
            {"changes": ["create role"], "role": {"name": "r"}, "denied": ["iam:CreateRole"]},
            "operator_install_create_identity",
            "warning",
            "The credentials of this run may lack permissions for that: iam:CreateRole.",
        ),
    ],
)
def test_the_role_or_identity(result: dict, token: str, status: str, message: str):
    _way, finding = findings(TOKENS, token=[token], identity=result)
    assert (finding["check"], finding["status"]) == ("vm-identity", status)
    assert message in f"{finding['found']} {finding['fix']}"
    assert findings(TOKENS, token=[token], identity={"skipped": True})[1:] == []


def test_what_prevents_the_credentials_of_the_role_is_reported():
    """Such as half a key pair, which only the role operator_install sees."""
    half = {"credentials": {"problems": ["Set both."]}, "problems": ["Set both.", "A tag has a comma."]}
    (finding,) = findings(plan=half)
    assert (finding["status"], finding["fix"]) == ("error", "Set both.")
    (finding,) = findings(plan={"credentials": {"problems": []}})
    assert finding["status"] == "ok"
    # The choice itself comes first.
    (finding,) = findings(facts=TOKENS, plan=half)
    assert "operator_install_aws_role_arn" in finding["fix"]
