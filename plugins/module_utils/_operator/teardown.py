# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a teardown of the operator removes, and what remains (no I/O here)."""

from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.module_utils._operator.settings import REQUESTED


def plan_teardown(objects: list[dict]) -> dict:
    """What a teardown removes, in this order, and what remains; `objects` have the form of `describe_object`.

    A KataConfig that this collection did not create needs all objects.
    """
    kata_config = next(
        (entry["name"] for entry in objects if entry["kind"] == "KataConfig" and not entry["managed"]), None
    )
    if kata_config:
        return {
            "kata_config": kata_config,
            "label": [],
            "remove": [],
            "remain": [_reference(entry) for entry in objects],
        }
    subscribed = any(entry["kind"] == "Subscription" and entry["managed"] for entry in objects)
    # OLM created the ClusterServiceVersions for the Subscription.
    csvs = [entry for entry in objects if entry["kind"] == "ClusterServiceVersion" and subscribed]
    unmanaged = [entry for entry in objects if not entry["managed"] and entry not in csvs]
    # The operator's Secret is deleted together with its CredentialsRequest.
    remain = [entry for entry in unmanaged if REQUESTED not in entry["labels"]]
    kept_kinds = {"KataConfig", "Namespace"} if remain else {"KataConfig"}
    return {
        "kata_config": None,
        "label": csvs,
        "remove": [entry for entry in objects if entry not in unmanaged and entry["kind"] not in kept_kinds],
        "remain": [_reference(entry) for entry in remain],
    }


def _reference(entry: dict) -> str:
    return f"{entry['kind']}/{entry['name']}"
