# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why AWS rejected a request, or why none was sent, and what to do about that (private to this collection).

The texts of denials are those of the IAM User Guide, "Troubleshoot access denied error messages", and the names of
exceptions those of botocore/botocore, botocore/exceptions.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

_LOG_IN = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for temporary "
    "credentials), or name a profile with AWS_PROFILE or the profile option."
)
_INVALID = f"{_LOG_IN} If they are right, check that the region is enabled in their account."
_EXPIRED = f"The credentials have expired: get new ones. {_LOG_IN}"
_BUSY = "Other requests of the account use up what AWS allows per second. Run the task again in some minutes."
_BY_CODE = {
    "AuthFailure": _INVALID,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidClientTokenId": _INVALID,
    "OptInRequired": "Enable the region and the service in the account.",
    "RequestExpired": f"{_EXPIRED} If they have not, check this machine's clock.",
    "SignatureDoesNotMatch": f"{_LOG_IN} If they are right, check this machine's clock.",
    "UnrecognizedClientException": _INVALID,
}

# The codes of throttling, of which amazon.aws repeats only some: botocore/botocore, botocore/retries/standard.py.
THROTTLING = (
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
)
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")

# Requests that botocore sends on its own to get the credentials of a profile.
_OF_CREDENTIALS = ("AssumeRole", "AssumeRoleWithSAML", "AssumeRoleWithWebIdentity", "GetRoleCredentials", "CreateToken")

_BY_EXCEPTION = (
    (
        {"SSOError", "TokenRetrievalError", "NoAuthTokenError", "PendingAuthorizationExpiredError"},
        "The SSO session of the profile has ended: run aws sso login for it, or use other credentials.",
    ),
    ({"LoginError"}, "The session of the profile has ended: run aws login for it, or use other credentials."),
    ({"NoCredentialsError", "PartialCredentialsError"}, _LOG_IN),
    (
        {"CredentialRetrievalError", "MetadataRetrievalError"},
        (
            "Check the command (credential_process) or the service that supplies the credentials of the profile, or "
            "use others."
        ),
    ),
    (
        {"ConfigNotFound", "ConfigParseError", "InvalidConfigError", "ProfileNotFound", "UnknownCredentialError"},
        "Correct the profile in ~/.aws/config or AWS_CONFIG_FILE.",
    ),
    (
        {"RefreshWithMFAUnsupportedError"},
        "Get temporary credentials with aws sts get-session-token, and set them in the environment.",
    ),
    (
        {"SSLError"},
        (
            "Check the CA bundle (AWS_CA_BUNDLE or the option aws_ca_bundle): it must exist and have the authority of "
            "the endpoint or proxy."
        ),
    ),
    ({"ProxyConnectionError"}, "Check HTTPS_PROXY and NO_PROXY."),
    ({"NoRegionError", "InvalidRegionError", "UnknownEndpointError", "UnknownRegionError"}, "Correct the region."),
)
_UNREACHABLE = "Check region and endpoint_url, and that this machine reaches AWS (DNS, proxy)."

_ENCODED = re.compile(r"\s*Encoded authorization failure message: (?P<encoded>\S+)")


def split_encoded(message: str) -> tuple[str, str | None]:
    """An error's message, and its encoded part, which only sts:DecodeAuthorizationMessage can read."""
    encoded = _ENCODED.search(message)
    return _ENCODED.sub("", message).strip().rstrip("."), encoded and encoded["encoded"]


def explain_decoded(decoded: str) -> str:
    """The DecodedMessage of sts:DecodeAuthorizationMessage, as a sentence."""
    denial = json.loads(decoded)
    context = denial.get("context") or {}
    who = (context.get("principal") or {}).get("arn") or "The identity"
    statements = [
        item["statementId"]
        for item in (denial.get("matchedStatements") or {}).get("items") or ()
        if item.get("statementId")
    ]
    if denial.get("explicitDeny"):
        reason = f"statement {', '.join(statements)} denies it" if statements else "a statement denies it explicitly"
    else:
        reason = "no statement allows it"
    return f"{who} may not {context.get('action', 'do this')} on {context.get('resource', 'the resource')}: {reason}."


def decode_command(encoded: str) -> str:
    return f"aws sts decode-authorization-message --query DecodedMessage --output text --encoded-message {encoded}"


def is_of_credentials(operation: str) -> bool:
    """Whether botocore sent the request on its own, to get credentials."""
    return operation in _OF_CREDENTIALS


def advise_code(code: str, message: str, action: str) -> str:
    """What to do about a rejection of the IAM action, such as ec2:DescribeVpcs; empty if only the message can help."""
    if code in THROTTLING:
        return _BUSY
    if code in _DENIED:
        return _advise_denial(message, action)
    return _BY_CODE.get(code, "")


def _advise_denial(message: str, action: str) -> str:
    denial = re.search(r"not authorized to perform: (?P<action>[\w-]+:\w+)", message)
    action = denial["action"] if denial else action
    who = re.search(r"User: (\S+) is not", message)
    role = re.search(r"on resource: (arn:\S+:role/\S+)", message)
    explicit = "explicit deny" in message
    if "service control policy" in message or "resource control policy" in message:
        return (
            f"A policy of the AWS organization does not allow {action}: its administrators must change it. "
            "Permissions of the identity do not help."
        )
    if "permissions boundary" in message:
        return f"The permissions boundary of the identity does not allow {action}: an administrator must extend it."
    if "session policy" in message:
        return (
            f"The session policy that was passed when the role was assumed does not allow {action}: assume the role "
            "without it."
        )
    if "VPC endpoint policy" in message:
        return f"The policy of the VPC endpoint does not allow {action}: an administrator of the VPC must change it."
    if explicit:
        return (
            f"A policy denies {action} explicitly: an administrator must remove that statement. Another grant does not "
            "help."
        )
    if action.startswith("sts:AssumeRole") and role:
        return (
            f"Grant {action} on {role[1]} to the identity, and name the identity in the trust policy of the role, or "
            "use another profile."
        )
    return f"Grant {action} to {who[1] if who else 'the identity of these credentials'}."


def advise_exception(names: Collection[str]) -> str:
    """What to do about a request that got no answer, by the names of the exception and its base classes."""
    return next((advice for known, advice in _BY_EXCEPTION if not known.isdisjoint(names)), _UNREACHABLE)
