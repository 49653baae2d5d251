"""Reads, applies, patches, labels and deletes objects as kubectl does, without starting it.

kubectl takes a sixth of a second of CPU time for a request of two milliseconds, and tests that wait send many requests.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import urlencode

import urllib3

from .api import JSON, Api, ApiError
from .processes import wait_for

# The field managers in managedFields, and the user agent in the audit log.
MANAGER = "kubectl"
PATCH_MANAGER = "kubectl-patch"

PatchType = Literal["json", "merge", "strategic"]
PATCH_TYPES: dict[PatchType, str] = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}
USER_AGENT = "kubectl/tests"

DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

_OPTIONS = argparse.ArgumentParser(add_help=False)
_OPTIONS.add_argument("kinds")
_OPTIONS.add_argument("names", nargs="*")
_OPTIONS.add_argument("-n", dest="namespace", default="default")
_OPTIONS.add_argument("-A", dest="everywhere", action="store_true")
_OPTIONS.add_argument("-l", "--selector")
_OPTIONS.add_argument("--field-selector")

_GET = argparse.ArgumentParser(parents=[_OPTIONS])
_GET.add_argument("--show-managed-fields", action="store_true")

_DELETE = argparse.ArgumentParser(parents=[_OPTIONS])
_DELETE.add_argument("--all", action="store_true")
_DELETE.add_argument("--ignore-not-found", action="store_true")
_DELETE.add_argument("--cascade", choices=("background", "orphan"), default="background")
_DELETE.add_argument("--grace-period", type=int)
# Without it, kubectl does not accept a grace period of 0.
_DELETE.add_argument("--force", action="store_true")
_DELETE.add_argument("--wait", choices=("true", "false"), default="true")

_PARSING = threading.Lock()


def _parsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The parser changes its options while it parses, and all parsers share them."""
    with _PARSING:
        return parser.parse_intermixed_args(arguments)


# The seconds that a deletion waits for finalizers and controllers.
DELETION_TIMEOUT = 180

NOT_FOUND = 404


@dataclass(frozen=True)
class Resource:
    """A kind of object, as discovery returns it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """The path of one object, or of the collection; `namespace` is None for all namespaces."""
        parts = [f"/{'apis' if '/' in self.api_version else 'api'}/{self.api_version}"]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{namespace}")
        return "/".join([*parts, self.plural, *([name] if name else [])])


# As client-go does, if the API server returns Retry-After, for example while it sets up a new kind.
RETRIES = urllib3.Retry(total=10, connect=0, read=0, allowed_methods=None, raise_on_status=False)


class Client:
    """The user of a kubeconfig."""

    def __init__(self, kubeconfig: str):
        self._api = Api(kubeconfig, headers={"User-Agent": USER_AGENT}, retries=RETRIES, timeout=60)
        # By each name that kubectl accepts, in lower case, and by apiVersion and kind.
        self._resources: dict[str | tuple[str, str], Resource] = {}

    def get(self, *arguments: str) -> dict:
        """The JSON that `kubectl get` with these arguments prints; RuntimeError if kubectl would fail."""
        options = _parsed(_GET, arguments)
        names = self._named(options)
        objects = [self._request("GET", path) for path in names] if names else self._list(options)
        if not options.show_managed_fields:
            for item in objects:
                item["metadata"].pop("managedFields", None)
        if len(names) == 1:
            return objects[0]
        return {"apiVersion": "v1", "kind": "List", "items": objects}

    def delete(self, *arguments: str) -> None:
        """Delete objects as `kubectl delete` with these arguments does; RuntimeError if kubectl would fail."""
        options = _parsed(_DELETE, arguments)
        paths = self._named(options)
        if not paths:
            if not (options.all or options.selector or options.field_selector):
                raise RuntimeError("Neither a name, nor a selector, nor --all.")
            paths = [self._path(item) for item in self._list(options)]
        body: dict[str, Any] = {"propagationPolicy": options.cascade.capitalize()}
        if options.grace_period is not None:
            body["gracePeriodSeconds"] = options.grace_period
        deleted = []
        for path in paths:
            try:
                answer = self._request("DELETE", path, body)
            except ApiError as error:
                if error.status == NOT_FOUND and (options.ignore_not_found or options.all):
                    continue
                raise
            # A Status, or the object if it has finalizers or a grace period.
            deleted.append((path, answer.get("metadata", {}).get("uid") or answer.get("details", {}).get("uid")))
        if options.wait == "true":
            for path, uid in deleted:
                wait_for(f"the deletion of {path}", partial(self._is_deleted, path, uid), seconds=DELETION_TIMEOUT)

    def label(self, *arguments: str) -> None:
        """Change labels as `kubectl label --overwrite` with these arguments does: KEY=VALUE sets, and KEY- removes."""
        self._change("labels", "kubectl-label", arguments)

    def annotate(self, *arguments: str) -> None:
        """Change annotations as `kubectl annotate --overwrite` with these arguments does."""
        self._change("annotations", "kubectl-annotate", arguments)

    def _change(self, field: str, manager: str, arguments: Sequence[str]) -> None:
        options = _parsed(_OPTIONS, arguments)
        # A name has no "=" and does not end with "-".
        changes = [argument for argument in options.names if "=" in argument or argument.endswith("-")]
        options.names = [name for name in options.names if name not in changes]
        values: dict[str, str | None] = {}
        for change in changes:
            key, equals, value = change.partition("=")
            values[key if equals else key.removesuffix("-")] = value if equals else None
        for path in self._named(options) or [self._path(item) for item in self._list(options)]:
            self._patch(path, {"metadata": {field: values}}, "merge", manager)

    def _is_deleted(self, path: str, uid: str) -> bool:
        try:
            return self._request("GET", path)["metadata"]["uid"] != uid
        except ApiError as error:
            if error.status == NOT_FOUND:
                return True
            raise

    def _named(self, options: argparse.Namespace) -> list[str]:
        """The paths of the objects that the arguments name."""
        if "/" in options.kinds:
            pairs = [argument.split("/") for argument in (options.kinds, *options.names)]
        else:
            pairs = [(kind, name) for kind in options.kinds.split(",") for name in options.names]
        return [self._resource_of(kind).path(options.namespace, name) for kind, name in pairs]

    def _list(self, options: argparse.Namespace) -> list[dict]:
        namespace = None if options.everywhere else options.namespace
        selectors = {"labelSelector": options.selector, "fieldSelector": options.field_selector}
        query = urlencode({key: value for key, value in selectors.items() if value})
        return [
            {"apiVersion": resource.api_version, "kind": resource.kind, **item}
            for resource in [self._resource_of(kind) for kind in options.kinds.split(",")]
            for item in self._request("GET", f"{resource.path(namespace)}?{query}")["items"]
        ]

    def _path(self, item: dict) -> str:
        metadata = item["metadata"]
        resource = self._resource_of((item["apiVersion"], item["kind"]))
        return resource.path(metadata.get("namespace", "default"), metadata["name"])

    def apply(self, *objects: dict) -> None:
        """Create or update the objects, and take over the fields of other field managers."""
        query = urlencode({"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"})
        for item in objects:
            kind = item["apiVersion"], item["kind"]
            # The API server serves a new kind some time after it is Established.
            wait_for(f"kind {kind}", partial(self._resource, kind), seconds=60)
            self._request("PATCH", f"{self._path(item)}?{query}", item, "application/apply-patch+yaml")

    def patch(
        self,
        name: str,
        change: dict | list,
        namespace: str = "default",
        *,
        type: PatchType,
        subresource: str = "",
        manager: str = PATCH_MANAGER,
    ) -> None:
        """Patch the object KIND/NAME as `kubectl patch` does."""
        kind, _slash, name = name.partition("/")
        path = "/".join(filter(None, (self._resource_of(kind).path(namespace, name), subresource)))
        self._patch(path, change, type, manager)

    def _patch(self, path: str, change: dict | list, type: PatchType, manager: str) -> None:
        query = urlencode({"fieldManager": manager, "fieldValidation": "Strict"})
        self._request("PATCH", f"{path}?{query}", change, PATCH_TYPES[type])

    def _request(self, method: str, path: str, body: Any = None, content_type: str = JSON, accept: str = JSON) -> dict:
        try:
            return self._api.request(method, path, body, content_type, accept)
        except urllib3.exceptions.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error}") from error

    def _resource_of(self, key: str | tuple[str, str]) -> Resource:
        resource = self._resource(key)
        if resource is None:
            raise RuntimeError(f"The API server does not serve {key}.")
        return resource

    def _resource(self, key: str | tuple[str, str]) -> Resource | None:
        if isinstance(key, str):
            key = key.lower()
        if key not in self._resources:
            self._discover()
        return self._resources.get(key)

    def rediscover(self) -> None:
        """Forget the kinds that the API server has served: it may serve another definition of one of them."""
        self._resources.clear()

    def _discover(self) -> None:
        for root in ("/api", "/apis"):
            for group in self._request("GET", root, accept=DISCOVERY)["items"]:
                # The preferred version comes first.
                for version in group["versions"]:
                    self._learn(group["metadata"].get("name", ""), version)

    def _learn(self, group: str, version: dict) -> None:
        for served in version.get("resources", ()):
            kind = served["responseKind"]
            resource = Resource(
                f"{group}/{version['version']}" if group else version["version"],
                kind["kind"],
                served["resource"],
                served["scope"] == "Namespaced",
            )
            self._resources.setdefault((resource.api_version, resource.kind), resource)
            singular = served.get("singularResource") or resource.kind.lower()
            for name in (resource.plural, singular, *served.get("shortNames", ())):
                self._resources.setdefault(name, resource)
                self._resources.setdefault(f"{name}.{group}", resource)
