"""ARM as requests and answers: tokens, versions, long-running operations, pages, faults."""

from __future__ import annotations

import copy
import json
import re
import threading
import traceback
import uuid
from dataclasses import dataclass, replace

from . import compute, egress, galleries, ids, machines, roles
from .errors import CANCELED, ArmError, authorization_failed, linked_authorization_failed, unparsable
from .faults import Fault
from .identities import Identities
from .ids import ResourceId
from .login import Login
from .state import SUCCEEDED, TAGGED, State
from .wire import Answer, Request, answered, retry_after

# Some of the many versions, those that recent clients request. ARM supports old versions for years.
API_VERSIONS = {
    "microsoft.network": (
        "2015-06-15",
        "2017-10-01",
        "2018-11-01",
        "2019-11-01",
        "2020-11-01",
        "2021-02-01",
        "2021-05-01",
        "2021-08-01",
        "2022-01-01",
        "2022-05-01",
        "2022-07-01",
        "2022-09-01",
        "2022-11-01",
        "2023-02-01",
        "2023-04-01",
        "2023-05-01",
        "2023-06-01",
        "2023-09-01",
        "2023-11-01",
        "2024-01-01",
        "2024-03-01",
        "2024-05-01",
        "2024-07-01",
        "2024-10-01",
        "2025-01-01",
        "2025-03-01",
        "2025-05-01",
        "2025-07-01",
        "2025-09-01",
        "2026-01-01",
        "2026-03-01",
    ),
    "microsoft.compute": (
        "2017-12-01",
        "2018-10-01",
        "2019-04-01",
        "2021-07-01",
        "2022-03-01",
        "2022-11-01",
        "2023-09-01",
        "2024-03-01",
        "2024-07-01",
        "2024-11-01",
        "2025-04-01",
        "2026-04-01",
    ),
    # Their versions are apart from those of Microsoft.Compute.
    "microsoft.compute/galleries": (
        "2021-10-01",
        "2022-03-03",
        "2022-08-03",
        "2023-07-03",
        "2024-03-03",
        "2025-03-03",
        "2025-12-03",
        "2026-03-03",
    ),
    "microsoft.storage": (
        "2022-09-01",
        "2023-01-01",
        "2023-04-01",
        "2023-05-01",
        "2024-01-01",
        "2025-06-01",
        "2025-08-01",
    ),
    "microsoft.authorization": ("2016-09-01", "2020-05-01"),
    "microsoft.authorization/permissions": ("2015-07-01", "2018-07-01", "2022-04-01"),
    "microsoft.resources": (
        "2015-01-01",
        "2016-06-01",
        "2018-05-01",
        "2019-10-01",
        "2019-11-01",
        "2020-01-01",
        "2021-01-01",
        "2021-04-01",
        "2022-01-01",
        "2022-09-01",
        "2022-12-01",
        "2024-03-01",
        "2024-07-01",
        "2024-11-01",
        "2025-04-01",
    ),
}

_OPERATION = re.compile(
    r"/subscriptions/[^/]+/providers/[^/]+/locations/[^/]+/(operations|operationresults)/([^/]+)",
    re.IGNORECASE,
)
_COMPUTE = re.compile(
    r"/subscriptions/([^/]+)/providers/Microsoft\.Compute/(?:locations/([^/]+)/usages|skus)",
    re.IGNORECASE,
)
_BOOT_DIAGNOSTICS = re.compile(
    r"(/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute/virtualMachines/[^/]+)"
    r"/retrieveBootDiagnosticsData",
    re.IGNORECASE,
)
# The storage of boot diagnostics, which has no tokens: a signature in the query authorizes the request.
_CONSOLES = "/bootdiagnostics"
_LOCATION_USAGES = re.compile(
    r"/subscriptions/([^/]+)/providers/Microsoft\.Network/locations/([^/]+)/usages", re.IGNORECASE
)
_NETWORK_USAGES = re.compile(
    r"(/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network/virtualNetworks/[^/]+)"
    r"/usages",
    re.IGNORECASE,
)


@dataclass
class Operation:
    """A write in progress: its resource, how often it still reports InProgress, and its result."""

    resource: ResourceId
    deletes: bool
    remaining: int
    error: ArmError | None
    done: bool = False


class Arm(Login):
    """ARM without the transport. Thread-safe: requests are handled one after the other."""

    def __init__(self, endpoint_url: str):
        super().__init__(endpoint_url)
        self.subscription_id = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
        self.state = State(self.subscription_id)
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        # How often an operation reports InProgress before it ends.
        self.polls = 1
        # The interval at which clients poll operations, in seconds. Not 0, which azure-core treats as not set, to wait
        # half a minute.
        self.retry_after = 0.01
        # The number of resources in a page.
        self.page_size = 100
        # The limits of the compute usages, by name, for every location.
        self.limits = dict(compute.DEFAULT_LIMITS)
        # The permissions of the caller: an entry for each role, for all scopes.
        self.permissions: list[dict] = [roles.CONTRIBUTOR]
        # Those of roles that are assigned on single resources, by their ID.
        self.permissions_on: dict[str, list[dict]] = {}
        # What machines wrote to their consoles, by lower-case ID, if it is not that of a machine that has booted.
        self.consoles: dict[str, str] = {}
        self._signatures: dict[str, str] = {}
        self.identities = Identities(self.tenant_id, self.state.exists, self._permit)
        # The client ID of the request that is handled.
        self._caller = self.client_id
        self._operations: dict[str, Operation] = {}
        self._lock = threading.RLock()

    # -- For tests -----------------------------------------------------------------------------

    @property
    def resources(self) -> dict[str, dict]:
        """The response to a GET of each resource, by lower-case ID, as a copy."""
        with self._lock:
            return {key: self.state.get(ids.known(key)) for key in list(self.state.stored)}

    def put(self, resource_id: str, body: dict) -> dict:
        """Create or replace without HTTP and without a long-running operation, by the same rules."""
        with self._lock:
            resource = ids.known(resource_id)
            self.state.put(resource, copy.deepcopy(body), conditions={})
            return self.state.get(resource)

    def delete(self, resource_id: str) -> None:
        """Delete without HTTP and without a long-running operation, by the same rules."""
        with self._lock:
            resource = ids.known(resource_id)
            if self.state.require_deletable(resource, {}):
                self.state.delete(resource)

    def snapshot(self) -> dict[str, dict]:
        with self._lock:
            return copy.deepcopy(self.state.stored)

    def restore(self, snapshot: dict[str, dict]) -> None:
        """Restore the resources of the snapshot, and drop all operations."""
        with self._lock:
            self.state.stored = copy.deepcopy(snapshot)
            self._operations.clear()

    def take_requests(self) -> list[tuple[str, str]]:
        requests, self.requests = self.requests, []
        return requests

    # -- Requests ------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer | None:
        logged_in = super().answer(request)
        if logged_in is not None:
            return logged_in
        if request.path.startswith(_CONSOLES):
            return self._console(request)
        self.requests.append((request.method, request.path))

        def pass_on(operation_error: ArmError | None = None) -> Answer:
            with self._lock:
                try:
                    self._caller = self.require_token(request)
                    return self._answer(request, operation_error)
                except ArmError as error:
                    return Answer(error.status, error.content, error.headers)
                except Exception as error:  # noqa: BLE001
                    # An error of the emulator: print it for the test, and return it to the client.
                    traceback.print_exc()
                    return Answer(500, ArmError(500, "InternalServerError", repr(error)).content)

        with self._lock:
            fault = next((fault for fault in self.faults if fault.matches(request)), None)
            if fault:
                self.faults.remove(fault)
        answer = fault.act(request, pass_on) if fault else pass_on()
        return answer and self._with_usual_headers(request, answer)

    def _with_usual_headers(self, request: Request, answer: Answer) -> Answer:
        kind = "reads" if request.method in ("GET", "HEAD") else "writes"
        common_headers = {
            "x-ms-request-id": str(uuid.uuid4()),
            "x-ms-correlation-request-id": request.headers.get("x-ms-correlation-request-id", str(uuid.uuid4())),
            f"x-ms-ratelimit-remaining-subscription-{kind}": "1199",
            "Cache-Control": "no-cache",
        }
        return replace(answer, headers={**common_headers, **answer.headers})

    def _answer(self, request: Request, operation_error: ArmError | None) -> Answer:
        path = request.path.rstrip("/")
        if match := _OPERATION.fullmatch(path):
            return self._operation(match[2], result=match[1].lower() == "operationresults")

        def subscription(name: str) -> dict:
            return {
                "id": f"/subscriptions/{name}",
                "subscriptionId": name,
                "tenantId": self.tenant_id,
                "displayName": "Emulated",
                "state": "Enabled",
                "subscriptionPolicies": {"spendingLimit": "Off", "quotaId": "Emulated_2014-09-01"},
                "authorizationSource": "RoleBased",
                "managedByTenants": [],
            }

        if path == "/tenants":
            self._require_version(request, "Microsoft.Resources", "tenants")
            tenant = {
                "id": f"/tenants/{self.tenant_id}",
                "tenantId": self.tenant_id,
                "tenantCategory": "Home",
                "displayName": "Emulated",
            }
            return answered({"value": [tenant]})
        if path == "/subscriptions":
            self._require_version(request, "Microsoft.Resources", "subscriptions")
            listed = [subscription(name) for name in sorted(self.state.subscriptions)]
            return answered({"value": listed, "count": {"type": "Total", "value": len(listed)}})
        if re.fullmatch("/subscriptions/[^/]+/resources", path):
            self._require_version(request, "Microsoft.Resources", "subscriptions")
            self._require_subscription(path.split("/")[2].lower())
            return self._page(request, self._generic_resources(path.rpartition("/")[0]))
        if re.fullmatch("/subscriptions/[^/]+", path):
            self._require_version(request, "Microsoft.Resources", "subscriptions")
            name = path.split("/")[2].lower()
            self._require_subscription(name)
            return answered(subscription(name))
        if match := _COMPUTE.fullmatch(path):
            self._require_subscription(match[1])
            return self._compute(request, match[2])
        if match := _LOCATION_USAGES.fullmatch(path):
            self._require_version(request, "Microsoft.Network", "locations")
            self._require_subscription(match[1])
            return self._page(request, egress.usages(self.state.stored.values(), match[2], self.state.limits))
        if match := _NETWORK_USAGES.fullmatch(path):
            self._require_version(request, "Microsoft.Network", "virtualNetworks")
            return self._page(request, self.state.usages(ids.known(match[1])))
        if match := _BOOT_DIAGNOSTICS.fullmatch(path):
            return self._boot_diagnostics(request, ids.known(match[1]))
        if of_identity := self.identities.answer(request, path):
            return of_identity
        resource = ids.parse(path)
        if resource is None:
            raise ArmError(404, "NotFound", f"No such path: {path}")
        self._require_type(resource, request)
        return self._of_resource(request, resource, operation_error)

    def _generic_resources(self, subscription: str) -> list[dict]:
        """Those with an ID of one provider, without their properties ("Resources - List" in the REST reference; `az
        resource list` shows the identities, in "Managed identities for Azure resources frequently asked questions")."""
        fields = ("id", "name", "type", "location", "tags", "identity")
        return [
            {key: body[key] for key in fields if key in body}
            for body in (*self.state.stored.values(), *self.identities.stored.values())
            if body["id"].lower().startswith(f"{subscription.lower()}/")
            and re.fullmatch("[^/]+(/[^/]+){7}", body["id"].strip("/"))
        ]

    def _of_resource(self, request: Request, resource: ResourceId, operation_error: ArmError | None) -> Answer:
        self._require_permitted(request, resource)
        if resource.type == ids.PERMISSIONS:
            return self._permissions(request, resource)
        self._advance(resource)
        if request.method in ("GET", "HEAD") and resource.name is None:
            return self._page(request, self.state.list_resources(resource))
        if resource.name is None:
            raise _method_not_allowed(request, resource)
        match request.method:
            case "GET":
                body = galleries.expanded(self.state.get(resource), request.query.get("$expand", ""))
                if resource.type == ids.VMS and request.query.get("$expand", "").lower() == "instanceview":
                    body["properties"]["instanceView"] = machines.instance_view(body, self._failure_of(resource))
                return answered(body, **({"ETag": body["etag"]} if "etag" in body else {}))
            case "HEAD":
                return Answer(204 if self.state.exists(resource.text) else 404)
            case "PUT":
                return self._put(request, resource, operation_error)
            case "PATCH" if resource.type in TAGGED:
                return answered(self.state.patch_tags(resource, _body(request)))
            case "DELETE":
                return self._delete(request, resource, operation_error)
        raise _method_not_allowed(request, resource)

    def _failure_of(self, resource: ResourceId) -> ArmError | None:
        """The error of the last operation of a resource, if it failed."""
        last = [each for each in self._operations.values() if each.done and each.resource.key == resource.key][-1:]
        return next((operation.error for operation in last), None)

    def _permissions(self, request: Request, resource: ResourceId) -> Answer:
        """https://learn.microsoft.com/rest/api/authorization/permissions/list-for-resource"""
        scope = ids.parse(resource.scope)
        if request.method != "GET" or resource.name or scope is None:
            raise _method_not_allowed(request, resource)
        self.state.get(scope)  # The scope must exist.
        return self._page(request, self._permissions_at(scope.text))

    def _boot_diagnostics(self, request: Request, machine: ResourceId) -> Answer:
        self._require_version(request, "Microsoft.Compute", "virtualMachines")
        if request.method != "POST":
            raise _method_not_allowed(request, machine)
        action = f"{ids.VMS}/retrieveBootDiagnosticsData/action"
        self._permit(action, machine.text)
        body = self.state.get(machine)
        signature = uuid.uuid4().hex
        self._signatures[signature] = machine.key
        blob = f"{self.endpoint_url}{_CONSOLES}-{body['properties']['vmId']}/{body['name']}"
        return answered(
            {
                "consoleScreenshotBlobUri": f"{blob}.screenshot.bmp?sv=2018-03-28&sig={signature}",
                "serialConsoleLogBlobUri": f"{blob}.serialconsole.log?sv=2018-03-28&sig={signature}",
            }
        )

    def _console(self, request: Request) -> Answer:
        machine = self._signatures.get(request.query.get("sig", ""))
        if machine is None:
            return Answer(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
        return Answer(200, self.consoles.get(machine, machines.BOOTED).encode(), {"Content-Type": "text/plain"})

    def _put(self, request: Request, resource: ResourceId, operation_error: ArmError | None) -> Answer:
        self._finish(resource)
        if resource.type == ids.VMS and not self.state.exists(resource.text):
            self._require_quota(_body(request))
        slow = resource.type not in (ids.RESOURCE_GROUPS, ids.LOCKS)
        ends_later = slow and (self.polls > 0 or operation_error)
        created = self.state.put(
            resource,
            _body(request),
            state="Updating" if ends_later else SUCCEEDED,
            conditions=request.headers,
        )
        headers = {}
        if slow:
            headers = self._begin(request, resource, deletes=False, error=operation_error)
            headers.pop("Location")
        return answered(self.state.get(resource), 201 if created else 200, **headers)

    def _delete(self, request: Request, resource: ResourceId, operation_error: ArmError | None) -> Answer:
        self._finish(resource)
        if not self.state.require_deletable(resource, request.headers):
            return Answer(204)
        if resource.type == ids.LOCKS:
            self.state.delete(resource)
            return Answer(200)
        self.state.mark(resource, "Deleting")
        return Answer(202, headers=self._begin(request, resource, deletes=True, error=operation_error))

    def _page(self, request: Request, resources: list[dict]) -> Answer:
        skipped = int(request.query.get("$skiptoken", 0))
        body: dict[str, object] = {"value": resources[skipped : skipped + self.page_size]}
        if skipped + self.page_size < len(resources):
            version = request.query["api-version"]
            body["nextLink"] = (
                f"{self.endpoint_url}{request.path}?api-version={version}&$skiptoken={skipped + self.page_size}"
            )
        return answered(body)

    def _compute(self, request: Request, location: str | None) -> Answer:
        self._require_version(request, "Microsoft.Compute", "usages" if location else "skus")
        if location:
            machines = [
                body
                for body in self.state.stored.values()
                if body["type"] == ids.VMS and body["location"] == location.lower()
            ]
            return self._page(request, compute.usages(machines, self.limits))
        location_filter = re.search(r"location eq '([^']+)'", request.query.get("$filter", ""))
        return self._page(request, compute.skus(location_filter[1] if location_filter else "westeurope"))

    def _require_quota(self, body: dict) -> None:
        location = str(body.get("location") or "").replace(" ", "").lower()
        existing = [
            machine
            for machine in self.state.stored.values()
            if machine["type"] == ids.VMS and machine["location"] == location
        ]
        size = ((body.get("properties") or {}).get("hardwareProfile") or {}).get("vmSize", "")
        machines.require_quota(size, location, existing, self.limits)

    # -- Operations ----------------------------------------------------------------------------

    def _begin(
        self, request: Request, resource: ResourceId, *, deletes: bool, error: ArmError | None
    ) -> dict[str, str]:
        """Start an operation; returns the headers with which the client polls it."""
        number = str(uuid.uuid4())
        operation = Operation(resource, deletes, self.polls, error)
        self._operations[number] = operation
        if operation.remaining == 0:
            self._end(operation)
        provider = resource.type.partition("/")[0]
        top = self.state.stored.get(resource.root.lower(), {})
        base = (
            f"{self.endpoint_url}/subscriptions/{self.subscription_id}/providers/{provider}"
            f"/locations/{top.get('location', 'westeurope')}"
        )
        version = request.query["api-version"]
        return {
            "Azure-AsyncOperation": f"{base}/operations/{number}?api-version={version}",
            "Location": f"{base}/operationResults/{number}?api-version={version}",
            **retry_after(self.retry_after),
        }

    def _operation(self, number: str, *, result: bool) -> Answer:
        operation = self._operations.get(number)
        if operation is None:
            raise ArmError(404, "OperationNotFound", f"The operation {number} was not found.")
        self._step(operation)
        headers = {} if operation.done else retry_after(self.retry_after)
        if result:
            return Answer(204 if operation.done else 202, headers=headers)
        if not operation.done:
            return answered({"status": "InProgress"}, 200, **headers)
        if operation.error:
            status = CANCELED if operation.error.code == CANCELED else "Failed"
            return answered({"status": status, "error": operation.error.error})
        return answered({"status": SUCCEEDED})

    def _advance(self, resource: ResourceId) -> None:
        """Reading the resource advances its operations, for clients that poll the resource."""
        for operation in self._under_way(resource):
            self._step(operation)

    def _finish(self, resource: ResourceId) -> None:
        """Complete the earlier operations before a write."""
        for operation in self._under_way(resource):
            self._end(operation)

    def _under_way(self, resource: ResourceId) -> list[Operation]:
        root = resource.root.lower()
        return [
            operation
            for operation in self._operations.values()
            if not operation.done and operation.resource.root.lower() == root
        ]

    def _step(self, operation: Operation) -> None:
        if operation.done:
            return
        if operation.remaining == 0:
            self._end(operation)
        operation.remaining -= 1

    def _end(self, operation: Operation) -> None:
        operation.done = True
        if operation.error:
            # A later operation has replaced the canceled one, and sets the state.
            if operation.error.code != CANCELED:
                self.state.mark(operation.resource, "Failed")
        elif operation.deletes:
            self.state.delete(operation.resource)
        else:
            self.state.mark(operation.resource, SUCCEEDED)

    # -- Validation --------------------------------------------------------------------------

    def _require_subscription(self, subscription_id: str) -> None:
        if subscription_id.lower() not in self.state.subscriptions:
            raise ArmError(
                404,
                "SubscriptionNotFound",
                f"The subscription '{subscription_id}' could not be found.",
            )

    def _require_permitted(self, request: Request, resource: ResourceId) -> None:
        verb = {"PUT": "write", "PATCH": "write", "DELETE": "delete"}.get(request.method, "read")
        self._permit(f"{resource.type}/{verb}", resource.text)
        if request.method == "PUT":
            for action, linked in egress.joined(resource.type, _body(request)):
                if not roles.allowed(action, self._permissions_at(linked)):
                    raise linked_authorization_failed(f"{resource.type}/{verb}", resource.text, action, linked)

    def federated_credentials(self, client_id: str) -> list[dict] | None:
        with self._lock:
            return self.identities.federated_credentials(client_id)

    def _permit(self, action: str, scope: str) -> None:
        if not roles.allowed(action, self._permissions_at(scope)):
            raise authorization_failed(action, scope)

    def _permissions_at(self, scope: str) -> list[dict]:
        """Of the caller: a managed identity has what was assigned to it."""
        assigned = self.identities.permissions_of(self._caller, scope)
        if assigned is not None:
            return assigned
        on_resources = [
            role
            for outer, assigned_there in self.permissions_on.items()
            if f"{scope}/".lower().startswith(f"{outer}/".lower())
            for role in assigned_there
        ]
        return [*self.permissions, *on_resources]

    def _require_type(self, resource: ResourceId, request: Request) -> None:
        provider, _, kind = resource.type.partition("/")
        if provider.lower() not in API_VERSIONS:
            raise ArmError(
                404,
                "InvalidResourceNamespace",
                f"The resource namespace '{provider}' is invalid.",
            )
        self._require_version(request, provider, kind)
        if resource.type not in ids.TYPES.values():
            raise ArmError(
                404,
                "InvalidResourceType",
                f"The resource type '{kind}' could not be found in the namespace '{provider}' for "
                f"api version '{request.query['api-version']}'.",
            )

    def _require_version(self, request: Request, provider: str, kind: str) -> None:
        version = request.query.get("api-version")
        if not version:
            raise ArmError(
                400,
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            )
        top = kind.partition("/")[0]
        known = API_VERSIONS.get(f"{provider}/{top}".lower(), API_VERSIONS[provider.lower()])
        if version in known:
            return
        listed = ", ".join(reversed(known))
        if provider.lower() == "microsoft.resources":
            raise ArmError(
                400,
                "InvalidApiVersionParameter",
                f"The api-version '{version}' is invalid. The supported versions are '{listed}'.",
            )
        raise ArmError(
            400,
            "NoRegisteredProviderFound",
            f"No registered resource provider found for API version '{version}' for type "
            f"'{kind}'. The supported api-versions are '{listed}'.",
        )


def _body(request: Request) -> dict:
    try:
        body = json.loads(request.content)
    except ValueError as error:
        raise ArmError(
            400,
            "InvalidRequestContent",
            f"The request content was invalid and could not be deserialized: '{error}'.",
        ) from None
    if not isinstance(body, dict):
        raise unparsable("The body is not an object. Path ''.")
    return body


def _method_not_allowed(request: Request, resource: ResourceId) -> ArmError:
    return ArmError(
        405,
        "MethodNotAllowed",
        f"The requested resource does not support http method '{request.method}': {resource.type}.",
    )
