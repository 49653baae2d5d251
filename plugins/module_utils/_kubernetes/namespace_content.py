# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything in a namespace, of every kind that the API server serves (private to this collection)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import METADATA_ONLY
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import Cluster, ClusterError

# A kind that cannot be listed, such as one that was removed meanwhile.
NOT_LISTED = (404, 405)


@dataclass
class Content:
    """`objects` are the stored objects, each with `kind`, `group` and `metadata`. `namespaced` are the served kinds of
    namespaces, as (group, kind). `unread` has the reasons why `objects` is not complete."""

    objects: list[dict] = field(default_factory=list)
    namespaced: set[tuple[str, str]] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)


def read_content(cluster: Cluster, namespace: str) -> Content:
    """The content of the namespace: one request for each version of each group, and one or more for each namespaced
    kind.

    Only metadata is read, so that the content of Secrets is not. The kinds of the core group, of which users create
    most objects, are read last: what is created after its kind was read is not in the result.
    """
    content = Content()
    seen: set[str] = set()
    resources = list(_resources(cluster, content))
    # This order is stable.
    for group, prefix, resource in sorted(resources, key=lambda entry: entry[0] == ""):
        content.namespaced.add((group, resource["kind"]))
        if "list" in resource["verbs"]:
            try:
                for item in _listed(cluster, f"{prefix}/namespaces/{namespace}/{resource['name']}"):
                    # Objects without a uid are computed, such as PodMetrics. Several groups serve the same Events.
                    uid = item["metadata"].get("uid")
                    if uid and uid not in seen:
                        seen.add(uid)
                        content.objects.append({"group": group, "kind": resource["kind"], "metadata": item["metadata"]})
            except ClusterError as error:
                if error.status not in NOT_LISTED:
                    content.unread.append(str(error))
    return content


def _listed(cluster: Cluster, path: str) -> Iterator[dict]:
    for page in cluster.pages(path, {}, METADATA_ONLY):
        # The items of an empty list of this kind are null.
        yield from page["items"] or ()


def _resources(cluster: Cluster, content: Content) -> Iterator[tuple[str, str, dict]]:
    """Each namespaced resource: its group, the path of the first version that serves it, and its description."""
    groups = (cluster.get("/apis") or {"groups": []})["groups"]
    versions = [("", "/api/v1")]
    versions += [
        (group["name"], f"/apis/{version['groupVersion']}") for group in groups for version in group["versions"]
    ]
    seen = set()
    for group, path in versions:
        try:
            served = cluster.get(path) or {"resources": []}
        # The server of an aggregated API does not answer.
        except ClusterError as error:
            content.unread.append(str(error))
            continue
        for resource in served["resources"]:
            key = (group, resource["name"])
            if resource["namespaced"] and "/" not in resource["name"] and key not in seen:
                seen.add(key)
                yield group, path, resource
