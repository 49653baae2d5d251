"""Stands in for cloud-api-adaptor (CAA) on the nodes whose pods kwok plays.

The real kube-controller-manager makes the DaemonSet's pods. For each that runs, this does what CAA does when it
starts and when it stops: advertises (src/cloud-api-adaptor/pkg/adaptor/k8sops/node.go), and loses the peer pods
of its node at each stop, since their shims' connections close (openshift/sandboxed-containers-operator's pull
request 1917). It makes a PeerPod for each running peer pod (pkg/adaptor/k8sops/peerpod.go). Not modelled: a peer
pod on a node without CAA, which would wait in ContainerCreating, runs here; and none hangs in Terminating.

Run it as `python -m tests.cluster.adaptor KUBECONFIG`. Tests count losses by the pods themselves: `lost` here.
"""

from __future__ import annotations

import json
import re
import sys
import uuid

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from tests.support import OPERATOR_NAMESPACE

from .operators import Api, advertise
from .releases import RELEASES, Release, release_of

MANAGER = "cloud-api-adaptor"
OWNER = "kata.peerpods.io/caa-owner"
RUNTIME_CLASS = "kata-remote"
PEER_PODS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/{}/peerpods"
FINALIZER = "peer.pod/finalizer"
SETS = {row.daemon_set for row in RELEASES}
MERGE_PATCH = "application/merge-patch+json"

# The reason of a pod that ended because the cloud-api-adaptor of its node stopped.
CLOSED = "ttrpc: closed"


def lost(pod: dict) -> bool:
    """Whether a peer pod's VM was lost: it ended, or its containers were started again in another VM."""
    status = pod.get("status", {})
    restarts = sum(one["restartCount"] for one in status.get("containerStatuses") or [])
    return status.get("reason") == CLOSED or restarts > 0


class Adaptors:
    """All CAA pods of a cluster, by what the API server says of its pods, one event after the other."""

    def __init__(self, api: Api):
        self._api = api
        # By uid: CAA pods that have started, and peer pods that run, with their PeerPods.
        self._started: dict[str, dict] = {}
        self._peer_pods: dict[str, dict] = {}
        self._objects: dict[str, list[str]] = {}

    def see(self, event: str, pod: dict) -> None:
        if pod["metadata"].get("labels", {}).get("name") in SETS:
            self._see_adaptor(event, pod)
        elif pod["spec"].get("runtimeClassName") == RUNTIME_CLASS:
            self._see_peer_pod(event, pod)

    def _see_adaptor(self, event: str, pod: dict) -> None:
        uid = pod["metadata"]["uid"]
        if event == "DELETED" or "deletionTimestamp" in pod["metadata"]:
            if self._started.pop(uid, None):
                self._stop(pod)
        elif pod.get("status", {}).get("phase") == "Running" and uid not in self._started:
            self._started[uid] = pod
            self._start(pod)

    def _start(self, pod: dict) -> None:
        release = _release(pod)
        if release.has_peer_pod_config:
            return  # The operator advertises.
        path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps/peer-pods-cm"
        text = ((self._api.get(path) or {}).get("data") or {}).get(
            "PEERPODS_LIMIT_PER_NODE"
        ) or "10"
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            return self._crash(pod, f'invalid value "{text}" for flag -peerpods-limit-per-node')
        if int(text) < 0:
            return None
        node = f"/api/v1/nodes/{pod['spec']['nodeName']}"
        if release.writes_owner:
            self._patch(
                node, {"metadata": {"annotations": {OWNER: pod["metadata"]["uid"]}}}, MERGE_PATCH
            )
        return advertise(self._api, pod["spec"]["nodeName"], str(int(text)), MANAGER)

    def _stop(self, pod: dict) -> None:
        for peer_pod in list(self._peer_pods.values()):
            if peer_pod["spec"]["nodeName"] == pod["spec"]["nodeName"]:
                self._lose(peer_pod)
        release = _release(pod)
        if release.has_peer_pod_config:
            return
        node = f"/api/v1/nodes/{pod['spec']['nodeName']}"
        if release.writes_owner:
            found = self._api.get(node)
            owner = ((found or {}).get("metadata", {}).get("annotations") or {}).get(OWNER)
            if owner != pod["metadata"]["uid"]:
                return
        advertise(self._api, pod["spec"]["nodeName"], None, MANAGER)

    def _crash(self, pod: dict, message: str) -> None:
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        conditions = [
            {**condition, "status": "False"} if condition["type"] in ("Ready", "ContainersReady")
            else condition
            for condition in pod["status"]["conditions"]
        ]  # fmt: skip
        statuses = [{**one, "ready": False, "restartCount": 1, "state": waiting}
                    for one in pod["status"]["containerStatuses"]]  # fmt: skip
        self._status(pod, {"conditions": conditions, "containerStatuses": statuses})

    def _see_peer_pod(self, event: str, pod: dict) -> None:
        uid, phase = pod["metadata"]["uid"], pod.get("status", {}).get("phase")
        ended = (
            event == "DELETED"
            or "deletionTimestamp" in pod["metadata"]
            or phase in ("Succeeded", "Failed")
        )
        if ended:
            self._peer_pods.pop(uid, None)
            for name in self._objects.pop(uid, ()):
                path = PEER_PODS.format(pod["metadata"]["namespace"])
                self._patch(f"{path}/{name}", {"metadata": {"finalizers": None}}, MERGE_PATCH)
        elif phase == "Running":
            if uid not in self._peer_pods:
                self._make_object(pod)
            self._peer_pods[uid] = pod

    def _lose(self, pod: dict) -> None:
        if pod["spec"].get("restartPolicy") == "Never":
            self._peer_pods.pop(pod["metadata"]["uid"])
            self._status(pod, {"phase": "Failed", "reason": CLOSED})
            return
        statuses = [
            {**one, "restartCount": one["restartCount"] + 1}
            for one in pod["status"]["containerStatuses"]
        ]
        pod["status"]["containerStatuses"] = statuses
        self._status(pod, {"containerStatuses": statuses})
        # The containers run again in another VM; the first one stays until the pod is deleted.
        self._make_object(pod)

    def _make_object(self, pod: dict) -> None:
        metadata = pod["metadata"]
        name = f"{metadata['name']}-resource-{uuid.uuid4().hex[:5]}"
        owner = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"],
                 "controller": True, "blockOwnerDeletion": True}  # fmt: skip
        body = {
            "apiVersion": "confidentialcontainers.org/v1alpha1", "kind": "PeerPod",
            "metadata": {"name": name, "finalizers": [FINALIZER], "ownerReferences": [owner]},
            "spec": {"cloudProvider": "aws", "instanceID": f"i-{uuid.uuid4().hex[:17]}"},
        }  # fmt: skip
        self._objects.setdefault(metadata["uid"], []).append(name)
        self._quietly("POST", PEER_PODS.format(metadata["namespace"]), body, "application/json")

    def _status(self, pod: dict, status: dict) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self._patch(path, {"status": status}, MERGE_PATCH)

    def _patch(self, path: str, body: object, content_type: str) -> None:
        self._quietly("PATCH", path, body, content_type)

    def _quietly(self, method: str, path: str, body: object, content_type: str) -> None:
        """What has been deleted, removed or created before is no error of ours."""
        try:
            self._api.request(method, f"{path}?fieldManager={MANAGER}", body, content_type)
        except ApiException as error:
            if error.status not in (404, 409, 422):
                raise


def _release(pod: dict) -> Release:
    """By the version in the image's tag, as its DaemonSet has it."""
    return release_of(pod["spec"]["containers"][0]["image"].rpartition(":")[2])


def main() -> None:
    api = Api(sys.argv[1])
    adaptors = Adaptors(api)
    version = ""
    while True:
        if not version:
            listed = api.request("GET", "/api/v1/pods")
            version = listed["metadata"]["resourceVersion"]
            for pod in listed["items"]:
                adaptors.see("ADDED", pod)
        try:
            for line in api.stream(f"/api/v1/pods?watch=true&resourceVersion={version}"):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    version = ""
                    break
                version = event["object"]["metadata"]["resourceVersion"]
                adaptors.see(event["type"], event["object"])
        except (HTTPError, OSError):
            continue


if __name__ == "__main__":
    main()
