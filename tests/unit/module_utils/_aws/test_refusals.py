"""What to do about a request that AWS rejects, by the texts of the IAM User Guide, and about one that was not sent."""

from __future__ import annotations

import json

import botocore.exceptions
import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.refusals import (
    THROTTLING,
    advise_code,
    advise_exception,
    explain_decoded,
    split_encoded,
)
from botocore.retries.standard import ThrottledRetryableChecker

ACTION = "ec2:DescribeVpcs"
WHO = "arn:aws:iam::123456789012:user/ana"
DENIED = f"User: {WHO} is not authorized to perform: {ACTION} on resource: * "
ROLE = "arn:aws:iam::123456789012:role/peerpods"


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (DENIED + "because no identity-based policy allows the ec2:DescribeVpcs action", f"Grant {ACTION} to {WHO}."),
        (DENIED, f"Grant {ACTION} to {WHO}."),
        ("You are not authorized to perform this operation.", f"Grant {ACTION} to the identity of these credentials."),
        (
            DENIED + "with an explicit deny in a service control policy",
            "A policy of the AWS organization does not allow",
        ),
        (
            DENIED + "because no service control policy allows the ec2:DescribeVpcs action",
            "A policy of the AWS organization",
        ),
        (DENIED + "with an explicit deny in a resource control policy", "A policy of the AWS organization"),
        (
            DENIED + "because no permissions boundary allows the ec2:DescribeVpcs action",
            "The permissions boundary of the",
        ),
        (DENIED + "because no session policy allows the ec2:DescribeVpcs action", "The session policy that was passed"),
        (
            DENIED + "because no VPC endpoint policy allows the ec2:DescribeVpcs action",
            "The policy of the VPC endpoint",
        ),
        (DENIED + "with an explicit deny in an identity-based policy", "A policy denies ec2:DescribeVpcs explicitly"),
        (
            f"User: {WHO} is not authorized to perform: sts:AssumeRole on resource: {ROLE}",
            f"Grant sts:AssumeRole on {ROLE} to the identity, and name the identity in the trust policy",
        ),
    ],
)
@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"])
def test_a_denial_gets_the_advice_of_the_policy_that_denies(code: str, message: str, advice: str):
    assert advise_code(code, message, ACTION).startswith(advice)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("ExpiredToken", "The credentials have expired"),
        ("AuthFailure", "Set AWS_ACCESS_KEY_ID"),
        ("OptInRequired", "Enable the region"),
        ("RequestLimitExceeded", "Other requests of the account"),
        ("InvalidParameterValue", ""),
    ],
)
def test_other_codes_get_their_own_advice(code: str, advice: str):
    given = advise_code(code, "no", ACTION)
    assert given.startswith(advice)
    assert bool(given) == bool(advice)


def test_every_code_that_botocore_takes_for_throttling_is_repeated():
    # The others belong to services that the collection does not call.
    others = {"LimitExceededException", "ProvisionedThroughputExceededException", "TransactionInProgressException"}
    assert set(ThrottledRetryableChecker._THROTTLED_ERROR_CODES) - others <= set(THROTTLING)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("UnauthorizedSSOTokenError", "The SSO session of the profile has ended"),
        ("SSOTokenLoadError", "The SSO session of the profile has ended"),
        ("TokenRetrievalError", "The SSO session of the profile has ended"),
        ("NoCredentialsError", "Set AWS_ACCESS_KEY_ID"),
        ("CredentialRetrievalError", "Check the command (credential_process)"),
        ("InfiniteLoopConfigError", "Correct the profile"),
        ("SSLError", "Check the CA bundle"),
        ("ProxyConnectionError", "Check HTTPS_PROXY"),
        ("UnknownEndpointError", "Correct the region"),
        ("ConnectTimeoutError", "Check region and endpoint_url"),
        ("ReadTimeoutError", "Check region and endpoint_url"),
    ],
)
def test_a_request_without_an_answer_gets_the_advice_of_its_exception(name: str, advice: str):
    bases = getattr(botocore.exceptions, name).__mro__
    assert advise_exception({base.__name__ for base in bases}).startswith(advice)


def test_the_encoded_part_of_a_message_is_split_off():
    assert split_encoded("No. Encoded authorization failure message: AbC-_d") == ("No", "AbC-_d")
    assert split_encoded("No.") == ("No", None)


@pytest.mark.parametrize(
    ("denial", "reason"),
    [
        (
            {"explicitDeny": True, "matchedStatements": {"items": [{"statementId": "NoPorts"}]}},
            "statement NoPorts denies it",
        ),
        ({"explicitDeny": True, "matchedStatements": {"items": []}}, "a statement denies it explicitly"),
        ({"explicitDeny": False, "matchedStatements": {"items": []}}, "no statement allows it"),
    ],
)
def test_a_decoded_denial_is_one_sentence(denial: dict, reason: str):
    context = {"principal": {"arn": WHO}, "action": ACTION, "resource": "arn:aws:ec2:*:*:vpc/vpc-1"}
    decoded = json.dumps({"allowed": False, "context": context, **denial})
    assert explain_decoded(decoded) == f"{WHO} may not {ACTION} on arn:aws:ec2:*:*:vpc/vpc-1: {reason}."
    assert explain_decoded(json.dumps(denial)).endswith(f"{reason}.")
