"""Reads, applies and patches objects as kubectl does, without starting it.

kubectl takes a sixth of a second of CPU time for a request of two milliseconds, and tests that wait send many requests.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

import urllib3

from .processes import wait_for

# The field managers in managedFields, and the user agent in the audit log.
MANAGER = "kubectl"
PATCH_MANAGER = "kubectl-patch"
USER_AGENT = "kubectl/tests"

DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

_OPTIONS = argparse.ArgumentParser()
_OPTIONS.add_argument("kinds")
_OPTIONS.add_argument("names", nargs="*")
_OPTIONS.add_argument("-n", dest="namespace", default="default")
_OPTIONS.add_argument("-A", dest="everywhere", action="store_true")
_OPTIONS.add_argument("-l", "--selector")
_OPTIONS.add_argument("--field-selector")
_OPTIONS.add_argument("--show-managed-fields", action="store_true")


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
    """The administrator of one API server."""

    def __init__(self, server: str, ca_file: str, certificate_file: str, key_file: str):
        self._server = server
        self._http = urllib3.PoolManager(
            ca_certs=ca_file,
            cert_file=certificate_file,
            key_file=key_file,
            maxsize=8,
            retries=RETRIES,
            timeout=60,
        )
        # By each name that kubectl accepts, and by apiVersion and kind.
        self._resources: dict[str | tuple[str, str], Resource] = {}

    def get(self, *arguments: str) -> dict:
        """The JSON that `kubectl get` with these arguments prints; RuntimeError if kubectl would fail."""
        options = _OPTIONS.parse_intermixed_args(arguments)
        kinds, names = options.kinds, options.names
        if "/" in kinds:
            kinds, _slash, name = kinds.partition("/")
            names = [name]
        requested = kinds.split(",")
        resources = list(filter(None, map(self._resource, requested)))
        if len(resources) < len(requested):
            raise RuntimeError(f"The API server does not serve all of {kinds}.")
        namespace = None if options.everywhere else options.namespace
        if names:
            (resource,) = resources
            objects = [self._request("GET", resource.path(namespace, name)) for name in names]
        else:
            selectors = {
                "labelSelector": options.selector,
                "fieldSelector": options.field_selector,
            }
            query = urlencode({key: value for key, value in selectors.items() if value})
            objects = [
                {"apiVersion": resource.api_version, "kind": resource.kind, **item}
                for resource in resources
                for item in self._request("GET", f"{resource.path(namespace)}?{query}")["items"]
            ]
        if not options.show_managed_fields:
            for item in objects:
                item["metadata"].pop("managedFields", None)
        if len(names) == 1:
            return objects[0]
        return {"apiVersion": "v1", "kind": "List", "items": objects}

    def apply(self, *objects: dict) -> None:
        """Create or update the objects, and take over the fields of other field managers."""
        query = urlencode({"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"})
        for item in objects:
            metadata = item["metadata"]
            kind = item["apiVersion"], item["kind"]
            # The API server serves a new kind some time after it is Established.
            resource = wait_for(f"kind {kind}", partial(self._resource, kind), seconds=10)
            path = resource.path(metadata.get("namespace", "default"), metadata["name"])
            self._request("PATCH", f"{path}?{query}", item, "application/apply-patch+yaml")

    def merge(
        self, name: str, patch: dict, namespace: str = "default", *, subresource: str = "", manager: str = PATCH_MANAGER
    ) -> None:
        """Patch the object KIND/NAME as `kubectl patch --type=merge` does."""
        kind, _slash, name = name.partition("/")
        resource = self._resource(kind)
        if resource is None:
            raise RuntimeError(f"The API server does not serve {kind}.")
        path = "/".join(filter(None, (resource.path(namespace, name), subresource)))
        query = urlencode({"fieldManager": manager, "fieldValidation": "Strict"})
        self._request("PATCH", f"{path}?{query}", patch, "application/merge-patch+json")

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> dict:
        try:
            response = self._http.request(
                method,
                self._server + path,
                body=None if body is None else json.dumps(body),
                headers={"User-Agent": USER_AGENT, "Content-Type": content_type, "Accept": accept},
            )
        except urllib3.exceptions.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error}") from error
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {response.data.decode()}")
        return json.loads(response.data)

    def _resource(self, key: str | tuple[str, str]) -> Resource | None:
        if key not in self._resources:
            self._discover()
        return self._resources.get(key)

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
