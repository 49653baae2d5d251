# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one thin client to Azure Resource Manager (private to this collection).

It uses the pipeline of azure-mgmt-network (azure-mgmt-core: login, retries by Retry-After, polling of long-running
operations) without that package's generated models, whose import takes seconds and 300 MB. Resources are read and
written as ARM's own JSON, so that unknown properties are preserved.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.osc.peerpods.plugins.module_utils._azure.auth import (
    AZURE_AUTH_ARGS,
    HOW_TO_LOG_IN,
    Cloud,
    LoginError,
    credential,
    described_cloud,
    identity,
    known_cloud,
    metadata_url,
    settings,
)

try:
    from azure.core.exceptions import AzureError, ClientAuthenticationError, DecodeError, HttpResponseError
    from azure.core.pipeline import policies
    from azure.core.polling import LROPoller
    from azure.core.polling.base_polling import LocationPolling, StatusCheckPolling
    from azure.core.rest import HttpRequest
    from azure.mgmt.core import ARMPipelineClient
    from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy
    from azure.mgmt.core.polling.arm_polling import (
        ARMPolling,
        AzureAsyncOperationPolling,
        BodyContentPolling,
    )
except ImportError:
    AZURE_IMPORT_ERROR: str | None = traceback.format_exc()
else:
    AZURE_IMPORT_ERROR = None

    class Retries(policies.RetryPolicy):
        """azure-core's retries, and a retry after each 409 whose code means that the request may succeed later.

        A pause that ends after the timeout is not begun: the response with its Retry-After is then the result.
        """

        def is_retry(self, settings: dict, response: Any) -> bool:
            pauses = settings.get("pauses", 0.0) + (self.get_retry_after(response) or 0.0)
            if pauses > _TIMEOUT:
                return False
            settings["pauses"] = pauses
            if response.http_response.status_code == 409 and settings["total"]:
                return error_of(response.http_response).get("code") in LATER
            return super().is_retry(settings, response)

    class UntilDone(AzureAsyncOperationPolling):
        """Polls until the operation has ended, without a request for the final resource, which is not used."""

        def get_final_get_url(self, pipeline_response: Any) -> None:
            return None


NETWORK_API_VERSION = "2024-05-01"
COMPUTE_API_VERSION = "2024-07-01"
COMPUTE_USAGES_API_VERSION = "2024-07-01"
# Galleries have versions of their own.
GALLERIES_API_VERSION = "2024-03-03"
STORAGE_API_VERSION = "2023-05-01"
COMPUTE_SKUS_API_VERSION = "2021-07-01"
VMS_API_VERSION = "2024-07-01"

# The headers of a write that must create a resource. This is the contract of resource providers ("ETags for Resources"
# in v1.0/Addendum.md of Azure/azure-resource-manager-rpc), which each provider carries out itself. Microsoft.Network
# evaluates If-Match (PreconditionFailedEtagMismatch, issue 9729 of kubernetes-sigs/cloud-provider-azure); the REST
# references of its resources here have neither header. Whoever creates a resource therefore reads it afterwards.
_ONLY_NEW = {"If-None-Match": "*"}

# How often a read-plan-write cycle is repeated after a conflict with another writer.
CONFLICT_RETRIES = 5

# The codes of writes that were rejected only because another write is in progress.
LATER = ("AnotherOperationInProgress", "RetryableError")

# The inner code of an operation that ended as Canceled, because a later operation on the same resource replaced it.
SUPERSEDED = "CanceledAndSupersededDueToAnotherOperation"

# The polling interval of an operation without Retry-After. Seconds.
_POLLING_INTERVAL = 2

# The timeout for all attempts of a request, including the pauses that ARM requests between them. Seconds.
_TIMEOUT = 300

NO_AZURE = "Check cloud_environment, and that no proxy answers in place of Azure."

_ADVICE = {
    "AuthorizationFailed": (
        "Assign a role with this action to the identity, such as Network Contributor (Reader to look only), and wait "
        "some minutes until the assignment takes effect."
    ),
    "DenyAssignmentAuthorizationFailed": (
        "A deny assignment forbids it, whatever roles are assigned, as in the resource group of a managed application. "
        "Make the change as an identity that it excludes."
    ),
    "InvalidAuthenticationToken": HOW_TO_LOG_IN,
    "InvalidAuthenticationTokenTenant": "Log in to the tenant that the subscription belongs to.",
    "LinkedAuthorizationFailed": "Assign a role with this action on the linked scope, such as Network Contributor.",
    "PublicIPCountLimitReached": "Delete an address that is not used, or request a higher quota.",
    "ReadOnlyDisabledSubscription": "The subscription is disabled: enable it first.",
    "RequestDisallowedByPolicy": "Have the owner of the policy exempt the resource, or make the change there.",
    "ResourceGroupNotFound": "Check the subscription and the resource group.",
    "ResourceNotFound": "Check the id, and that these credentials are of the right tenant.",
    "ScopeLocked": "Remove the lock (`az lock list`), or have its owner make the change.",
    "SubscriptionNotFound": "Check the subscription id, and that these credentials may see it.",
}


class ArmError(Exception):
    """A failed request, as a sentence with the request, the response, and what to do.

    `codes` are ARM's error codes, the outer code first. `status` is the HTTP status, or None without a response.
    """

    def __init__(self, message: str, codes: Sequence[str] = (), status: int | None = None):
        super().__init__(message)
        self.codes = tuple(codes)
        self.status = status


class ArmLoginError(ArmError):
    """Azure rejected the login."""


def arm_module(argument_spec: Mapping[str, Any], **options: Any) -> AnsibleModule:
    """An AnsibleModule with the options to log in to Azure, whose required libraries are installed."""
    module = AnsibleModule(argument_spec={**AZURE_AUTH_ARGS, **argument_spec}, supports_check_mode=True, **options)
    if AZURE_IMPORT_ERROR:
        module.fail_json(
            msg=missing_required_lib("azure-identity and azure-mgmt-core"),
            exception=AZURE_IMPORT_ERROR,
        )
    return module


class Arm:
    """A connection to one Azure; create one per module run."""

    def __init__(self, module: AnsibleModule):
        try:
            login = settings(module.params, os.environ)
            principal = identity(login)
            verify = login.get("cert_validation_mode") != "ignore"
            self._verify = verify
            self.subscription_id: str | None = login.get("subscription_id")
            cloud = _cloud(login.get("cloud_environment", "AzureCloud"), verify)
            token = credential(principal, cloud, login)
        except (LoginError, ValueError) as error:
            raise ArmError(str(error)) from error
        except OSError as error:
            raise ArmError(_unreadable("logging in to Azure", error)) from error
        self._client = _client(
            cloud.resource_manager,
            verify,
            authentication=ARMChallengeAuthenticationPolicy(token, cloud.scope),
        )
        self._host = cloud.resource_manager

    def get(self, path: str, api_version: str, **query: str) -> dict | None:
        """The resource with this id, or None if it does not exist."""
        try:
            answer = self._request("GET", path, api_version, query=query)
        except ArmError as error:
            # Without a code, it is the answer of a proxy.
            if error.status == 404 and error.codes:
                return None
            raise
        return self._object_of(answer, f"GET {path}")

    def list(self, path: str, api_version: str, **query: str) -> Iterator[dict]:
        """All resources of a collection, page by page."""
        answer = self._request("GET", path, api_version, query=query)
        while True:
            page = self._object_of(answer, f"GET {path}")
            yield from page.get("value", ())
            if not page.get("nextLink"):
                return
            answer = self._send(HttpRequest("GET", page["nextLink"]), f"GET {path}")

    def post(self, path: str, api_version: str, **query: str) -> dict:
        """The response to an action of a resource that changes nothing."""
        return self._object_of(self._request("POST", path, api_version, query=query), f"POST {path}")

    def blob(self, url: str) -> str:
        """The text of a blob whose address has its authorization; empty without an address.

        No message has the address.
        """
        if not url:
            return ""
        with arm_errors("GET of a blob", "Azure Storage"):
            answer = _client(url, self._verify).send_request(HttpRequest("GET", url))
            answer.raise_for_status()
        return answer.content.decode(errors="replace")

    def put(
        self,
        path: str,
        api_version: str,
        body: Mapping,
        etag: str | None,
        timeout: float,
        *,
        is_new: bool = False,
    ) -> None:
        """Write a resource and wait until the operation has ended; with `etag`, only over the version with this
        etag, and with `is_new`, over none, if the provider evaluates this."""
        self._operate("PUT", path, api_version, timeout, body, _ONLY_NEW if is_new else _if_match(etag))

    def delete(self, path: str, api_version: str, etag: str | None, timeout: float) -> None:
        """Delete a resource and wait until the operation has ended. A missing resource is not an error."""
        self._operate("DELETE", path, api_version, timeout, conditions=_if_match(etag))

    def _operate(
        self,
        method: str,
        path: str,
        api_version: str,
        timeout: float,
        body: Mapping | None = None,
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        began = time.monotonic()
        response = self._request(method, path, api_version, body, conditions=conditions)
        # The answer to a PUT is the resource, to a DELETE nothing.
        status, content = response.http_response.status_code, response.http_response.content
        if content not in (b"", b"null") or (method == "PUT" and status != 202):
            self._object_of(response, f"{method} {path}")
        algorithms = [UntilDone(), LocationPolling(), BodyContentPolling(), StatusCheckPolling()]
        with arm_errors(f"{method} {path}", self._host):
            poller = LROPoller(
                self._client,
                response,
                lambda _answer: None,
                ARMPolling(_POLLING_INTERVAL, lro_algorithms=algorithms),
            )
            poller.wait(max(0.0, timeout - (time.monotonic() - began)))
            if not poller.done():
                raise ArmError(
                    f"Azure accepted {method} {path} and did not complete it within {timeout:g} s. "
                    "It may complete later. Run the module again, with a larger wait_timeout if needed."
                )
            poller.result()

    def _request(
        self,
        method: str,
        path: str,
        api_version: str,
        body: Mapping | None = None,
        query: Mapping[str, str] | None = None,
        conditions: Mapping[str, str] | None = None,
    ) -> Any:
        request = HttpRequest(
            method,
            f"{self._host}{path}",
            params={"api-version": api_version, **(query or {})},
            json=body,
            headers={"Accept": "application/json", **(conditions or {})},
        )
        return self._send(request, f"{method} {path}")

    def _send(self, request: HttpRequest, operation: str) -> Any:
        """The response of the pipeline, from which a poller starts."""
        with arm_errors(operation, self._host):
            response = self._client.send_request(request, _return_pipeline_response=True)
            response.http_response.raise_for_status()
            return response

    def _object_of(self, answer: Any, operation: str) -> dict:
        return _object_of(answer.http_response, operation, self._host)


def _if_match(etag: str | None) -> dict[str, str]:
    return {"If-Match": etag} if etag else {}


def _cloud(name: str, verify: bool) -> Cloud:
    cloud = known_cloud(name)
    if cloud:
        return cloud
    url = metadata_url(name)
    with arm_errors(f"GET {url}", name):
        answer = _client(name, verify).send_request(HttpRequest("GET", url))
        answer.raise_for_status()
    return described_cloud(name, _object_of(answer, f"GET {url}", name))


def _client(base_url: str, verify: bool, authentication: Any = None) -> ARMPipelineClient:
    return ARMPipelineClient(
        base_url,
        policies=[
            policies.RequestIdPolicy(),
            policies.UserAgentPolicy(base_user_agent="ansible-osc.peerpods"),
            Retries(retry_total=7, retry_status=7, retry_backoff_max=30, timeout=_TIMEOUT),
            *([authentication] if authentication else []),
        ],
        connection_verify=verify,
    )


@contextmanager
def arm_errors(operation: str, host: str) -> Iterator[None]:
    try:
        yield
    except ClientAuthenticationError as error:
        raise ArmLoginError(
            f"Authenticating to Azure failed: {_first_line(error)}. {HOW_TO_LOG_IN}",
            status=getattr(error, "status_code", None),
        ) from error
    except DecodeError as error:
        raise ArmError(
            f"The answer to {operation} of {host} is not a JSON object: {_first_line(error)}. {NO_AZURE}"
        ) from error
    except HttpResponseError as error:
        raise _rejection(error, operation) from error
    except (AzureError, ValueError) as error:
        raise ArmError(
            f"Sending {operation} to {host} failed: {_first_line(error)}. Check "
            "cloud_environment, and that this machine reaches Azure (DNS, proxy, certificates)."
        ) from error
    except OSError as error:
        raise ArmError(_unreadable(operation, error)) from error


def _rejection(error: HttpResponseError, operation: str) -> ArmError:
    """The error in ARM's response, with its inner errors."""
    nested = _nested(error_of(error.response))
    codes = [code for code, dummy in nested if code]
    messages = [f"{code}: {message}." if code else f"{message}." for code, message in nested if message]
    if not messages:
        messages = [f"{codes[0] if codes else error.status_code}: {_first_line(error)}."]
    advice = next((_ADVICE[code] for code in reversed(codes) if code in _ADVICE), None)
    pause = _retry_after(error.response)
    if error.status_code == 429 and pause:
        advice = f"Azure requests a pause of {pause:g} s: run the module again after that."
    sentences = [f"Azure rejected {operation} with {messages[0]}", *messages[1:], *([advice] if advice else [])]
    return ArmError(" ".join(sentences), codes, error.status_code)


def _nested(error: Mapping) -> list[tuple[str, str]]:
    """The code and the message of an error of ARM and of its inner errors, the outer first.

    A resource provider may pass on the error of another one as JSON in a message.
    """
    if not error:
        return []
    message = " ".join(str(error.get("message") or "").split())
    try:
        passed_on = json.loads(message)["error"] if message.startswith("{") else {}
    except (KeyError, TypeError, ValueError):
        passed_on = {}
    inner = [passed_on, *(error.get("details") or ()), error.get("innererror")]
    assignments = [
        ("", f"policy {info.get('policyDefinitionDisplayName')}, assigned as {info.get('policyAssignmentDisplayName')}")
        for addition in error.get("additionalInfo") or ()
        if (info := addition.get("info") or {}).get("policyDefinitionDisplayName")
    ]
    return [
        (str(error.get("code") or ""), "" if passed_on else message.rstrip(".")),
        *(pair for nested in inner if isinstance(nested, Mapping) for pair in _nested(nested)),
        *assignments,
    ]


def _retry_after(response: Any) -> float | None:
    try:
        return float(response.headers["Retry-After"])
    except (AttributeError, KeyError, ValueError):
        return None


def _object_of(response: Any, operation: str, host: str) -> dict:
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        return body
    raise ArmError(
        f"{host} returned {response.content_type or 'no content'} instead of a JSON object for {operation}. {NO_AZURE}"
    )


def _unreadable(operation: str, error: OSError) -> str:
    return (
        f"A file for {operation} cannot be read: {_first_line(error)}. Check the option or environment variable that "
        "names it: x509_certificate_path, oidc_token_file_path (AZURE_FEDERATED_TOKEN_FILE) or REQUESTS_CA_BUNDLE."
    )


def error_of(response: Any) -> dict:
    """The error object in a response of ARM; empty if the response does not come from ARM."""
    try:
        error = response.json()["error"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return error if isinstance(error, dict) else {}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".:") if str(error).strip() else repr(error)
