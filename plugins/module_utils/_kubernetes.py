# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one thin client to the Kubernetes API (private to this collection).

Who we are to the API server is kubernetes.core's business: its options, its
environment variables, its kubeconfig rules. What we ask is plain paths and
plain dicts, since every kind we touch is known: no discovery of ours, one
request a question.
"""

from __future__ import annotations

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
    from kubernetes.config import ConfigException
    from kubernetes.dynamic.exceptions import DynamicApiError
    from urllib3.exceptions import HTTPError
    from yaml import YAMLError

    KUBERNETES_IMPORT_ERROR = None
except ImportError:
    KUBERNETES_IMPORT_ERROR = traceback.format_exc()

FIELD_MANAGER = "osc.peerpods"

MERGE_PATCH = "application/merge-patch+json"
SERVER_SIDE_APPLY = "application/apply-patch+yaml"

# Nodes come in pages of this size: a page of full Node objects stays around
# 5 MB, well below what an API server answers comfortably.
PAGE_SIZE = 500

# How often a read-plan-write is run again because another writer came in between.
CONFLICT_RETRIES = 5

# Where a watch cannot be held open (a proxy that cuts it), this keeps the lists
# that take its place apart. Seconds.
RELIST_INTERVAL = 1.0

# Of what others say in an error, so much is passed on: a proxy may answer with a page of HTML.
MESSAGE_LENGTH = 500

T = TypeVar("T")


class ClusterError(Exception):
    """A request that failed, as a sentence: what was tried, what came back, what to do.

    `status` is the HTTP status, or None where no answer came.
    """

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


def cluster_module(argument_spec: dict, **kwargs: Any) -> AnsibleModule:
    """An AnsibleModule that also takes kubernetes.core's authentication options."""
    return AnsibleModule(
        argument_spec={**AUTH_ARG_SPEC, **argument_spec}, supports_check_mode=True, **kwargs
    )


def retry_conflicts(attempt: Callable[[], T]) -> T:
    """Run a read-plan-write again, from its read, when another writer came before its write."""
    for _again in range(CONFLICT_RETRIES):
        try:
            return attempt()
        except ClusterError as error:
            if error.status != 409:
                raise
    return attempt()


class Cluster:
    """A connection to one API server; create one per module run.

    Paths are the API's own, as the API reference prints them
    (`/api/v1/nodes`, `/apis/confidentialcontainers.org/v1alpha1/...`).
    """

    def __init__(self, module: AnsibleModule):
        if KUBERNETES_IMPORT_ERROR:
            module.fail_json(
                msg=missing_required_lib("kubernetes"), exception=KUBERNETES_IMPORT_ERROR
            )
        try:
            self._client = get_api_client(_AsK8SModule(module)).client
        except (CoreException, ConfigException, YAMLError) as error:
            raise _no_cluster(_sentence(error)) from error
        # Where the kubeconfig or the server is something else altogether, the library just breaks.
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _no_cluster(
                f"this is no kubeconfig, or its server no Kubernetes API ({_sentence(error)})"
            ) from error
        except (ApiException, DynamicApiError) as error:
            raise self._refused("GET", "/version", error) from error
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from error

    def get(self, path: str) -> dict | None:
        """The object at `path`, or None where there is none (also where its kind is not served)."""
        try:
            return self._request("GET", path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def list(self, path: str, **query: str) -> Iterator[dict]:
        """Every object of a collection, page by page; `query` as the API names it (labelSelector)."""
        for page in self.pages(path, query):
            yield from page["items"]

    def follow(self, path: str, **query: str) -> Collection:
        """A collection as it is now (one list), able to wait for what it becomes (one watch)."""
        return Collection(self, path, query)

    def pages(self, path: str, query: dict[str, str]) -> Iterator[dict]:
        """A collection as the API server hands it out, with each page's `metadata`."""
        pending: dict[str, Any] | None = {**query, "limit": PAGE_SIZE}
        while pending is not None:
            page = self._request("GET", path, query=pending)
            yield page
            token = page["metadata"].get("continue")
            pending = {**query, "limit": PAGE_SIZE, "continue": token} if token else None

    def watch(self, path: str, query: dict[str, str], seconds: float) -> Iterator[dict]:
        """The collection's events as they come, for at most `seconds` (rounded up)."""
        for_seconds = math.ceil(seconds)
        response = self._send(
            "GET",
            path,
            query={**query, "watch": "true", "timeoutSeconds": for_seconds},
            # The API server ends the watch; a server that has gone silent must not hold us.
            timeout=for_seconds + 5,
        )
        try:
            for line in response:
                yield json.loads(line)
        # Watches break, in the middle of a line too; the caller lists again, and that tells all.
        except (HTTPError, OSError, ValueError):
            return
        finally:
            response.close()

    def create(self, path: str, body: dict, **query: str) -> dict:
        return self._request(
            "POST", path, body=body, query={"fieldManager": FIELD_MANAGER, **query}
        )

    def patch(self, path: str, body: Any, content_type: str = MERGE_PATCH, **query: str) -> dict:
        return self._request(
            "PATCH",
            path,
            body=body,
            query={"fieldManager": FIELD_MANAGER, **query},
            content_type=content_type,
        )

    def replace(self, path: str, body: dict, **query: str) -> dict:
        return self._request("PUT", path, body=body, query={"fieldManager": FIELD_MANAGER, **query})

    def delete(self, path: str, resource_version: str | None = None, **query: str) -> None:
        """Delete the object at `path`; one that is already gone is no error.

        With `resource_version`, only as it was when it had that (otherwise a 409).
        """
        options = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if resource_version:
            options["preconditions"] = {"resourceVersion": resource_version}
        try:
            self._request("DELETE", path, body=options, query=query)
        except ClusterError as error:
            if error.status != 404:
                raise

    def _request(self, method: str, path: str, **kwargs: Any) -> dict:
        return json.loads(self._send(method, path, **kwargs).data)

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
        advice = {
            401: "The credentials are not valid (any more): log in again.",
            403: "Log in as a user with the cluster-admin role.",
        }.get(error.status, "")
        return ClusterError(
            f"{method} {path} was refused by the API server with {error.status} {error.reason}: "
            f"{_status_message(error)}. {advice}".strip(),
            status=error.status,
        )

    def _unreachable(self, error: Exception) -> ClusterError:
        # urllib3 wraps what happened in what it was doing; the innermost cause is what helps.
        cause = getattr(error, "reason", None) or error
        server = f" at {self._server}" if hasattr(self, "_client") else ""
        return ClusterError(
            f"The Kubernetes API server{server} cannot be reached: {_sentence(cause)}. "
            "Check that the kubeconfig names the right cluster and that the cluster is up."
        )


class Collection:
    """The objects of a collection as last seen, kept up to date by a watch while waiting."""

    def __init__(self, cluster: Cluster, path: str, query: dict[str, str]):
        self._cluster = cluster
        self._path = path
        self._query = query
        self._list()

    @property
    def objects(self) -> list[dict]:
        return list(self._objects.values())

    def wait(self, done: Callable[[list[dict]], bool], seconds: float) -> bool:
        """Whether `done(objects)` came to hold within `seconds`."""
        deadline = time.monotonic() + seconds
        while not done(self.objects):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            self._advance(done, remaining)
        return True

    def _advance(self, done: Callable[[list[dict]], bool], seconds: float) -> None:
        """Follow the collection until `done`, until `seconds` have passed or the watch has ended."""
        began = time.monotonic()
        for event in self._cluster.watch(
            self._path, {**self._query, "resourceVersion": self._version}, seconds
        ):
            if event["type"] == "ERROR":
                break  # Most likely 410 Gone: what happened since is no longer kept.
            self._version = event["object"]["metadata"]["resourceVersion"]
            self._see(event)
            if done(self.objects):
                return
        lasted = time.monotonic() - began
        if lasted < seconds:
            time.sleep(min(RELIST_INTERVAL, seconds - lasted))
            self._list()

    def _see(self, event: dict) -> None:
        uid = event["object"]["metadata"]["uid"]
        if event["type"] == "DELETED":
            self._objects.pop(uid, None)
        else:
            self._objects[uid] = event["object"]

    def _list(self) -> None:
        self._objects = {}
        for page in self._cluster.pages(self._path, self._query):
            self._objects.update({item["metadata"]["uid"]: item for item in page["items"]})
            self._version = page["metadata"]["resourceVersion"]


class _AsK8SModule(AnsibleK8SModule):
    """Our AnsibleModule where kubernetes.core's client wants one of its own kind.

    Its server-side dry run is off: check mode here means that nothing is sent.
    """

    def __init__(self, module: AnsibleModule):  # pylint: disable=super-init-not-called
        self._module = module

    @property
    def server_side_dry_run(self) -> bool:
        return False


def _no_cluster(why: str) -> ClusterError:
    return ClusterError(
        f"No cluster to talk to: {why}. Pass kubeconfig (or host and api_key), or set "
        "K8S_AUTH_KUBECONFIG or KUBECONFIG."
    )


def _sentence(error: object) -> str:
    """An error's text on one line of bearable length, ready to be put into a sentence."""
    line = " ".join(str(error).split()).rstrip(".")
    return line if len(line) <= MESSAGE_LENGTH else f"{line[:MESSAGE_LENGTH]}…"


def _status_message(error: Any) -> str:
    """The `message` of the Status object in an error's body, or the body itself."""
    try:
        return _sentence(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return _sentence(error.body or "no body")
