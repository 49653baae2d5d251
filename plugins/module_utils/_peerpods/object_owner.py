# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which existing objects a task must not change, because another owner created them (no I/O here).

A definition with the label of the collection is that of an object of the collection. It creates the object, or changes
one that has the label, too. A definition without the label changes an object of any owner; the roles write such
definitions if they share an object, such as the KataConfig of a user. An object is deleted only if it has the label, or
if the task names its uid.

The field manager osc.peerpods is not a mark: an object whose label a user removed is that user's from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import PART_OF
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

MARK = "=".join(PART_OF)

# The label with the program that manages an object.
MANAGED_BY = "app.kubernetes.io/managed-by"


def has_mark(metadata: dict[str, Any]) -> bool:
    key, value = PART_OF
    return (metadata.get("labels") or {}).get(key) == value


def refuse_changes(changes: Iterable[tuple[dict, dict]], alternative: str = "") -> str:
    """Why definitions of the collection cannot be written, given the objects of their names; empty if they can be.

    `alternative` is a sentence about what else the user can do.
    """
    others = [
        existing
        for definition, existing in changes
        if has_mark(definition["metadata"]) and not has_mark(existing["metadata"])
    ]
    if not others:
        return ""
    them = _pronoun(others)
    return _sentences(
        f"{_described(others)}. This task changed nothing.",
        alternative,
        f"{'Or delete' if alternative else 'Delete'} or rename {them}. Or let this collection take {them} over, "
        f"replace the content, and delete {them} in a teardown: {'; '.join(map(_labelling, others))}",
    )


def refuse_deletions(objects: Iterable[dict], uid: str | None = None, alternative: str = "") -> str:
    """Why objects cannot be deleted; empty if they can be. `uid` is that of the object which the task names."""
    others = [
        existing
        for existing in objects
        if not has_mark(existing["metadata"]) and (not uid or existing["metadata"].get("uid") != uid)
    ]
    if not others:
        return ""
    return _sentences(
        f"{_described(others)}. This task deleted nothing.",
        alternative,
        f"To delete {_pronoun(others)}: {'; '.join(f'oc delete {argument_of(existing)}' for existing in others)}",
    )


def _sentences(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _pronoun(others: Sequence[dict]) -> str:
    return "it" if len(others) == 1 else "them"


def _described(others: Sequence[dict]) -> str:
    names = join_names([_with_evidence(existing) for existing in others])
    verb = "exists" if len(others) == 1 else "exist"
    return f"{names} already {verb} without the label {MARK}: another owner created {_pronoun(others)}"


def _with_evidence(existing: dict) -> str:
    metadata = existing["metadata"]
    owners = [f"{owner['kind']} {owner['name']}" for owner in metadata.get("ownerReferences") or ()]
    managed_by = (metadata.get("labels") or {}).get(MANAGED_BY)
    managers = dict.fromkeys(
        entry["manager"]
        for entry in metadata.get("managedFields") or ()
        if entry.get("manager") and not entry.get("subresource")
    )
    evidence = [
        *([f"written by {join_names(list(managers))}"] if managers else []),
        *([f"managed by {managed_by}"] if managed_by else []),
        *([f"owned by {join_names(owners)}"] if owners else []),
    ]
    return f"{_named(existing)} ({', '.join(evidence)})" if evidence else _named(existing)


def _named(existing: dict) -> str:
    metadata = existing["metadata"]
    namespace = f" in {metadata['namespace']}" if metadata.get("namespace") else ""
    return f"{existing['kind']} {metadata['name']}{namespace}"


def _labelling(existing: dict) -> str:
    has_other_value = PART_OF[0] in (existing["metadata"].get("labels") or {})
    return f"oc label {argument_of(existing)} {MARK}{' --overwrite' if has_other_value else ''}"


def argument_of(existing: Mapping[str, Any]) -> str:
    """The object as an argument of oc."""
    metadata = existing["metadata"]
    group = existing["apiVersion"].rpartition("/")[0]
    kind = f"{existing['kind']}.{group}".rstrip(".").lower()
    namespace = f" -n {metadata['namespace']}" if metadata.get("namespace") else ""
    return f"{kind}/{metadata['name']}{namespace}"
