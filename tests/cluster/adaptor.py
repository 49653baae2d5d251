"""Simulates cloud-api-adaptor (CAA) on the nodes whose pods kwok simulates.

The real kube-controller-manager creates the pods of the DaemonSet. For each running pod, this program does what CAA
does when it starts and stops (src/cloud-api-adaptor/pkg/adaptor/server.go and k8sops/node.go): it advertises the limit
in its environment once, and removes it. When it stops, the peer pods of its node are lost, because the connections of
their shims close (openshift/sandboxed-containers-operator's pull request 1917).

This program, not kwok, also runs the peer pods of the operator's RuntimeClass: only on a node with a running CAA,
otherwise they wait in ContainerCreating. Each has a PeerPod (pkg/adaptor/k8sops/peerpod.go), and another one for each
VM that it lost. Without a cloud, pods only report that they run; with a cloud, sandboxes.py runs each in a VM of it.

A CAA pod has a finalizer, so that it still exists while its stop is simulated. Tests restart its container with another
value of the annotation RESTART: the process is killed, and removes nothing.

Not modelled: a lost peer pod that hangs in Terminating when it is deleted.

Run it as `python -m tests.cluster.adaptor KUBECONFIG [DIRECTORY]`; with the directory of the cluster, in the cloud that
the environment names. Tests count the lost peer pods with `lost`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from urllib3.exceptions import HTTPError

from tests.support import OPERATOR_NAMESPACE

from .api import Api, ApiError
from .image_jobs import TOKEN_AUDIENCE
from .operators import KATA_OC_LABEL, MASTER_LABEL, advertise, is_passing
from .pod_network import PodNetwork
from .pod_vms import NO_TOKEN, cloud_of
from .releases import RELEASES, Release, release_of
from .sandboxes import MANAGER, PEER_PODS, Sandboxes, peer_pod_of

OWNER = "kata.peerpods.io/caa-owner"
RUNTIME_CLASS = "kata-remote"
DEFAULT_LIMIT = "10"
SETS = {row.daemon_set for row in RELEASES}
MERGE_PATCH = "application/merge-patch+json"

FINALIZER = "tests.osc.peerpods/adaptor"
RESTART = "tests.osc.peerpods/restart"

# The reason of a pod that ended because the cloud-api-adaptor of its node stopped.
CLOSED = "ttrpc: closed"

# The duration of a watch, and the pause before a crashed container is started again, in seconds.
WATCH_SECONDS, BACK_OFF_SECONDS = 300, 1


def lost(pod: dict) -> bool:
    """Whether a peer pod lost its VM: it ended, or its containers were started again in another VM."""
    status = pod.get("status", {})
    restarts = sum(container["restartCount"] for container in status.get("containerStatuses") or [])
    return status.get("reason") == CLOSED or restarts > 0


class Adaptors:
    """All CAA pods of a cluster, updated with each event of the pods."""

    def __init__(self, api: Api, sandboxes: Sandboxes | None = None):
        self._api = api
        self._sandboxes = sandboxes
        # The settings and the credentials that the CAA of each node has read when it started.
        self._settings: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {}
        # CAA pods with a started container, by uid; those that serve, by node; and those that crash.
        self._started: dict[str, dict] = {}
        self._serving: dict[str, set[str]] = defaultdict(set)
        self._crashed: dict[str, dict] = {}
        # Peer pods by uid: with a VM, and waiting for CAA. PeerPods by the uid of their pod.
        self._running: dict[str, dict] = {}
        self._waiting: dict[str, dict] = {}
        self._objects: dict[str, list[str]] = {}
        self._restarts: dict[str, int] = defaultdict(int)

    @property
    def pause(self) -> int:
        """The seconds until `retry` has something to do."""
        return BACK_OFF_SECONDS if self._crashed else WATCH_SECONDS

    def retry(self) -> None:
        """Start the containers that crashed, as kubelet does; each reads its environment again."""
        for uid, pod in list(self._crashed.items()):
            if self._limit(pod) is not None:
                self._crashed.pop(uid)
                self._restart(pod)

    def see_all(self, pods: list[dict]) -> None:
        """Process all existing pods, and drop the state of pods that no longer exist."""
        existing = {pod["metadata"]["uid"] for pod in pods}
        for known in (self._started, self._running, self._waiting):
            for uid in known.keys() - existing:
                self.see("DELETED", known[uid])
        for pod in pods:
            self.see("ADDED", pod)

    def see(self, event: str, pod: dict) -> None:
        if pod["metadata"].get("labels", {}).get("name") in SETS:
            self._see_adaptor(event, pod)
        elif pod["spec"].get("runtimeClassName") == RUNTIME_CLASS:
            self._see_peer_pod(event, pod)

    def _see_adaptor(self, event: str, pod: dict) -> None:
        uid, metadata = pod["metadata"]["uid"], pod["metadata"]
        known = self._started.get(uid)
        if event == "DELETED" or "deletionTimestamp" in metadata:
            if known:
                self._stop(pod)
                self._started.pop(uid)
            if event != "DELETED" and FINALIZER in metadata.get("finalizers", []):
                self._patch(_path(pod), {"metadata": {"finalizers": None}})
        elif known is None and pod.get("status", {}).get("phase") == "Running":
            self._patch(_path(pod), {"metadata": {"finalizers": [FINALIZER]}})
            self._start(pod)
            # After a failure, the pod is seen again.
            self._started[uid] = pod
        elif known and _asked_restart(pod) != _asked_restart(known):
            self._started[uid] = pod
            self._end(pod)
            self._container(pod, ready=False, waiting="CrashLoopBackOff")
            self._restart(pod)

    def _restart(self, pod: dict) -> None:
        self._restarts[pod["metadata"]["uid"]] += 1
        if self._start(pod):
            self._container(pod, ready=True)

    def _start(self, pod: dict) -> bool:
        """Advertise, and serve the peer pods of the node. Returns whether CAA runs."""
        node, uid = pod["spec"]["nodeName"], pod["metadata"]["uid"]
        release, limit = _release(pod), self._limit(pod)
        if limit is None:
            self._crashed[uid] = pod
            self._container(pod, ready=False, waiting="CrashLoopBackOff")
            return False
        # Up to 1.8 the operator advertises. With a negative limit, nothing advertises.
        if not release.has_peer_pod_config and limit >= 0:
            if owner := _owner(pod):
                annotations = {OWNER: owner}
                self._patch(f"/api/v1/nodes/{node}", {"metadata": {"annotations": annotations}})
            advertise(self._api, node, str(limit), MANAGER)
        self._crashed.pop(uid, None)
        self._serving[node].add(uid)
        if self._sandboxes:
            self._settings[node] = self._environment(pod)
            self._sandboxes.log(node, "adaptor", "server started")
        for peer_pod in list(self._waiting.values()):
            if peer_pod["spec"]["nodeName"] == node:
                self._run(peer_pod)
        return True

    def _environment(self, pod: dict) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """peer-pods-cm and peer-pods-secret, and that the pod does not mount a token for the cloud."""
        path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}"
        settings = (self._api.get(f"{path}/configmaps/peer-pods-cm") or {}).get("data") or {}
        secret = (self._api.get(f"{path}/secrets/peer-pods-secret") or {}).get("data") or {}
        decoded = {key: base64.b64decode(value).decode() for key, value in secret.items()}
        return settings, decoded if _has_token(pod) else {**decoded, NO_TOKEN: "true"}

    def _limit(self, pod: dict) -> int | None:
        """The limit in the pod's environment; None if CAA does not start with this environment."""
        release = _release(pod)
        if self._sandboxes and not self._sandboxes.starts(pod["spec"]["nodeName"], *self._environment(pod)):
            return None
        if release.has_peer_pod_config:
            return 0
        path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps/peer-pods-cm"
        data = (self._api.get(path) or {}).get("data") or {}
        text = data.get("PEERPODS_LIMIT_PER_NODE") or DEFAULT_LIMIT
        if release.takes_leading_digits:
            number = re.match(r"[ \t]*([+-]?[0-9]+)", text)
            return int(number[1] if number else DEFAULT_LIMIT)
        # The shell removes white space (entrypoint.sh, until 33263154).
        text = text.strip()
        return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else None

    def _stop(self, pod: dict) -> None:
        """SIGTERM: CAA removes the extended resource, then closes the connections.

        It removes the resource with a negative limit as well, and also if another program advertised it, unless an
        annotation names another owner (RemoveExtendedResources).
        """
        uid, release = pod["metadata"]["uid"], _release(pod)
        if self._crashed.pop(uid, None):
            return
        name = pod["spec"]["nodeName"]
        if not release.has_peer_pod_config:
            owner = _owner(pod)
            node = self._api.get(f"/api/v1/nodes/{name}") if owner else None
            annotations = (node or {}).get("metadata", {}).get("annotations") or {}
            if owner is None or annotations.get(OWNER) == owner:
                advertise(self._api, name, None, MANAGER)
        self._end(pod)

    def _end(self, pod: dict) -> None:
        node = pod["spec"]["nodeName"]
        self._serving[node].discard(pod["metadata"]["uid"])
        for peer_pod in list(self._running.values()):
            if peer_pod["spec"]["nodeName"] == node:
                self._lose(peer_pod)

    def _see_peer_pod(self, event: str, pod: dict) -> None:
        uid, phase = pod["metadata"]["uid"], pod.get("status", {}).get("phase")
        ended = event == "DELETED" or "deletionTimestamp" in pod["metadata"] or phase in ("Succeeded", "Failed")
        if ended:
            self._running.pop(uid, None)
            self._waiting.pop(uid, None)
            if self._sandboxes:
                self._sandboxes.stop(pod)
            for name in self._objects.pop(uid, ()):
                path = PEER_PODS.format(pod["metadata"]["namespace"])
                self._patch(f"{path}/{name}", {"metadata": {"finalizers": None}})
        elif uid in self._running or uid in self._waiting or "nodeName" not in pod["spec"]:
            return
        elif phase == "Running":  # kwok simulates this pod.
            self._running[uid] = pod
            self._make_object(pod)
        elif {KATA_OC_LABEL, MASTER_LABEL} & pod["spec"].get("nodeSelector", {}).keys():
            if self._serving[pod["spec"]["nodeName"]]:
                self._run(pod)
            else:
                self._waiting[uid] = pod
                self._container(pod, ready=False, waiting="ContainerCreating")

    def _run(self, pod: dict) -> None:
        """Start a VM for the pod."""
        uid = pod["metadata"]["uid"]
        if self._sandboxes:
            self._sandboxes.start(pod, *self._settings[pod["spec"]["nodeName"]])
        else:
            self._make_object(pod)
            self._container(pod, ready=True)
        # After a failure, the pod is seen again.
        self._waiting.pop(uid, None)
        self._running[uid] = pod

    def _lose(self, pod: dict) -> None:
        uid = pod["metadata"]["uid"]
        self._running.pop(uid)
        if self._sandboxes:
            self._sandboxes.lose(pod)
        if pod["spec"].get("restartPolicy") == "Never":
            self._patch(f"{_path(pod)}/status", {"status": {"phase": "Failed", "reason": CLOSED}})
            return
        # Its containers run again in another VM when CAA is back; the first VM stays until the pod is deleted.
        self._restarts[uid] += 1
        self._waiting[uid] = pod
        self._container(pod, ready=False, waiting="ContainerCreating", phase="Running")

    def _make_object(self, pod: dict) -> None:
        metadata = pod["metadata"]
        body = peer_pod_of(pod, "aws", f"i-{uuid.uuid4().hex[:17]}")
        self._objects.setdefault(metadata["uid"], []).append(body["metadata"]["name"])
        self._quietly("POST", PEER_PODS.format(metadata["namespace"]), body, "application/json")

    def _container(self, pod: dict, *, ready: bool, waiting: str = "", phase: str = "") -> None:
        """Report a pod's containers, as kubelet does: running, or waiting with that reason."""
        started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        state = {"waiting": {"reason": waiting}} if waiting else {"running": {"startedAt": started}}
        conditions = ("Initialized", "ContainersReady", "Ready")
        status: dict[str, Any] = {
            "conditions": [{"type": name, "status": str(ready or name == "Initialized")} for name in conditions],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": ready,
                    "restartCount": self._restarts[pod["metadata"]["uid"]],
                    "state": state,
                }
                for container in pod["spec"]["containers"]
            ],
        }
        if phase or not waiting:
            status["phase"] = phase or "Running"
        # A strategic merge patch merges conditions and containers by their keys.
        self._patch(f"{_path(pod)}/status", {"status": status}, "application/strategic-merge-patch+json")

    def _patch(self, path: str, body: object, content_type: str = MERGE_PATCH) -> None:
        self._quietly("PATCH", path, body, content_type)

    def _quietly(self, method: str, path: str, body: object, content_type: str) -> None:
        """Ignore objects that are already deleted, removed or created."""
        try:
            self._api.request(method, f"{path}?fieldManager={MANAGER}", body, content_type)
        except ApiError as error:
            if error.status not in (404, 409, 422):
                raise


def _path(pod: dict) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _asked_restart(pod: dict) -> str | None:
    return (pod["metadata"].get("annotations") or {}).get(RESTART)


def _has_token(pod: dict) -> bool:
    """Whether the pod mounts a token of its service account for the cloud."""
    return any(
        (source.get("serviceAccountToken") or {}).get("audience") == TOKEN_AUDIENCE
        for volume in pod["spec"].get("volumes") or []
        for source in (volume.get("projected") or {}).get("sources") or []
    )


def _owner(pod: dict) -> str | None:
    """POD_UID in the pod's environment, if its release of CAA reads it.

    The DaemonSet of CAA's chart sets it, that of SCO does not.
    """
    variables = pod["spec"]["containers"][0].get("env") or []
    is_set = any(variable["name"] == "POD_UID" for variable in variables)
    return pod["metadata"]["uid"] if is_set and _release(pod).takes_pod_uid else None


def _release(pod: dict) -> Release:
    """The release, from the version in the tag of the DaemonSet's image."""
    return release_of(pod["spec"]["containers"][0]["image"].rpartition(":")[2])


def main() -> None:
    kubeconfig, *directory = sys.argv[1:]
    api = Api(kubeconfig)
    adaptors = Adaptors(api, _sandboxes(api, kubeconfig, Path(directory[0])) if directory else None)
    version = ""
    while True:
        try:
            if not version:
                listed = api.request("GET", "/api/v1/pods")
                version = listed["metadata"]["resourceVersion"]
                adaptors.see_all(listed["items"])
            adaptors.retry()
            version = _follow(api, adaptors, version)
        except (ApiError, HTTPError, OSError) as error:
            if isinstance(error, ApiError) and not is_passing(error):
                raise
            # A new list has the events that were missed.
            version = ""
            time.sleep(BACK_OFF_SECONDS)


# The service account of its pods, whose tokens for the cloud have the audience `openshift` (configureCAA and
# addBoundSATokenVolume in controllers/peerpods.go of SCO).
_ACCOUNT = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/serviceaccounts/default"


def _sandboxes(api: Api, kubeconfig: str, directory: Path) -> Sandboxes:
    def token() -> str:
        requested = {"audiences": [TOKEN_AUDIENCE], "expirationSeconds": 3600}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": requested}
        return api.request("POST", f"{_ACCOUNT}/token", body)["status"]["token"]

    vms = cloud_of(os.environ, token)
    if vms is None:
        raise SystemExit("The environment names no cloud.")
    server = api.server

    def log_of(namespace: str, pod: str) -> str | None:
        return sandboxes.log_of(namespace, pod)

    network = PodNetwork(directory, log_of)
    sandboxes = Sandboxes(api, vms, network, int(server.rpartition(":")[2]), directory / "peer-pods")
    return sandboxes


def _follow(api: Api, adaptors: Adaptors, version: str) -> str:
    """Watch pods for a while. Returns the resource version to continue from, empty if pods must be listed again."""
    pause = adaptors.pause
    path = f"/api/v1/pods?watch=true&timeoutSeconds={pause}&resourceVersion={version}"
    for line in api.stream(path):
        event = json.loads(line)
        if event["type"] == "ERROR":
            return ""
        version = event["object"]["metadata"]["resourceVersion"]
        adaptors.see(event["type"], event["object"])
        if adaptors.pause < pause:
            break
    return version


if __name__ == "__main__":
    main()
