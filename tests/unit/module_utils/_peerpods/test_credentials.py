"""Which way the credentials of cloud-api-adaptor come, and why."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.credentials import (
    Choice,
    choose_credentials,
    is_outdated,
    secret_source,
    takes_session_token,
)

FACTS = {"mode": "", "issuer": "", "root": "passthrough", "secret": None}
REQUESTED = {"kataconfiguration.openshift.io/credentials-request-based": "true"}
TOKENS = {"mode": "Manual", "issuer": "https://issuer", "root": None}


def choose(requested: str = "auto", platform: str = "AWS", csv: str = "1.13.0", **options) -> Choice:
    defaults = {"given": [], "token": [], "facts": FACTS}
    named = f"sandboxed-containers-operator.v{csv}" if csv else None
    return choose_credentials(requested, platform, csv=named, **(defaults | options))


@pytest.mark.parametrize(
    ("granted", "outdated"),
    [
        ({"aws_access_key_id": "QQ==", "aws_secret_access_key": "Qg=="}, False),
        ({"aws_access_key_id": "QQ==", "aws_secret_access_key": "Qw=="}, True),
        # The operator copies only what cloud-api-adaptor reads.
        ({"credentials": "W2RlZmF1bHRd"}, False),
        ({}, False),
    ],
)
def test_whether_the_operator_has_not_copied_what_was_granted(granted: dict, outdated: bool):
    assert is_outdated({"AWS_ACCESS_KEY_ID": "QQ==", "AWS_SECRET_ACCESS_KEY": "Qg=="}, granted) is outdated


@pytest.mark.parametrize(
    ("options", "way", "reason"),
    [
        # An option that is set decides, also against what exists.
        ({"given": ["key"], "facts": {**FACTS, **TOKENS, "secret": "token"}}, "given", "key is set."),
        ({"given": ["id", "key"]}, "given", "id and key are set."),
        ({"token": ["arn"], "facts": {**FACTS, "secret": "given"}}, "token", "arn is set."),
        # Then what exists.
        ({"facts": {**FACTS, **TOKENS, "secret": "given"}}, "given", "The existing peer-pods-secret came this way."),
        ({"facts": {**FACTS, "secret": "token"}}, "token", "The existing peer-pods-secret came this way."),
        # Then what the cluster can do.
        ({"facts": {**FACTS, **TOKENS}}, "token", "have the issuer https://issuer."),
        ({}, "credentials_request", "can grant credentials."),
        ({"facts": {**FACTS, "root": ""}}, "credentials_request", "can grant credentials."),
        ({"facts": {**FACTS, "mode": "Mint", "root": "mint"}}, "credentials_request", "can grant credentials."),
        # Else the environment.
        ({"facts": {**FACTS, "root": None}}, "given", "no root credential (kube-system/aws-creds). The environment"),
        ({"platform": "Azure", "facts": {**FACTS, "root": None}}, "given", "(kube-system/azure-credentials)"),
        ({"facts": {**FACTS, "root": "insufficient"}}, "given", "lacks permissions. The environment"),
        ({"facts": {**FACTS, "mode": "Manual"}}, "given", "the service account tokens have no public issuer."),
        ({"facts": {**FACTS, "mode": None}}, "given", "has no settings of the cloud credential operator."),
        ({"facts": None}, "given", "could not be read"),
        # An operator that takes no tokens.
        ({"facts": {**FACTS, **TOKENS}, "csv": "1.12.1"}, "given", "1.12.1 takes no tokens on AWS: 1.13 is the first"),
        ({"facts": {**FACTS, **TOKENS}, "csv": "1.12.1", "platform": "Azure"}, "token", "have the issuer"),
        ({"facts": {**FACTS, **TOKENS}, "csv": ""}, "token", "have the issuer"),
        # What is requested.
        ({"requested": "given", "facts": {**FACTS, **TOKENS}}, "given", "operator_install_credentials is given."),
        ({"requested": "token"}, "token", "operator_install_credentials is token."),
    ],
)
def test_the_way(options: dict, way: str, reason: str):
    choice = choose(**options)
    assert (choice.way, choice.problem) == (way, "")
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"given": ["key"], "token": ["arn"]},
            "key and arn are set. Set operator_install_credentials to",
        ),
        ({"requested": "token", "csv": "1.12.1"}, "1.13 is the first release that does. Upgrade the operator"),
        ({"token": ["id"], "csv": "1.11.0", "platform": "Azure"}, "1.12 is the first release that does."),
    ],
)
def test_a_way_that_cannot_work(options: dict, problem: str):
    assert problem in choose(**options).problem


@pytest.mark.parametrize(
    ("labels", "keys", "source"),
    [
        ({}, {"AWS_ACCESS_KEY_ID"}, "given"),
        ({"kataconfiguration.openshift.io/sts": "aws"}, {"AWS_ROLE_ARN"}, "token"),
        (
            REQUESTED,
            {"AWS_ACCESS_KEY_ID"},
            "credentials_request",
        ),
        # cco-secret of ccoctl.
        (
            REQUESTED,
            {"AWS_WEB_IDENTITY_TOKEN_FILE"},
            "token",
        ),
    ],
)
def test_the_way_that_a_secret_came_from(labels: dict, keys: set[str], source: str):
    assert secret_source(labels, keys) == source


def test_the_releases_that_read_a_session_token():
    csv = "sandboxed-containers-operator.v{}".format
    assert [takes_session_token(each) for each in (csv("1.10.3"), csv("1.11.0"), None)] == [False, True, True]
