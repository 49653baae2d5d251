#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: verification_pods
version_added: "0.1.0"
short_description: Manage the peer pods of a verification, and wait for their answers
description:
  - >-
    With O(state=present), creates one peer pod for each of O(nodes), waits until each has answered or cannot start, and
    returns what the cluster reports about them. The filter P(osc.peerpods.verify_findings#filter) evaluates it.
  - >-
    The scheduler places the pods, by an affinity to the node, so that each needs a slot of its node. A pod tests DNS,
    the Service of the API server and, with O(egress), one more target from inside, and returns the results to the API
    server.
  - Shows the progress while it waits, at least once a minute, as lines on the standard error.
  - >-
    Pods of an earlier run in the namespace are deleted first, and returned in RV(leftovers). Run one verification at a
    time in a namespace.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
  platform:
    description: Target OS/families that can be operated against.
    platforms: posix
    support: full
options:
  state:
    description:
      - V(present) creates the pods and waits for them.
      - V(absent) deletes the pods, and waits until their PeerPods are gone, too.
    type: str
    choices: [present, absent]
    default: present
  namespace:
    description:
      - The namespace of the pods. Must exist, and its pods must be mutated.
    type: str
    default: default
  nodes:
    description:
      - The names of the nodes, each with one pod. Required with O(state=present).
    type: list
    elements: str
    default: []
  image:
    description:
      - The image of the pods. Must have C(python3), and a user other than root, as a number.
    type: str
    default: registry.access.redhat.com/ubi9/python-312-minimal:latest
  pull_secrets:
    description:
      - The names of Secrets in O(namespace) with which the VM pulls the image.
    type: list
    elements: str
    default: []
  runtime_class:
    description:
      - The RuntimeClass of peer pods.
    type: str
    default: kata-remote
  tolerations:
    description:
      - Tolerations of the pods, in addition to those of the RuntimeClass.
    type: list
    elements: dict
    default: []
  egress:
    description:
      - A target outside of the cluster that the pods connect to, as C(HOST:PORT). If empty, egress is not tested.
    type: str
    default: ""
  port:
    description:
      - The port at which the pods answer.
    type: int
    default: 8080
  boot_timeout:
    description:
      - >-
        How many seconds a VM may take from its creation until its node reaches it. Lower than PROXY_TIMEOUT of
        cloud-api-adaptor (300), which then deletes the VM, and its console with it.
      - A pod may wait as long for a slot, and for its VM while an error is reported that may pass.
    type: int
    default: 240
  deadline:
    description:
      - >-
        How many seconds after its start kubelet ends a pod and its VM, if nothing deletes it, as after an interrupted
        run. With V(0), never.
    type: int
    default: 0
  answer_timeout:
    description:
      - >-
        How many seconds a container may run or be started again until its pod has answered, and a failed pull may be
        repeated. The tests in the pod take up to 20 seconds.
    type: int
    default: 60
  operator_namespace:
    description:
      - The namespace of the operator, in which cloud-api-adaptor runs.
    type: str
    default: openshift-sandboxed-containers-operator
  wait_timeout:
    description:
      - How many seconds to wait. Afterwards, the module returns the current state, and does not fail.
    type: int
    default: 900
  previous:
    description:
      - The previous RV(progress). The module returns as soon as the progress differs from it. Set by the action plugin.
    type: dict
    default: {}
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
seealso:
  - plugin: osc.peerpods.verify_findings
    plugin_type: filter
  - module: osc.peerpods.ec2_instance_console_info
  - module: osc.peerpods.azure_vm_console_info
"""

EXAMPLES = r"""
- name: Start a peer pod on a node
  osc.peerpods.verification_pods:
    namespace: demo
    nodes: [worker-1]
    egress: quay.io:443
  register: created

- name: Show how far it has come
  ansible.builtin.debug:
    msg: "{{ created.pods | map(attribute='state') }}"

- name: Delete it, and wait until its PeerPod is gone
  osc.peerpods.verification_pods:
    state: absent
    namespace: demo
"""

RETURN = r"""
progress:
  description: The progress.
  returned: unless a request failed, not in check mode with O(state=absent)
  type: dict
  contains:
    done:
      description: Whether no pod is waited for any more.
      type: bool
    summary:
      description: The progress in one line.
      type: str
    status:
      description: RV(progress.summary) without durations.
      type: str
    pods:
      description: The names of the pods by the names of their nodes.
      type: dict
    since:
      description: The time since which each pod is in its state, as observed.
      type: dict
    instances:
      description: The instances that were created for each pod, by its name.
      type: dict
    leftovers:
      description: Pods of an earlier run, which were deleted.
      type: list
    is_requested:
      description: With O(state=absent), whether the deletion of the pods was requested.
      type: bool
  sample:
    done: false
    summary: "worker-1: VM created, waiting until it is reachable (for 2 min)"
    status: "worker-1: VM created, waiting until it is reachable"
    pods: {worker-1: peerpods-verify-4f7q2}
    since: {peerpods-verify-4f7q2: [booting, "2026-03-01T10:12:00+00:00"]}
    instances: {peerpods-verify-4f7q2: [i-0abc5d1e2f3a4b5c6]}
    leftovers: []
pods:
  description: The pods, with what is needed to find the cause if one does not run.
  returned: with O(state=present)
  type: list
  elements: dict
  contains:
    name:
      description: The name of the pod.
      type: str
      sample: peerpods-verify-4f7q2
    wanted_node:
      description: The node for which the pod was created.
      type: str
      sample: worker-1
    state:
      description: >-
        How far the pod has come. V(unscheduled), V(scheduled), V(booting) after its VM was created, V(pulling) when the
        VM is reachable, V(running), or V(answered).
      type: str
      sample: answered
    slots:
      description: How many peer pods its node advertises.
      type: str
      sample: "10"
    requests_slot:
      description: Whether the pod requests a slot, after its admission.
      type: bool
      sample: true
    instances:
      description: The instances that were created for the pod, the current one last.
      type: list
      elements: str
      sample: [i-0abc5d1e2f3a4b5c6]
    answer:
      description: The results of the tests in the pod, as it answered the API server.
      type: dict
      sample:
        boot_id: 3f2b8a0e-6a41-4c1e-9d57-2f3c1b7a9e10
        dns: {ok: true, found: [172.30.0.1]}
        service: {ok: true, found: "172.30.0.1:443"}
    answer_error:
      description: The reason why the pod did not answer.
      type: str
      sample: ""
    output:
      description: The same results from the log of the pod, if it did not answer.
      type: dict
      sample: {}
    log:
      description: The last lines of the log of the pod, if it did not answer.
      type: list
      elements: str
      sample: []
    ended:
      description: How its container has ended the last time.
      type: list
      elements: str
      sample: []
    events:
      description: The events of the pod, the oldest first.
      type: list
      elements: dict
      sample: []
    adaptor:
      description: >-
        The cloud-api-adaptor pod of the node, the lines of its log about this pod and, if it is not ready, the last
        lines of its container that has ended.
      type: dict
      sample: {pod: osc-caa-ds-x7k2p, problem: "", log: [], ended: []}
azure_resource_group:
  description: >-
    The resource group in which cloud-api-adaptor creates VMs in Azure, from the ConfigMap C(peer-pods-cm); empty if it
    has none.
  returned: with O(state=present), after the wait
  type: str
  sample: demo-rg
leftovers:
  description: The pods of an earlier run, which were deleted.
  returned: with O(state=present)
  type: list
  elements: str
  sample: []
remaining_pods:
  description: The pods that are not deleted yet.
  returned: with O(state=absent)
  type: list
  elements: str
  sample: []
remaining_peer_pods:
  description: The PeerPods that are not deleted yet, which means that their VMs may exist.
  returned: with O(state=absent)
  type: list
  elements: str
  sample: []
"""

import contextlib
import inspect
import json
import random
import string
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import NODES_PATH, label_selector
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    TaskError,
    cluster_module,
    reporting_writes,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import DAEMON_SETS
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names
from ansible_collections.osc.peerpods.plugins.module_utils._verify import probe
from ansible_collections.osc.peerpods.plugins.module_utils._verify.causes import is_settled, lines_of
from ansible_collections.osc.peerpods.plugins.module_utils._verify.pods import (
    LABELS,
    NAME,
    evidence,
    instances_by_pod,
    is_owned_by,
    manifest,
    slots,
    state,
    summary,
)

# The polling interval in seconds. A VM takes minutes, and each poll is a few small requests.
INTERVAL = 1.0

# After this number of seconds without a change, the last progress is reported again.
HEARTBEAT = 60

# How much of the log of cloud-api-adaptor is read. It writes some 30 lines for each pod.
LOG_LINES = "2000"

# How many lines of the log of a container that has ended are read.
LAST_LINES = 20

NO_PROGRESS: dict[str, Any] = {"pods": {}, "since": {}, "instances": {}, "leftovers": []}

PEER_PODS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/{}/peerpods"


class Pods:
    """The pods of a verification in one namespace."""

    def __init__(self, cluster: Cluster, params: Mapping[str, Any]):
        self._cluster = cluster
        self._params = params
        self.namespace = params["namespace"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods"
        self._nodes: dict[str, dict] = {}

    def listed(self) -> list[dict]:
        return list(self._cluster.list(self.path, labelSelector=label_selector(LABELS)))

    def peer_pods(self) -> list[dict]:
        """The PeerPods of the namespace; none if the operator is not installed."""
        try:
            return list(self._cluster.list(PEER_PODS.format(self.namespace)))
        except ClusterError as error:
            if error.status == 404:
                return []
            raise

    def delete(self) -> list[str]:
        """Delete all pods of verifications; returns their names."""
        existing = [pod["metadata"] for pod in self.listed() if "deletionTimestamp" not in pod["metadata"]]
        for metadata in existing:
            self._cluster.delete(f"{self.path}/{metadata['name']}", uid=metadata["uid"])
        return [metadata["name"] for metadata in existing]

    def create(self) -> dict[str, str]:
        """Create a pod for each node; returns their names by node."""
        nodes = {name: self._node(name) for name in self._params["nodes"]}
        # Without the docstring, comments and blank lines, the program is not shorter by much.
        script = inspect.getsource(probe)
        names = {}
        for node_name, node in nodes.items():
            suffix = "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
            body = manifest(f"{NAME}-{suffix}", node, self._params, script)
            self._cluster.create(self.path, body)
            names[node_name] = body["metadata"]["name"]
        return names

    def observe(self, progress: dict[str, Any], now: datetime) -> list[dict]:
        """The evidence about each pod, and in `progress` since when it is in its state."""
        existing = {pod["metadata"]["name"]: pod for pod in self.listed()}
        instances = instances_by_pod(self.peer_pods())
        observed = []
        for node_name, name in progress["pods"].items():
            pod = existing.get(name)
            if pod is None:
                raise TaskError(f"The pod {self.namespace}/{name} was deleted by another client.")
            known = progress["instances"].setdefault(name, [])
            current = instances.get(pod["metadata"]["uid"], [])
            known += [each for each in current if each not in known]
            found = self._evidence(pod, node_name, bool(current), progress["since"], now)
            observed.append({**found, "instances": known})
        return observed

    def _evidence(
        self, pod: dict, node_name: str, has_instance: bool, since: dict[str, list[str]], now: datetime
    ) -> dict:
        name = pod["metadata"]["name"]
        answer, error = None, ""
        reached = state(pod, has_instance, has_answered=False)
        # Nothing answers at the address of a pod that kubelet has ended.
        if reached == "running" and pod.get("status", {}).get("phase") != "Failed":
            answer, error = self._answer(name)
            reached = "answered" if answer else reached
        if since.get(name, [""])[0] != reached:
            since[name] = [reached, now.isoformat()]
        node = self._node(node_name)
        found = evidence(pod, self._events(pod) if reached != "answered" else [])
        found |= {
            "wanted_node": node_name,
            "state": reached,
            "slots": slots(node),
            "node_boot_id": node.get("status", {}).get("nodeInfo", {}).get("bootID", ""),
            "answer": answer,
            "answer_error": error,
            "output": {},
            "log": [],
        }
        return found

    def complete(self, pod: dict) -> dict:
        """The evidence with the logs, which are read once, at the end."""
        if pod["state"] == "answered":
            return pod
        output: Any = {}
        lines: list[str] = []
        if pod["state"] == "running":
            # Of a container that waits to be started again, the log of the last time.
            is_waiting = {"previous": "true"} if pod["waiting"] else {}
            lines = self._log(self.namespace, pod["name"], **is_waiting).splitlines()
            with contextlib.suppress(ValueError, IndexError):
                output = json.loads(lines[-1])
        return {
            **pod,
            "adaptor": self._adaptor(pod),
            "output": output if isinstance(output, dict) else {},
            "log": lines[-LAST_LINES:],
        }

    def _adaptor(self, pod: dict) -> dict:
        namespace, node = self._params["operator_namespace"], pod["node"]
        found: dict[str, Any] = {"pod": None, "problem": "", "log": [], "ended": []}
        if not node:
            return found
        path = f"/api/v1/namespaces/{namespace}/pods"
        selector = f"name in ({','.join(DAEMON_SETS)})"
        try:
            running = list(self._cluster.list(path, labelSelector=selector, fieldSelector=f"spec.nodeName={node}"))
        # As with a log: without the permission, the other evidence remains.
        except ClusterError:
            return found
        if not running:
            return {**found, "problem": f"No cloud-api-adaptor pod is on {node}."}
        name = running[-1]["metadata"]["name"]
        container = running[-1]["spec"]["containers"][0]["name"]
        containers = running[-1].get("status", {}).get("containerStatuses") or []
        waiting = [(each.get("state") or {}).get("waiting") for each in containers if not each["ready"]]
        if waiting:
            reasons = ", ".join(each.get("reason", "") for each in waiting if each)
            found["problem"] = f"{name} on {node} is not ready{f': {reasons}' if reasons else ''}."
            # It reads sizes from the cloud before it serves any pod, so that these lines name no pod.
            ended = self._log(namespace, name, container=container, previous="true", tailLines=str(LAST_LINES))
            found["ended"] = list(filter(None, ended.splitlines()))
        log = self._log(namespace, name, container=container, tailLines=LOG_LINES)
        return {**found, "pod": name, "log": lines_of(log, pod["name"])}

    def azure_resource_group(self) -> str:
        namespace = self._params["operator_namespace"]
        try:
            settings = self._cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/peer-pods-cm")
        except ClusterError:
            return ""
        return ((settings or {}).get("data") or {}).get("AZURE_RESOURCE_GROUP", "")

    def _log(self, namespace: str, name: str, **query: str) -> str:
        """A log; empty if it cannot be read, which does not change the other evidence."""
        try:
            return self._cluster.text(f"/api/v1/namespaces/{namespace}/pods/{name}/log", **query)
        except ClusterError:
            return ""

    def _answer(self, name: str) -> tuple[dict | None, str]:
        path = f"{self.path}/{name}:{self._params['port']}/proxy/"
        try:
            answer = json.loads(self._cluster.text(path))
        except ClusterError as error:
            return None, str(error)
        except ValueError:
            return None, "The answer of the pod is not JSON."
        return (answer, "") if isinstance(answer, dict) else (None, "The answer of the pod is not an object.")

    def _events(self, pod: dict) -> list[dict]:
        path = f"/api/v1/namespaces/{self.namespace}/events"
        events = self._cluster.list(path, fieldSelector=f"involvedObject.uid={pod['metadata']['uid']}")
        return sorted(events, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def _node(self, name: str) -> dict:
        if name not in self._nodes:
            node = self._cluster.get(f"{NODES_PATH}/{name}")
            if node is None:
                raise TaskError(f"The cluster has no node {name}. Check nodes.")
            self._nodes[name] = node
        return self._nodes[name]


def wait_for_answers(
    pods: Pods, params: Mapping[str, Any], deadline: float, expires: bool
) -> tuple[dict, list[dict] | None]:
    """Until the progress changes, or the deadline; without the pods if the API server does not respond then."""
    previous = params["previous"]
    progress: dict[str, Any] = {key: dict(previous[key]) for key in ("pods", "since", "instances")}
    progress["leftovers"] = previous["leftovers"]
    while True:
        now = datetime.now(timezone.utc)
        is_over = time.monotonic() >= deadline
        try:
            observed = pods.observe(progress, now)
        except ClusterError as error:
            if not error.transient or (is_over and expires):
                raise
            if is_over:
                return {**progress, "done": False, "summary": f"waiting: {error}", "status": previous["status"]}, None
            time.sleep(INTERVAL)
            continue
        elapsed = {
            name: int((now - datetime.fromisoformat(began)).total_seconds())
            for name, (_state, began) in progress["since"].items()
        }
        progress["summary"], progress["status"] = summary(observed, elapsed)
        timeouts = params["boot_timeout"], params["answer_timeout"]
        are_settled = all(is_settled(pod, elapsed[pod["name"]], *timeouts) for pod in observed)
        progress["done"] = are_settled or (is_over and expires)
        if progress["done"]:
            return progress, [pods.complete(pod) for pod in observed]
        if is_over or progress["status"] != previous["status"]:
            return progress, observed
        time.sleep(INTERVAL)


def delete_and_wait(pods: Pods, params: Mapping[str, Any], deadline: float, expires: bool) -> dict[str, Any]:
    """The pods and the PeerPods that remain, as soon as that changes, or at the deadline."""
    is_requested = params["previous"].get("is_requested", False)
    while True:
        is_over = time.monotonic() >= deadline
        try:
            if not is_requested:
                pods.delete()
                is_requested = True
            names = [pod["metadata"]["name"] for pod in pods.listed()]
            peer_pods = [peer_pod["metadata"]["name"] for peer_pod in pods.peer_pods() if is_owned_by(peer_pod)]
        except ClusterError as error:
            if not error.transient or (is_over and expires):
                raise
            if is_over:
                status = f"waiting: {error}"
                progress = {"done": False, "is_requested": is_requested, "summary": status, "status": status}
                return {"progress": {**NO_PROGRESS, **progress}}
            time.sleep(INTERVAL)
            continue
        if names:
            status = f"waiting until {join_names(names)} {'is' if len(names) == 1 else 'are'} deleted"
        elif peer_pods:
            status = f"waiting until the VM of {join_names(peer_pods)} is deleted"
        else:
            status = "the pods and their PeerPods are deleted"
        if not (names or peer_pods) or is_over or status != params["previous"].get("status"):
            is_done = not (names or peer_pods) or (is_over and expires)
            progress = {"done": is_done, "is_requested": True, "summary": status, "status": status}
            return {
                "progress": {**NO_PROGRESS, **progress},
                "remaining_pods": names,
                "remaining_peer_pods": peer_pods,
            }
        time.sleep(INTERVAL)


def main() -> None:
    module = cluster_module(
        {
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "namespace": {"type": "str", "default": "default"},
            "nodes": {"type": "list", "elements": "str", "default": []},
            "image": {"type": "str", "default": "registry.access.redhat.com/ubi9/python-312-minimal:latest"},
            "pull_secrets": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "runtime_class": {"type": "str", "default": "kata-remote"},
            "tolerations": {"type": "list", "elements": "dict", "default": []},
            "egress": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 8080},
            "boot_timeout": {"type": "int", "default": 240},
            "deadline": {"type": "int", "default": 0},
            "answer_timeout": {"type": "int", "default": 60},
            "operator_namespace": {"type": "str", "default": "openshift-sandboxed-containers-operator"},
            "wait_timeout": {"type": "int", "default": 900},
            "previous": {"type": "dict", "default": {}},
        }
    )
    params = module.params
    if params["state"] == "present" and not params["nodes"]:
        module.fail_json(msg="nodes is empty. Name at least one node.")
    seconds = params["wait_timeout"]
    began = time.monotonic()
    with reporting_writes(module) as cluster:
        pods = Pods(cluster, params)
        if params["state"] == "absent":
            if module.check_mode:
                module.exit_json(changed=bool(pods.listed()), remaining_pods=[], remaining_peer_pods=[])
            deadline = began + min(seconds, HEARTBEAT)
            result = delete_and_wait(pods, params, deadline, seconds <= HEARTBEAT)
            module.exit_json(changed=bool(cluster.writes), **result)
        if params["previous"]:
            progress, observed = wait_for_answers(pods, params, began + min(seconds, HEARTBEAT), seconds <= HEARTBEAT)
            if progress["done"]:
                module.exit_json(
                    changed=False,
                    progress=progress,
                    pods=observed,
                    leftovers=progress["leftovers"],
                    azure_resource_group=pods.azure_resource_group(),
                )
            known = {} if observed is None else {"pods": observed}
            module.exit_json(changed=False, progress=progress, leftovers=progress["leftovers"], **known)
        if module.check_mode:
            leftovers = [pod["metadata"]["name"] for pod in pods.listed()]
            summary_text = f"would create a peer pod on {', '.join(params['nodes'])}"
            names: dict[str, str] = {}
        else:
            leftovers = pods.delete()
            names = pods.create()
            summary_text = f"created {', '.join(f'{name} for {node}' for node, name in names.items())}"
        progress = {
            **NO_PROGRESS,
            "done": module.check_mode,
            "summary": summary_text,
            "status": summary_text,
            "pods": names,
            "leftovers": leftovers,
        }
    module.exit_json(changed=True, progress=progress, pods=[], leftovers=leftovers)


if __name__ == "__main__":
    main()
