# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes and deletes objects as kubernetes.core.k8s does, after it has read and judged all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule, has_at_least
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.runner import (
    get_definitions,
    perform_action,
    validate,
)
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.service import K8sService, decode_response
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.waiter import exists
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.transport import LostWriteError, connect
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# kubernetes.core creates a Project when it reads one, if the user has no permission to read it.
CREATED_WHEN_READ = ("Project", "ProjectRequest")

# Why definitions cannot be written or deleted, given each with the objects that exist; empty if they can be.
Judge = Callable[[Sequence[tuple[dict, list[dict]]]], str]


class Objects(K8sService):
    """kubernetes.core's service, which reads each object once, and writes only to the object that it has read."""

    def __init__(self, client: Any, module: Any, judge: Judge):
        super().__init__(client, module)
        self._judge = judge
        # What was read for a definition, or why it could not be read, by its id: the definition is completed meanwhile.
        self._read: dict[int, Any] = {}
        # A kind that is not found is looked for on the API server again and again.
        self._unserved: set[tuple[str, str]] = set()
        # What was deleted for the current definition, which may select several objects.
        self.deleted: list[str] = []

    def read(self, definitions: Sequence[dict]) -> None:
        """Read the objects of all definitions before the first one is changed. Raises CoreException."""
        read = []
        for definition in definitions:
            # A definition before it may create the kind. If the kind is not served, the action reports it.
            resource = self.find_resource(definition["kind"], definition["apiVersion"])
            if resource is None or resource.kind in CREATED_WHEN_READ:
                continue
            definition["kind"], definition["apiVersion"] = resource.kind, resource.group_version
            try:
                self._read[id(definition)] = super().retrieve(resource, definition)
            except CoreException as error:
                if not self.module.params["continue_on_error"]:
                    raise
                # The action reports it.
                self._read[id(definition)] = error
            else:
                read.append((definition, self._existing(definition)))
        _require(self._judge(read))

    def find_resource(self, kind: str, api_version: str, fail: bool = False) -> Any:
        if (kind, api_version) not in self._unserved:
            resource = super().find_resource(kind, api_version)
            if resource is not None:
                return resource
            self._unserved.add((kind, api_version))
        if fail:
            raise CoreException(f"The API server does not serve {kind} of {api_version}.")
        return None

    def retrieve(self, resource: Any, definition: dict) -> Any:
        if resource.kind in CREATED_WHEN_READ:
            return super().retrieve(resource, definition)
        if id(definition) not in self._read:
            self._read[id(definition)] = super().retrieve(resource, definition)
            _require(self._judge([(definition, self._existing(definition))]))
        read = self._read[id(definition)]
        if isinstance(read, CoreException):
            raise read
        return read

    def _existing(self, definition: dict) -> list[dict]:
        """The objects that were read for a definition."""
        read = self._read[id(definition)]
        if not exists(read):
            return []
        # The items of a list have no kind.
        kind = {"kind": definition["kind"], "apiVersion": definition["apiVersion"]}
        content = read.to_dict()
        return [{**item, **kind} for item in content.get("items") or [content]]

    def create(self, resource: Any, definition: dict) -> tuple[dict, list[str]]:
        created, warnings = super().create(resource, definition)
        if not created and resource.kind not in CREATED_WHEN_READ:
            raise CoreException("Another client has created the object since it was read. Run the task again.")
        self._unserved.clear()
        return created, warnings

    def update(self, resource: Any, definition: dict, existing: Any) -> tuple[dict, list[str]]:
        return super().update(resource, _with_uid(definition, existing), existing)

    def replace(self, resource: Any, definition: dict, existing: Any) -> tuple[dict, list[str]]:
        # kubernetes.core replaces the version that exists by then.
        return super().replace(resource, _with_uid(definition, existing), existing)

    def delete(self, resource: Any, definition: Any, existing: Any = None) -> dict:
        try:
            result = super().delete(resource, definition, existing)
        except CoreException as error:
            # Another client has deleted the object since it was read.
            if getattr(error.__cause__, "status", None) != 404:
                raise
            return {}
        if exists(existing) and not self.module.check_mode:
            self.deleted.append(f"{resource.kind} {definition['metadata']['name']}")
        return result

    def apply(self, resource: Any, definition: dict, existing: Any = None) -> tuple[dict, list[str]]:
        options = self.module.params["server_side_apply"]
        if not options:
            return super().apply(resource, definition, existing)
        # kubernetes.core would read the object again.
        body = _with_uid(definition, existing)
        try:
            response = resource.server_side_apply(
                body=body if has_at_least("kubernetes", "25.0.0") else json.dumps(body).encode(),
                name=definition["metadata"].get("name"),
                namespace=definition["metadata"].get("namespace"),
                field_manager=options["field_manager"],
                # An object that another client creates after the read is not replaced.
                force_conflicts=options["force_conflicts"] and bool(existing),
                dry_run=self.client.K8S_SERVER_DRY_RUN if self.client.dry_run else None,
                serialize=False,
            )
        except Exception as error:
            raise CoreException(f"Failed to apply object: {getattr(error, 'body', error)}") from error
        self._unserved.clear()
        return decode_response(response)


def _with_uid(definition: dict, existing: Any) -> dict:
    """The definition for the object that was read: the API server rejects it for a new object of the same name."""
    uid = existing.metadata.uid if existing else None
    return {**definition, "metadata": {"uid": uid, **definition["metadata"]}} if uid else definition


def write_objects(module: AnsibleK8SModule, judge: Judge) -> dict[str, Any]:
    """The result of kubernetes.core.k8s. Nothing is changed if `judge` returns why. Raises CoreException."""
    client = connect(module)
    objects = Objects(client, module, judge)
    definitions = get_definitions(objects, module.params)
    objects.read(definitions)

    results: list[dict[str, Any]] = []
    changed: list[str] = []
    for definition in definitions:
        objects.deleted = []
        warnings = validate(client, module, definition) if module.params["validate"] is not None else []
        try:
            result = perform_action(objects, definition, module.params)
        # The library raises errors of its own for definitions that are not valid.
        except Exception as error:  # noqa: BLE001
            changed += objects.deleted
            failure = _failure(error, changed)
            if not module.params["continue_on_error"]:
                module.fail_json(**_with_warnings(failure, warnings))
            result = {"changed": failure.get("changed", False), "result": {}, "error": failure}
        else:
            if module.params["state"] == "absent" and not module.check_mode:
                result["changed"] = bool(objects.deleted)
            if result["changed"] and not module.check_mode:
                name = f"{definition['kind']} {definition['metadata'].get('name', '')}"
                changed += objects.deleted or [name.strip()]
        results.append(_with_warnings(result, warnings))
    if len(results) == 1:
        return results[0]
    combined = {"changed": any(result["changed"] for result in results), "result": {"results": results}}
    diffs = [_with_header(*pair) for pair in zip(definitions, results, strict=True) if pair[1].get("diff")]
    return {**combined, "diff": diffs} if diffs else combined


def _require(problem: str) -> None:
    if problem:
        raise CoreException(problem)


def _with_warnings(result: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    both = [*result.get("warnings", []), *warnings]
    return {**result, "warnings": both} if both else result


def _with_header(definition: dict, result: dict[str, Any]) -> dict[str, Any]:
    """The diff of one of several objects. kubernetes.core returns it where Ansible does not show it."""
    header = f"{definition['kind']} {definition['metadata'].get('name', '')}"
    return {**result["diff"], "before_header": header, "after_header": header}


def _failure(error: Exception, changed: Sequence[str]) -> dict[str, Any]:
    """The result of a failure, with the changes of the definitions before it."""
    result = dict(getattr(error, "result", {}))
    if reason := getattr(error.__cause__, "reason", None):
        result["reason"] = reason
    before = f" Changed before: {join_names(changed)}." if changed else ""
    result["msg"] = f"{str(error).rstrip('.')}.{before}"
    if changed or any(isinstance(each, LostWriteError) for each in (error, error.__cause__)):
        result["changed"] = True
    return result
