# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a teardown of the operator removes, what remains, and what would stop it (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._operator.olm import is_managed
from ansible_collections.osc.peerpods.plugins.module_utils._operator.settings import INTERRUPTED_RENEWAL
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.deployment import (
    KATA_POOL,
    WORKER_POOL,
    Deployment,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import KEPT_KATA_CONFIG, PACKAGE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.ownership import REQUESTED, STS
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# The number of pods that a message names.
NAMED_PODS = 20


def plan_teardown(objects: list[dict]) -> dict:
    """What a teardown removes, in this order, and what remains; `objects` have the form of `describe_object`.

    A KataConfig that this collection did not create needs all objects. An OperatorGroup is needed by each Subscription
    in its namespace. The namespace is removed by its content, which is read after the rest is deleted
    (`_peerpods/ownership.py`).
    """
    # What the operator itself created is a part of the content of the namespace.
    objects = [entry for entry in objects if not entry["of_operator"]]
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
    subscriptions = [entry for entry in objects if entry["kind"] == "Subscription"]
    # OLM created the ClusterServiceVersions for the Subscription. Without one, the label of an interrupted teardown
    # shows that it was that of this collection; a Subscription of another owner has adopted them since.
    is_subscribed = any(entry["managed"] for entry in subscriptions)
    is_adopted = not is_subscribed and any(entry["content"].get("name") == PACKAGE for entry in subscriptions)
    existing_csvs = [entry for entry in objects if entry["kind"] == "ClusterServiceVersion"]
    csvs = existing_csvs if is_subscribed else []
    adopted = existing_csvs if is_adopted else []
    kept_kinds = {"OperatorGroup"} if not all(entry["managed"] for entry in subscriptions) else set()
    remain = [
        entry
        for entry in objects
        if entry["kind"] in kept_kinds
        or entry in adopted
        # The operator's Secret is deleted together with its CredentialsRequest, or with the KataConfig.
        or not (entry["managed"] or entry in csvs or {REQUESTED, STS} & entry["labels"].keys())
    ]
    if remain:
        remain += [entry for entry in objects if entry["kind"] == "Namespace" and entry not in remain]
    removed = [entry for entry in objects if entry not in remain and (entry["managed"] or entry in csvs)]
    return {
        "kata_config": None,
        "label": csvs,
        "remove": [entry for entry in removed if entry["kind"] not in ("KataConfig", "Namespace")],
        "remain": [_reference(entry) for entry in remain],
    }


def find_blockers(
    objects: Iterable[tuple[str, str, dict]],
    pods: Iterable[dict],
    deployment: Deployment,
    pools: Iterable[Mapping],
) -> list[str]:
    """The reasons why the KataConfig of this collection would not be removed after its deletion, or would be lost.

    `objects` are those of `read_objects`, `pods` the pods of the cluster, and `pools` the MachineConfigPools as
    `describe_pool` returns them.
    The operator checks all pods with the RuntimeClasses of the KataConfig, also those that have ended (`listKataPods`
    in controllers/openshift_controller.go of openshift/sandboxed-containers-operator), and then the machine config
    operator rolls the nodes.
    """
    existing = list(objects)
    katas = [kata for _version, kind, kata in existing if kind == "KataConfig"]
    kept = [entry for _version, _kind, entry in existing if entry["metadata"]["name"] == KEPT_KATA_CONFIG]
    # A renewal ignores that of another owner.
    if not katas and any(map(is_managed, kept)):
        return [INTERRUPTED_RENEWAL]
    if not katas or not all(map(is_managed, katas)):
        return []
    blockers = []
    classes = {name for kata in katas for name in (kata.get("status") or {}).get("runtimeClasses") or ()}
    blocking = [pod for pod in pods if pod["spec"].get("runtimeClassName") in classes]
    if blocking:
        names = sorted(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in blocking)
        used = sorted({pod["spec"]["runtimeClassName"] for pod in blocking})
        blockers.append(
            f"Pods with the RuntimeClass {join_names(used)} exist: {join_names(names, NAMED_PODS)}. The operator "
            "removes kata from no node while they exist, even if they have ended. Delete them, or the workloads that "
            "create them."
        )
    if any(kata["metadata"].get("finalizers") for kata in katas):
        phases = {
            csv["metadata"]["name"]: (csv.get("status") or {}).get("phase") or "new"
            for _version, kind, csv in existing
            if kind == "ClusterServiceVersion"
        }
        if not {"Succeeded", "Replacing"} & {*phases.values()}:
            states = join_names([f"{name} is {phase}" for name, phase in sorted(phases.items())])
            blockers.append(
                f"The operator does not run ({states or 'no ClusterServiceVersion of it exists'}), and only the "
                "operator removes kata from the nodes. Repair its installation first, for example with the role "
                "operator_install."
            )
    # The nodes of both pools become nodes of the pool worker.
    rolled = (KATA_POOL, WORKER_POOL) if deployment.pool == KATA_POOL else (deployment.pool,)
    problems = {pool["name"]: pool["problem"] for pool in pools}
    return [*blockers, *(f"{problems[name]} Fix this first." for name in rolled if problems.get(name))]


def _reference(entry: dict) -> str:
    return f"{entry['kind']}/{entry['name']}"
