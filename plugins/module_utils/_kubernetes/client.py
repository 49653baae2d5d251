# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The client of the modules to the Kubernetes API (private to this collection).

Requests use plain paths and dicts, because all kinds are known in advance: no API discovery is needed, and each call is
one request. `transport.py` connects, repeats requests and explains errors.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.transport import (
    KUBERNETES_IMPORT_ERROR,
    ClusterError,
    PersistentClient,
    connect,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# Without the library, Cluster fails with a message about it.
with contextlib.suppress(ImportError):
    from urllib3.exceptions import HTTPError

FIELD_MANAGER = "osc.peerpods"

MERGE_PATCH = "application/merge-patch+json"

# An object without its spec, status and data, such as a Secret of which no value must be read.
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

# The size of a page: 500 Node objects are about 5 MB, which an API server returns without trouble.
PAGE_SIZE = 500

# How often a read-plan-write cycle is repeated after a conflict with another writer.
CONFLICT_RETRIES = 5

# How often a list is restarted because the API server no longer accepts its continue token (410).
RELISTS = 3

# The pause before a new list if a watch does not stay open, such as behind a proxy that closes it. Seconds.
RELIST_INTERVAL = 1.0

T = TypeVar("T")


def cluster_module(argument_spec: dict, **kwargs: Any) -> AnsibleModule:
    """An AnsibleModule that also takes kubernetes.core's authentication options."""
    return AnsibleModule(argument_spec={**AUTH_ARG_SPEC, **argument_spec}, supports_check_mode=True, **kwargs)


def retry_conflicts(attempt: Callable[[], T]) -> T:
    """Repeat a read-plan-write cycle from its read if its write conflicts with that of another writer."""
    return _retry_on(409, CONFLICT_RETRIES, attempt)


class TaskError(Exception):
    """Why a module fails, as a sentence, and `result`, what it returns nevertheless, with what was changed before."""

    def __init__(self, message: str, result: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.result = result or {}


@contextlib.contextmanager
def reporting_writes(module: AnsibleModule, *errors: type[Exception]) -> Iterator[Cluster]:
    """A Cluster. After a ClusterError, a TaskError or one of `errors`, the module fails with what it wrote before."""
    cluster = Cluster(module)
    expected: tuple[type[Exception], ...] = (ClusterError, TaskError, *errors)
    try:
        yield cluster
    except expected as error:
        result = error.result if isinstance(error, TaskError) else {}
        # A module that returns what it changed also describes it.
        is_listed = bool(cluster.writes) and "changed" not in result
        written = f" Written before: {join_names(cluster.writes)}." if is_listed else ""
        module.fail_json(msg=f"{error}{written}", **{"changed": bool(cluster.writes), **result})


class Cluster:
    """A connection to one API server, which is opened by the first request; create one per module run.

    Paths are the API's own, as the API reference prints them
    (`/api/v1/nodes`, `/apis/confidentialcontainers.org/v1alpha1/...`).
    """

    def __init__(self, module: AnsibleModule):
        if KUBERNETES_IMPORT_ERROR:
            module.fail_json(msg=missing_required_lib("kubernetes"), exception=KUBERNETES_IMPORT_ERROR)
        self._module = module
        # What was written so far, for the result of a module that fails: "PATCH /api/v1/…".
        self.writes: list[str] = []

    @functools.cached_property
    def _client(self) -> PersistentClient:
        client = connect(_AsK8SModule(self._module)).client
        client.writes = self.writes
        return client

    def get(self, path: str, accept: str = "application/json") -> dict | None:
        """The object at `path`, or None if it does not exist or its kind is not served."""
        try:
            return self._request("GET", path, header_params={"Accept": accept})
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def text(self, path: str, **query: str) -> str:
        """The text at `path`, such as a log or what a pod answers, by one attempt."""
        return self._client.text(path, query)

    def list(self, path: str, **query: str) -> Iterator[dict]:
        """Every object of a collection, page by page; `query` has the names of the API (labelSelector).

        If the list must be restarted in the middle, an object that was yielded before is not yielded again; an object
        that has been deleted meanwhile stays yielded.
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

    def pages(self, path: str, query: dict[str, str], accept: str = "application/json") -> Iterator[dict]:
        """The pages of a collection as the API server returns them, each with its `metadata`.

        A 410 after the first page means that the API server no longer has the remaining objects in the state of the
        first page.
        """
        pending: dict[str, Any] | None = {**query, "limit": PAGE_SIZE}
        while pending is not None:
            page = self._request("GET", path, query=pending, header_params={"Accept": accept})
            yield page
            token = page["metadata"].get("continue")
            pending = {**query, "limit": PAGE_SIZE, "continue": token} if token else None

    def watch(self, path: str, query: dict[str, str], seconds: float) -> Iterator[dict]:
        """The collection's events as they come, for at most `seconds` (rounded up)."""
        for_seconds = math.ceil(seconds)
        # The API server ends the watch. The timeout is for a server that does not respond any more.
        response = self._client.watch(
            path, {**query, "watch": "true", "timeoutSeconds": for_seconds}, timeout=for_seconds + 5
        )
        try:
            for line in response:
                yield json.loads(line)
        # Watches break, even in the middle of a line; the caller then lists all objects again.
        except (HTTPError, OSError, ValueError):
            return
        finally:
            response.close()

    def log(self, namespace: str, pod: str, container: str, lines: int) -> str:
        """The last lines that a container has printed."""
        query = {"tailLines": lines, **({"container": container} if container else {})}
        return self._client.log(f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query)

    def create(self, path: str, body: dict, **query: str) -> dict:
        return self._write("POST", path, body, query)

    def patch(self, path: str, body: Any, content_type: str = MERGE_PATCH, **query: str) -> dict:
        return self._write("PATCH", path, body, query, content_type=content_type)

    def replace(self, path: str, body: dict, **query: str) -> dict:
        return self._write("PUT", path, body, query)

    def delete(self, path: str, resource_version: str | None = None, *, uid: str | None = None) -> None:
        """Delete the object at `path`; an object that does not exist is not an error.

        With `resource_version` or `uid`, only an object that still has them is deleted (otherwise a 409).
        """
        preconditions = {"resourceVersion": resource_version, "uid": uid}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {key: value for key, value in preconditions.items() if value},
        }
        try:
            self._request("DELETE", path, options)
        except ClusterError as error:
            if error.status != 404:
                raise

    def _write(self, method: str, path: str, body: Any, query: dict[str, str], **params: Any) -> dict:
        return self._request(method, path, body, {"fieldManager": FIELD_MANAGER, **query}, **params)

    def _request(
        self, method: str, path: str, body: Any = None, query: dict[str, Any] | None = None, **params: Any
    ) -> dict:
        return self._client.send(method, path, body, query_params=list((query or {}).items()), **params).content


def readable(cluster: Cluster, path: str) -> list[dict]:
    """Every object of a collection; none if it is not served, or may not be read."""
    try:
        return list(cluster.list(path))
    except ClusterError as error:
        if error.status not in (403, 404):
            raise
        return []


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


def _retry_on(status: int, times: int, attempt: Callable[[], T]) -> T:
    for _again in range(times):
        try:
            return attempt()
        except ClusterError as error:
            if error.status != status:
                raise
    return attempt()
