# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one thin client to Azure Resource Manager (private to this collection).

It is the pipeline that azure-mgmt-network itself runs on (azure-mgmt-core: login,
retries by Retry-After, polling of long-running operations), without that
package's generated models, whose import takes seconds and 300 MB. Resources go
in and out as ARM's own JSON, so that a property this code has never heard of
comes back as it was.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Mapping
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
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
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
        """azure-core's retries, and a retry after each 409 whose code means that the request may succeed later."""

        def is_retry(self, settings: dict, response: Any) -> bool:
            if response.http_response.status_code == 409 and settings["total"]:
                return error_of(response.http_response).get("code") in LATER
            return super().is_retry(settings, response)

    class UntilDone(AzureAsyncOperationPolling):
        """Ends with the operation, without a request for the final resource, which is not used."""

        def get_final_get_url(self, pipeline_response: Any) -> None:
            return None


NETWORK_API_VERSION = "2024-05-01"
COMPUTE_USAGES_API_VERSION = "2024-07-01"
COMPUTE_SKUS_API_VERSION = "2021-07-01"

# How often a read-plan-write cycle is repeated after a conflict with another writer.
CONFLICT_RETRIES = 5

# The codes of writes that were refused only because another one is under way.
LATER = ("AnotherOperationInProgress", "RetryableError")

# The polling interval of an operation without Retry-After. Seconds.
_POLLING_INTERVAL = 2

# For all attempts of a request, including the pauses that ARM demands between them. Seconds.
_TIMEOUT = 300

_ADVICE = {
    "AuthorizationFailed": "Give this identity the role Network Contributor on that scope (or "
    "Reader, to look only), and wait some minutes until it is in force.",
    "InvalidAuthenticationToken": HOW_TO_LOG_IN,
    "InvalidAuthenticationTokenTenant": "Log in to the tenant that the subscription belongs to.",
    "LinkedAuthorizationFailed": "Give this identity the role Network Contributor on the linked scope, too.",
    "ReadOnlyDisabledSubscription": "The subscription is disabled: enable it first.",
    "ResourceGroupNotFound": "Check the subscription and the resource group.",
    "ResourceNotFound": "Check the id, and that these credentials are of the right tenant.",
    "ScopeLocked": "Remove the lock (`az lock list`), or have its owner make the change.",
    "SubscriptionNotFound": "Check the subscription id, and that these credentials may see it.",
}


class ArmError(Exception):
    """A request that failed, as a sentence: what was tried, what came back, what to do.

    `code` is ARM's error code and `status` the HTTP status, or None where no answer came.
    """

    def __init__(self, message: str, code: str | None = None, status: int | None = None):
        super().__init__(message)
        self.code = code
        self.status = status


def arm_module(argument_spec: Mapping[str, Any], **options: Any) -> AnsibleModule:
    """An AnsibleModule that can log in to Azure, and has what it needs to."""
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
            self.subscription_id: str | None = login.get("subscription_id")
            cloud = _cloud(login.get("cloud_environment", "AzureCloud"), verify)
            token = credential(principal, cloud, login)
        except (LoginError, ValueError) as error:
            raise ArmError(str(error)) from error
        self._client = _client(
            cloud.resource_manager,
            verify,
            authentication=ARMChallengeAuthenticationPolicy(token, cloud.scope),
        )
        self._host = cloud.resource_manager

    def get(self, path: str, api_version: str, **query: str) -> dict | None:
        """One resource by its id, or None where ARM has none."""
        try:
            return self._request("GET", path, api_version, query=query).http_response.json()
        except ArmError as error:
            if error.status == 404:
                return None
            raise

    def list(self, path: str, api_version: str, **query: str) -> Iterator[dict]:
        """All resources of a collection, page by page."""
        answer = self._request("GET", path, api_version, query=query)
        while True:
            page = answer.http_response.json()
            yield from page["value"]
            if not page.get("nextLink"):
                return
            answer = self._send(HttpRequest("GET", page["nextLink"]), f"GET {path}")

    def put(self, path: str, api_version: str, body: Mapping, etag: str | None, timeout: float) -> None:
        """Write a resource and wait until that is done; only over the one with this etag."""
        self._operate("PUT", path, api_version, timeout, body, etag)

    def delete(self, path: str, api_version: str, etag: str | None, timeout: float) -> None:
        """Delete a resource and wait until it is gone. One that is not there is gone."""
        self._operate("DELETE", path, api_version, timeout, etag=etag)

    def _operate(
        self,
        method: str,
        path: str,
        api_version: str,
        timeout: float,
        body: Mapping | None = None,
        etag: str | None = None,
    ) -> None:
        began = time.monotonic()
        response = self._request(method, path, api_version, body, etag=etag)
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
        etag: str | None = None,
    ) -> Any:
        request = HttpRequest(
            method,
            f"{self._host}{path}",
            params={"api-version": api_version, **(query or {})},
            json=body,
            headers={"Accept": "application/json", **({"If-Match": etag} if etag else {})},
        )
        return self._send(request, f"{method} {path}")

    def _send(self, request: HttpRequest, operation: str) -> Any:
        """The pipeline's response, which is what a poller begins with."""
        with arm_errors(operation, self._host):
            response = self._client.send_request(request, _return_pipeline_response=True)
            response.http_response.raise_for_status()
            return response


def _cloud(name: str, verify: bool) -> Cloud:
    cloud = known_cloud(name)
    if cloud:
        return cloud
    url = metadata_url(name)
    with arm_errors(f"GET {url}", name):
        answer = _client(name, verify).send_request(HttpRequest("GET", url))
        answer.raise_for_status()
        return described_cloud(name, answer.json())


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
        raise ArmError(
            f"Authenticating to Azure failed: {_first_line(error)}. {HOW_TO_LOG_IN}",
            status=getattr(error, "status_code", None),
        ) from error
    except HttpResponseError as error:
        details = error_of(error.response)
        code, message = details.get("code"), details.get("message") or _first_line(error)
        raise ArmError(
            f"Azure rejected {operation} with {code or error.status_code}: {message.rstrip('.')}. "
            f"{_ADVICE.get(code or '', '')}".strip(),
            code=code,
            status=error.status_code,
        ) from error
    except (AzureError, ValueError) as error:
        raise ArmError(
            f"Sending {operation} to {host} failed: {_first_line(error)}. Check "
            "cloud_environment, and that this machine reaches Azure (DNS, proxy, certificates)."
        ) from error


def error_of(response: Any) -> dict:
    """The error object in a response of ARM; empty if the response does not come from ARM."""
    try:
        error = response.json()["error"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return error if isinstance(error, dict) else {}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".:") if str(error).strip() else repr(error)
