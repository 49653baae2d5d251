# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The only client to the Kubernetes API (private to this collection).

kubernetes.core handles the credentials: its options, environment variables and kubeconfig rules. Requests use plain paths
and dicts, because all kinds are known in advance: no API discovery is needed, and each call is one request.
"""

from __future__ import annotations

import functools
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException

try:
    from kubernetes.client.exceptions import ApiException
    from kubernetes.client.rest import RESTClientObject
    from kubernetes.config import ConfigException
    from kubernetes.dynamic.exceptions import DynamicApiError
    from urllib3.exceptions import HTTPError, SSLError
    from urllib3.util.retry import Retry
    from yaml import YAMLError

    KUBERNETES_IMPORT_ERROR = None
except ImportError:
    KUBERNETES_IMPORT_ERROR = traceback.format_exc()


FIELD_MANAGER = "osc.peerpods"

MERGE_PATCH = "application/merge-patch+json"

# The size of a page: 500 Node objects are about 5 MB, which an API server returns without trouble.
PAGE_SIZE = 500

# How often a read-plan-write cycle is repeated after a conflict with another writer.
CONFLICT_RETRIES = 5

# How often a list is restarted because the API server no longer accepts its continue token (410).
RELISTS = 3

# The pauses before a request is repeated after a transient failure: a load balancer that changes its backend, an API server
# that restarts or is overloaded. Seconds.
RETRY_PAUSES = (0.25, 0.5, 1.0, 2.0)

# The longest Retry-After of an API server that is waited for. Seconds.
LONGEST_PAUSE = 30.0

# The fields of an object's metadata that only the API server writes.
BOOKKEEPING = ("generation", "managedFields", "resourceVersion")

# The pause before a new list if a watch does not stay open, such as behind a proxy that closes it. Seconds.
RELIST_INTERVAL = 1.0

# The maximum length of a server's error text in a message: a proxy may answer with a page of HTML.
MESSAGE_LENGTH = 500

T = TypeVar("T")


class ClusterError(Exception):
    """A failed request, as a sentence with the request, the response, and what to do.

    `status` is the HTTP status, or None without a response. `transient` is true if the same request may succeed later, and
    `retry_after` is the number of seconds that the API server requests until then.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        transient: bool = False,
        retry_after: float = 0.0,
    ):
        super().__init__(message)
        self.status = status
        self.transient = transient
        self.retry_after = retry_after

    @property
    def outcome_unknown(self) -> bool:
        """Whether a write that failed with this error may have been applied nevertheless."""
        return self.status is None or self.status >= 500


def cluster_module(argument_spec: dict, **kwargs: Any) -> AnsibleModule:
    """An AnsibleModule that also takes kubernetes.core's authentication options."""
    return AnsibleModule(argument_spec={**AUTH_ARG_SPEC, **argument_spec}, supports_check_mode=True, **kwargs)


def retry_conflicts(attempt: Callable[[], T]) -> T:
    """Repeat a read-plan-write cycle from its read if its write conflicts with that of another writer."""
    return _retry_on(409, CONFLICT_RETRIES, attempt)


class Cluster:
    """A connection to one API server; create one per module run.

    Paths are the API's own, as the API reference prints them
    (`/api/v1/nodes`, `/apis/confidentialcontainers.org/v1alpha1/...`).
    """

    def __init__(self, module: AnsibleModule):
        if KUBERNETES_IMPORT_ERROR:
            module.fail_json(msg=missing_required_lib("kubernetes"), exception=KUBERNETES_IMPORT_ERROR)
        self._client = self._persist(lambda: self._connect(module))

    def _connect(self, module: AnsibleModule) -> Any:
        try:
            return _without_retries(get_api_client(_AsK8SModule(module)))
        except (CoreException, ConfigException, YAMLError) as error:
            raise _no_cluster(_sentence(error)) from error
        # The library raises any of these if the file is not a kubeconfig, or if the server is not an API server.
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _no_cluster(
                f"this is not a kubeconfig, or its server is not a Kubernetes API ({_sentence(error)})"
            ) from error
        except (ApiException, DynamicApiError) as error:
            raise self._refused("GET", "/version", error) from error
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from error

    def get(self, path: str) -> dict | None:
        """The object at `path`, or None if it does not exist or its kind is not served."""
        try:
            return self._persist(lambda: self._request("GET", path))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def list(self, path: str, **query: str) -> Iterator[dict]:
        """Every object of a collection, page by page; `query` has the names of the API (labelSelector).

        If the list must be restarted in the middle, an object that was yielded before is not yielded again; an object that
        has been deleted meanwhile stays yielded.
        """
        seen: set[str] = set()
        for relists in range(RELISTS + 1):
            try:
                for page in self.pages(path, query):
                    for item in page["items"]:
                        uid = item["metadata"]["uid"]
                        if uid not in seen:
                            seen.add(uid)
                            yield item
                return
            except ClusterError as error:
                if error.status != 410 or relists == RELISTS:
                    raise

    def follow(self, path: str, **query: str) -> Collection:
        """A collection as it is now (one list), which can wait for changes (one watch)."""
        return Collection(self, path, query)

    def pages(self, path: str, query: dict[str, str]) -> Iterator[dict]:
        """The pages of a collection as the API server returns them, each with its `metadata`.

        A 410 after the first page means that the API server no longer has the remaining objects in the state of the first page.
        """
        pending: dict[str, Any] | None = {**query, "limit": PAGE_SIZE}
        while pending is not None:
            page = self._persist(functools.partial(self._request, "GET", path, query=pending))
            yield page
            token = page["metadata"].get("continue")
            pending = {**query, "limit": PAGE_SIZE, "continue": token} if token else None

    def watch(self, path: str, query: dict[str, str], seconds: float) -> Iterator[dict]:
        """The collection's events as they come, for at most `seconds` (rounded up)."""
        for_seconds = math.ceil(seconds)
        response = self._persist(
            lambda: self._send(
                "GET",
                path,
                query={**query, "watch": "true", "timeoutSeconds": for_seconds},
                # The API server ends the watch. The timeout is for a server that does not respond any more.
                timeout=for_seconds + 5,
            )
        )
        try:
            for line in response:
                yield json.loads(line)
        # Watches break, even in the middle of a line; the caller then lists all objects again.
        except (HTTPError, OSError, ValueError):
            return
        finally:
            response.close()

    def create(self, path: str, body: dict, **query: str) -> dict:
        name = body.get("metadata", {}).get("name")
        return self._write("POST", path, name and f"{path}/{name}", body, query)

    def patch(self, path: str, body: Any, content_type: str = MERGE_PATCH, **query: str) -> dict:
        return self._write("PATCH", path, path, body, query, content_type=content_type)

    def replace(self, path: str, body: dict, **query: str) -> dict:
        return self._write("PUT", path, path, body, query)

    def delete(self, path: str, resource_version: str | None = None, **query: str) -> None:
        """Delete the object at `path`; an object that does not exist is not an error.

        With `resource_version`, the object is deleted only if it still has that version (otherwise a 409).
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if resource_version:
            options["preconditions"] = {"resourceVersion": resource_version}
        try:
            self._write("DELETE", path, path, options, query)
        except ClusterError as error:
            if error.status != 404:
                raise

    def _write(
        self,
        method: str,
        path: str,
        object_path: str | None,
        body: Any,
        query: dict[str, str],
        **kwargs: Any,
    ) -> dict:
        """Write, and repeat the write after a transient failure; if a response was lost, read the object to find out the result.

        Repeating a write is safe: a name is created only once, and an update has the resourceVersion that was read, or is
        idempotent. If the result cannot be found out from the object (the API server generates the name, or the body is a JSON
        patch), the write is sent once.
        """
        if method != "DELETE":
            query = {"fieldManager": FIELD_MANAGER, **query}
        request = functools.partial(self._request, method, path, body=body, query=query, **kwargs)
        if "dryRun" in query:
            return self._persist(request)
        if object_path is None or not isinstance(body, dict):
            return request()

        def settled() -> dict | None:
            current = self.get(object_path)
            return (current or {}) if _is_applied(method, body, current) else None

        return self._persist(request, settled)

    def _persist(self, request: Callable[[], T], settled: Callable[[], T | None] | None = None) -> T:
        """Repeat a request after a transient failure, a limited number of times.

        For a write, `settled` reads the result of the previous attempt, and returns None if it was not applied.
        """
        lost = False
        for pause in (*RETRY_PAUSES, None):
            try:
                return request()
            except ClusterError as error:
                failure = error
            # A conflict may be with a previous attempt that arrived after `settled` had read the object.
            lost = lost or failure.outcome_unknown
            if settled and lost and (failure.outcome_unknown or failure.status == 409):
                result = settled()
                if result is not None:
                    return result
            if pause is None or not failure.transient:
                break
            time.sleep(max(pause, failure.retry_after))
        raise failure

    def _request(self, method: str, path: str, **kwargs: Any) -> dict:
        response = self._send(method, path, **kwargs)
        try:
            body = response.data
        # The connection broke in the middle of the response.
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from error
        try:
            return json.loads(body)
        except ValueError as error:
            raise ClusterError(
                f"The response to {method} {path} is not that of a Kubernetes API server: "
                f"{_sentence(body[:MESSAGE_LENGTH].decode(errors='replace'))}. Check that "
                f"{self._server} is the API server."
            ) from error

    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict | None = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Any:
        try:
            return self._client.request(
                method.lower(),
                path,
                body=body,
                query_params=list((query or {}).items()),
                content_type=content_type,
                serialize=False,
                _request_timeout=timeout,
            )
        except (ApiException, DynamicApiError) as error:
            raise self._refused(method, path, error) from error
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from error

    @property
    def _server(self) -> str:
        return self._client.client.configuration.host

    def _refused(self, method: str, path: str, error: Any) -> ClusterError:
        if not error.status:  # The library reports a failed TLS handshake in this way.
            return self._unreachable(SSLError(error.reason))
        retry_after = _seconds(error.headers)
        advice = {
            401: "The credentials are invalid or have expired. Log in again.",
            403: "Log in as a user with the cluster-admin role.",
        }.get(error.status, "")
        if retry_after > LONGEST_PAUSE:
            advice = f"It requests a retry after {retry_after:g} s. Try again then."
        return ClusterError(
            f"{method} {path} was rejected by the API server with {error.status} {error.reason}: "
            f"{_status_message(error)}. {advice}".strip(),
            status=error.status,
            # A 500 in response to a write is usually that of an admission webhook, and permanent.
            transient=retry_after <= LONGEST_PAUSE
            and (error.status in (429, 502, 503, 504) or (error.status == 500 and method == "GET")),
            retry_after=retry_after,
        )

    def _unreachable(self, error: Exception) -> ClusterError:
        # urllib3 wraps the cause in a description of its own; only the innermost cause is useful.
        cause = getattr(error, "reason", None) or error
        server = f" at {self._server}" if hasattr(self, "_client") else ""
        return ClusterError(
            f"The Kubernetes API server{server} cannot be reached: {_sentence(cause)}. "
            "Check that the kubeconfig names the right cluster and that the cluster is up.",
            # An invalid certificate does not become valid within seconds.
            transient=not isinstance(cause, SSLError),
        )


class Collection:
    """The objects of a collection as last seen, kept up to date by a watch while waiting."""

    def __init__(self, cluster: Cluster, path: str, query: dict[str, str]):
        self._cluster = cluster
        self._path = path
        self._query = query
        self._objects: dict[str, dict] = {}
        self._version = ""
        self._list()

    @property
    def objects(self) -> list[dict]:
        return list(self._objects.values())

    def wait(self, done: Callable[[list[dict]], bool], seconds: float) -> bool:
        """Whether `done(objects)` became true within `seconds`.

        An API server that is temporarily unavailable, such as during the reboot of its node, does not end the wait.
        """
        deadline = time.monotonic() + seconds
        while not done(self.objects):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            try:
                self._advance(done, remaining)
            except ClusterError as error:
                if not error.transient or time.monotonic() >= deadline:
                    raise
        return True

    def _advance(self, done: Callable[[list[dict]], bool], seconds: float) -> None:
        """Follow the collection until `done`, until `seconds` have passed or the watch has ended."""
        began = time.monotonic()
        for event in self._cluster.watch(self._path, {**self._query, "resourceVersion": self._version}, seconds):
            if event["type"] == "ERROR":
                break  # Most likely 410 Gone: the API server no longer has the events since.
            self._version = event["object"]["metadata"]["resourceVersion"]
            self._apply_event(event)
            if done(self.objects):
                return
        lasted = time.monotonic() - began
        if lasted < seconds:
            time.sleep(min(RELIST_INTERVAL, seconds - lasted))
            self._list()

    def _apply_event(self, event: dict) -> None:
        uid = event["object"]["metadata"]["uid"]
        if event["type"] == "DELETED":
            self._objects.pop(uid, None)
        else:
            self._objects[uid] = event["object"]

    def _list(self) -> None:
        self._objects, self._version = _retry_on(410, RELISTS, self._whole)

    def _whole(self) -> tuple[dict[str, dict], str]:
        """Every object, and the resourceVersion from which a watch continues."""
        objects: dict[str, dict] = {}
        version = ""
        for page in self._cluster.pages(self._path, self._query):
            objects.update({item["metadata"]["uid"]: item for item in page["items"]})
            version = page["metadata"]["resourceVersion"]
        return objects, version


class _AsK8SModule(AnsibleK8SModule):
    """An adapter that gives kubernetes.core's client the AnsibleModule as an AnsibleK8SModule.

    Server-side dry run is off: in check mode, no write is sent.
    """

    def __init__(self, module: AnsibleModule):  # pylint: disable=super-init-not-called
        self._module = module

    @property
    def server_side_dry_run(self) -> bool:
        return False


def _without_retries(client: Any) -> Any:
    """The dynamic client in kubernetes.core's `client`, without urllib3's retries: `Cluster` retries instead.

    urllib3 would repeat a PUT or DELETE whose response was lost, so that it is unknown which request made the change, and
    would wait for as long as Retry-After requests.
    """
    rest_client = RESTClientObject(client.configuration)
    rest_client.pool_manager.connection_pool_kw["retries"] = Retry(
        connect=0, read=0, status=0, other=0, respect_retry_after_header=False
    )
    client.client.client.rest_client = rest_client
    return client.client


def _retry_on(status: int, times: int, attempt: Callable[[], T]) -> T:
    for _again in range(times):
        try:
            return attempt()
        except ClusterError as error:
            if error.status != status:
                raise
    return attempt()


def _is_applied(method: str, body: dict, current: dict | None) -> bool:
    """Whether `current` is the object that a write of `body` results in."""
    if method == "DELETE":
        return current is None or "deletionTimestamp" in current["metadata"]
    if current is None:
        return False
    metadata = body.get("metadata", {})
    own_metadata = {key: value for key, value in metadata.items() if key not in BOOKKEEPING}
    content = {key: value for key, value in body.items() if key != "metadata"}
    return _contains(current, {**content, "metadata": own_metadata} if own_metadata else content)


def _contains(current: Any, sent: Any) -> bool:
    """Whether `current` has all values of `sent`; a None or an empty value must be absent or empty."""
    if sent is None or sent in ({}, []):
        return not current
    if isinstance(sent, dict):
        return isinstance(current, dict) and all(_contains(current.get(key), value) for key, value in sent.items())
    if isinstance(sent, list):
        return isinstance(current, list) and len(current) == len(sent) and all(map(_contains, current, sent))
    return current == sent


def _seconds(headers: Any) -> float:
    """The value of Retry-After in seconds, as API servers send it; 0 for other forms."""
    text = (headers or {}).get("Retry-After") or ""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _no_cluster(why: str) -> ClusterError:
    return ClusterError(
        f"No cluster is configured: {why}. Set kubeconfig (or host and api_key), or set "
        "K8S_AUTH_KUBECONFIG or KUBECONFIG."
    )


def _sentence(error: object) -> str:
    """An error's text on one line, shortened to MESSAGE_LENGTH, for use in a sentence."""
    line = " ".join(str(error).split()).rstrip(".")
    return line if len(line) <= MESSAGE_LENGTH else f"{line[:MESSAGE_LENGTH]}…"


def _status_message(error: Any) -> str:
    """The `message` of the Status object in an error's body, or the body itself."""
    try:
        return _sentence(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return _sentence(error.body or "no body")
