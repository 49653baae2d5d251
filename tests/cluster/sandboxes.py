"""Runs peer pods in the VMs of a cloud: what kubelet, CRI-O, the kata shim and cloud-api-adaptor (CAA) do for a pod.

Sources: StartVM and StopVM of src/cloud-api-adaptor/pkg/adaptor/cloud/cloud.go, the connection to the agent of
pkg/adaptor/proxy/proxy.go, PeerPods of pkg/adaptor/k8sops/peerpod.go (all confidential-containers/cloud-api-adaptor);
the errors of the shim of src/runtime/virtcontainers/remote.go (kata-containers/kata-containers), with CRI-O's prefix
(kata-containers/kata-containers#2499); the events of pkg/kubelet/events/event.go (kubernetes/kubernetes).

A container whose command is `python3 -c PROGRAM …` really runs, with the network of its VM (peer_pod.py); all others
only report that they run. Whether an image can be pulled in the VM is decided from its name: hosts of the domain
`invalid` do not resolve (RFC 2606), and the tag `no-such-tag` does not exist; and from the way out of the VM's subnet.
An image with the tag `without-python3` has no program of that name.

Not modelled: separate logs of the earlier runs of a container, the time that a VM takes to boot, and kubelet's own
timeouts. kwok removes a deleted pod immediately, not after its VM is deleted.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from .api import Api, ApiError
from .pod_network import PodNetwork
from .pod_vms import AGENT_PORT, VXLAN_PORT, PodVms, RejectedError, Vm, instance_name
from .processes import free_ports

PEER_PODS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/{}/peerpods"
PEER_POD_FINALIZER = "peer.pod/finalizer"
MANAGER = "cloud-api-adaptor"

# The Service of the API server, and the cluster's DNS. The names outside of the cluster have an address of RFC 5737.
SERVICE = "172.30.0.1"
OUTSIDE = "203.0.113.9"

# Kubelet's pauses between attempts, from the first to the longest, shorter than the real ones. Seconds.
BACK_OFF = 0.2, 2.0

# The pauses of CAA between its attempts to connect to the agent (retry-go's, up to MaxDelay), and how long the kernel
# waits for the answer to a connection whose packets are dropped (tcp_syn_retries of 6). Seconds.
RETRY = 0.1, 5.0
CONNECTING = 127.0

LOG_LINES = 5000

# Those of entrypoint.sh that are emulated.
PROVIDERS = ("aws", "azure")


def peer_pod_of(pod: dict, provider: str, instance_id: str) -> dict:
    """The PeerPod that CAA creates for a VM of a pod (pkg/adaptor/k8sops/peerpod.go)."""
    metadata = pod["metadata"]
    owner = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPod",
        "metadata": {
            "name": f"{metadata['name']}-resource-{uuid.uuid4().hex[:5]}",
            "finalizers": [PEER_POD_FINALIZER],
            "ownerReferences": [owner],
        },
        "spec": {"cloudProvider": provider, "instanceID": instance_id},
    }


class SandboxError(Exception):
    """The error that CAA returns to the shim."""


@dataclass
class Sandbox:
    """A pod on a node with a running CAA, and what belongs to it."""

    pod: dict
    node: dict
    settings: Mapping[str, str]
    secret: Mapping[str, str]
    stopped: threading.Event = field(default_factory=threading.Event)
    lost: bool = False


class Sandboxes:
    """The peer pods of a cluster in a cloud. Each pod has a thread."""

    def __init__(self, api: Api, vms: PodVms, network: PodNetwork, api_port: int, directory: Path):
        self._api = api
        self._vms = vms
        self._network = network
        self._api_port = api_port
        self._directory = directory
        self._running: dict[str, Sandbox] = {}
        # The VMs and PeerPods of each pod: all that were not deleted.
        self._owned: dict[str, dict[str, str]] = defaultdict(dict)
        # The log of the CAA of each node.
        self._logs: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LOG_LINES))
        directory.mkdir(parents=True, exist_ok=True)

    def start(self, pod: dict, settings: Mapping[str, str], secret: Mapping[str, str]) -> None:
        node = self._api.request("GET", f"/api/v1/nodes/{pod['spec']['nodeName']}")
        sandbox = Sandbox(pod, node, settings, secret)
        self._running[pod["metadata"]["uid"]] = sandbox
        threading.Thread(target=self._serve, args=(sandbox,), daemon=True).start()

    def stop(self, pod: dict) -> None:
        """The pod was deleted or has ended: StopVM, and the controller of PeerPods for VMs of a CAA that has ended."""
        sandbox = self._running.pop(pod["metadata"]["uid"], None)
        if sandbox:
            sandbox.stopped.set()
            if sandbox.lost:
                threading.Thread(target=self._delete_vms, args=(sandbox,), daemon=True).start()

    def lose(self, pod: dict) -> None:
        """CAA of the node has ended: the pod ends, its VM stays until the pod is deleted."""
        sandbox = self._running[pod["metadata"]["uid"]]
        sandbox.lost = True
        sandbox.stopped.set()

    def log(self, node: str, prefix: str, message: str) -> None:
        now = datetime.now(UTC).strftime("%Y/%m/%d %H:%M:%S")
        # One line for each, as `oc logs` shows a message that has line breaks: several lines.
        self._logs[node] += [f"{now} [{prefix}] {message}"]

    def starts(self, node: str, settings: Mapping[str, str], secret: Mapping[str, str]) -> bool:
        """Whether CAA starts with this environment: entrypoint.sh and main.go of cmd/cloud-api-adaptor."""
        provider = settings.get("CLOUD_PROVIDER", "")
        reason = "" if provider in PROVIDERS else f'(CLOUD_PROVIDER is currently set to "{provider}")'
        if not reason:
            try:
                self._vms.start(settings, secret)
            except RejectedError as error:
                reason = f"cloud-api-adaptor: {error}"
        if reason:
            self._logs[node] += reason.splitlines()
        return not reason

    def log_of(self, namespace: str, name: str) -> str | None:
        """The log of a CAA pod or of a peer pod."""
        path = self._directory / f"{namespace}_{name}.log"
        if path.exists():
            return path.read_text()
        try:
            pod = self._api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        except ApiError:
            return None
        return "".join(f"{line}\n" for line in self._logs[pod["spec"]["nodeName"]]) if pod else None

    def _serve(self, sandbox: Sandbox) -> None:
        pause, longest = BACK_OFF
        while not sandbox.stopped.is_set():
            try:
                self._run_containers(sandbox, self._start_vm(sandbox))
            except SandboxError as error:
                code = "rpc error: code = Unknown desc ="
                message = f"CreateContainer failed: remote hypervisor call failed: {code} {error}: unknown"
                self._event(sandbox, "FailedCreatePodSandBox", f"Failed to create pod sandbox: {code} {message}")
                sandbox.stopped.wait(pause)
                pause = min(2 * pause, longest)
            except Exception:  # noqa: BLE001 - such as a request that the cloud has not answered.
                traceback.print_exc()
                sandbox.stopped.wait(pause)
        if not sandbox.lost:
            self._delete_vms(sandbox)

    def _start_vm(self, sandbox: Sandbox) -> Vm:
        pod, node = sandbox.pod["metadata"], sandbox.node["metadata"]["name"]
        sandbox_id = uuid.uuid4().hex * 2

        def log(prefix: str, message: str) -> None:
            self.log(node, prefix, message)

        what = f"{sandbox_id} for pod {pod['name']} in namespace {pod['namespace']}"
        log("adaptor/cloud", f"create a sandbox {what} (netns: /run/netns/0)")
        name = instance_name(pod["name"], sandbox_id)
        try:
            vm = self._vms.create(name, sandbox_id, sandbox.node, sandbox.settings, sandbox.secret, log)
        except RejectedError as error:
            reason = f"creating an instance : {error}"
            log("adaptor/cloud", f"error starting instance: {reason}")
            raise SandboxError(reason) from error
        self._own(sandbox, vm)
        log("adaptor/cloud", f"created an instance {vm.name} for sandbox {sandbox_id}")
        try:
            self._connect(sandbox, vm)
        except SandboxError as error:
            log("adaptor/cloud", f"error running agent proxy: {error}")
            log("adaptor/cloud", f"cleaning up instance {vm.name} (ID: {vm.id}) due to error: {error}")
            log("adaptor/cloud", f"error starting instance: {error}")
            if not sandbox.lost:
                self._delete_vm(sandbox, vm.id)
            raise
        log("adaptor/cloud", "agent proxy is ready")
        return vm

    def _connect(self, sandbox: Sandbox, vm: Vm) -> None:
        """Connect to the agent in the VM, until PROXY_TIMEOUT."""
        node, address = sandbox.node["metadata"]["name"], f"{vm.address}:{AGENT_PORT}"
        left = _seconds(sandbox.settings.get("PROXY_TIMEOUT") or "5m")
        pause, longest = RETRY
        self.log(node, "adaptor/proxy", f"Trying to establish agent proxy connection to {address}")
        while True:
            is_open = self._vms.reaches(vm, "tcp", AGENT_PORT)
            if is_open and vm.has_agent:
                self.log(node, "adaptor/proxy", f"established agent proxy connection to {address}")
                return
            takes = pause if is_open else min(CONNECTING, left)
            if sandbox.stopped.wait(min(takes, left)):
                raise SandboxError("context canceled")
            left -= takes
            dropped = "connect: connection timed out" if takes == CONNECTING else "i/o timeout"
            reason = f"dial tcp {address}: {'connect: connection refused' if is_open else dropped}"
            self.log(node, "adaptor/proxy", f"Retrying failed agent proxy connection: {reason}")
            if left <= 0:
                failure = f"failed to establish agent proxy connection to {address}: context deadline exceeded"
                self.log(node, "adaptor/proxy", failure)
                raise SandboxError(f"error connecting to agent: {failure}")
            pause = min(2 * pause, longest)

    def _run_containers(self, sandbox: Sandbox, vm: Vm) -> None:
        """Until the pod is stopped."""
        containers = sandbox.pod["spec"]["containers"]
        address = self._network.address()
        waiting = {"waiting": {"reason": "ContainerCreating"}}
        self._report(sandbox, address, [waiting] * len(containers), ready=False)
        self._pull(sandbox, vm, address)
        if sandbox.stopped.is_set():
            return
        process = None
        command = containers[0].get("command") or []
        if command[:2] == ["python3", "-c"]:
            process = self._process(sandbox, vm, address, command[2:])
        running = {"running": {"startedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}
        self._report(sandbox, address, [running] * len(containers), ready=True)
        # The kernel ends the program with the thread that has started it.
        sandbox.stopped.wait()
        self._network.withdraw(address)
        if process:
            process.kill()
            process.wait()

    def _pull(self, sandbox: Sandbox, vm: Vm, address: str) -> None:
        """Pull the images in the VM and create the containers; kubelet repeats that in the same sandbox."""
        containers = sandbox.pod["spec"]["containers"]
        pause, longest = BACK_OFF
        while not sandbox.stopped.is_set():
            failures = [
                self._pull_failure(container["image"], vm) or _program_failure(container) for container in containers
            ]
            if not any(failures):
                return
            states = [
                {"waiting": {"reason": "CreateContainerError" if failure else "ContainerCreating", "message": failure}}
                for failure in failures
            ]
            for failure in filter(None, failures):
                self.log(sandbox.node["metadata"]["name"], "adaptor/proxy", f"CreateContainer fails: {failure}")
                self._event(sandbox, "Failed", f"Error: CreateContainer failed: {failure}: unknown")
            self._report(sandbox, address, states, ready=False)
            sandbox.stopped.wait(pause)
            pause = min(2 * pause, longest)

    def _pull_failure(self, image: str, vm: Vm) -> str:
        """The error of the kata agent (confidential-containers/cloud-api-adaptor#2516, guest-components#749)."""
        host = image.partition("/")[0]
        url = f"https://{host}/v2/"
        sending = f"error sending request for url ({url}): client error (Connect)"
        if host.endswith(".invalid"):
            reason = f"{sending}: dns error: failed to lookup address information: Name or service not known"
        elif "." in host and not self._vms.has_egress(vm):
            reason = f"{sending}: tcp connect error: Connection timed out (os error 110)"
        elif image.endswith(":no-such-tag"):
            reason = f"Registry error: url {url}, envelope: OCI API errors: [OCI API error: manifest unknown]"
        else:
            return ""
        return (
            'rpc status: Status { code: INTERNAL, message: "[CDH] [ERROR]: Image Pull error: Failed to pull image '
            f"{image} from all mirror/mapping locations or original location: image: {image}, error: Errors happened "
            f'when pulling image: failed to pull image manifest: {reason}", details: [] }}'
        )

    def _process(self, sandbox: Sandbox, vm: Vm, address: str, arguments: list[str]) -> subprocess.Popen:
        """Run the program of the pod in the network of its VM."""
        container = sandbox.pod["spec"]["containers"][0]
        ports = [port["containerPort"] for port in container.get("ports", ())]
        local = dict(zip(ports, free_ports(len(ports)), strict=True))
        for port in ports:
            self._network.publish(address, port, partial(self._local, vm, local[port]))
        has_tunnel = self._has_tunnel(vm)
        outside = {f"{OUTSIDE}:{port}": self._api_port for port in (80, 443)} if has_tunnel else {}
        network = {
            "ports": local,
            "names": {"kubernetes.default.svc": SERVICE, "*": OUTSIDE} if has_tunnel else {},
            "routes": {f"{SERVICE}:443": self._api_port, **outside} if has_tunnel else {},
        }
        path = self._directory / f"{sandbox.pod['metadata']['namespace']}_{sandbox.pod['metadata']['name']}.log"
        module = [sys.executable, "-m", "tests.cluster.peer_pod", json.dumps(network), *arguments]
        with path.open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *module],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
                env={"KUBERNETES_SERVICE_HOST": SERVICE, "KUBERNETES_SERVICE_PORT": "443"},
            )
        # The program prints when it listens. Until then, it would only show how busy this machine is.
        while process.poll() is None and not path.stat().st_size and not sandbox.stopped.wait(0.05):
            pass
        return process

    def _local(self, vm: Vm, port: int) -> int | None:
        return port if self._has_tunnel(vm) else None

    def _has_tunnel(self, vm: Vm) -> bool:
        """Whether VXLAN passes in both directions: each end sends to the same port of the other."""
        return self._vms.reaches(vm, "udp", VXLAN_PORT) and self._vms.is_reached_by(vm, "udp", VXLAN_PORT)

    def _own(self, sandbox: Sandbox, vm: Vm) -> None:
        """OwnPeerPod."""
        metadata = sandbox.pod["metadata"]
        body = peer_pod_of(sandbox.pod, self._vms.provider, vm.id)
        self._owned[metadata["uid"]][vm.id] = body["metadata"]["name"]
        self._quietly("POST", PEER_PODS.format(metadata["namespace"]), body, "application/json")

    def _delete_vms(self, sandbox: Sandbox) -> None:
        """Until all VMs of a deleted pod are deleted: the controller of PeerPods repeats what CAA could not delete
        (src/peerpod-ctrl/controllers/peerpod_controller.go)."""
        owned = self._owned[sandbox.pod["metadata"]["uid"]]
        while owned:
            for vm_id in list(owned):
                self._delete_vm(sandbox, vm_id)
            if owned:
                time.sleep(BACK_OFF[0])

    def _delete_vm(self, sandbox: Sandbox, vm_id: str) -> None:
        """DeleteInstance and, if that succeeds, ReleasePeerPod."""
        node, metadata = sandbox.node["metadata"]["name"], sandbox.pod["metadata"]
        log = partial(self.log, node)
        if not self._vms.delete(vm_id, sandbox.settings, sandbox.secret, log):
            return
        name = self._owned[metadata["uid"]].pop(vm_id)
        path = f"{PEER_PODS.format(metadata['namespace'])}/{name}"
        self._quietly("PATCH", path, {"metadata": {"finalizers": None}}, "application/merge-patch+json")
        log("util/k8sops", f"{metadata['name']}'s owned PeerPod object can now be deleted")

    def _report(self, sandbox: Sandbox, address: str, states: list[dict], *, ready: bool) -> None:
        metadata = sandbox.pod["metadata"]
        addresses = sandbox.node["status"].get("addresses") or []
        status = {
            **({"phase": "Running"} if ready else {}),
            "hostIP": next((each["address"] for each in addresses if each["type"] == "InternalIP"), None),
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [
                {"type": name, "status": str(ready or name == "Initialized")}
                for name in ("Initialized", "ContainersReady", "Ready")
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": ready,
                    "restartCount": 0,
                    "state": state,
                }
                for container, state in zip(sandbox.pod["spec"]["containers"], states, strict=True)
            ],
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self._quietly("PATCH", path, {"status": status}, "application/strategic-merge-patch+json")

    def _event(self, sandbox: Sandbox, reason: str, message: str) -> None:
        metadata, now = sandbox.pod["metadata"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}"},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": sandbox.node["metadata"]["name"]},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._quietly("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", body, "application/json")

    def _quietly(self, method: str, path: str, body: object, content_type: str) -> None:
        """Ignore objects that are already deleted or changed."""
        try:
            self._api.request(method, f"{path}?fieldManager={MANAGER}", body, content_type)
        except ApiError as error:
            if error.status not in (404, 409, 422):
                raise


def _program_failure(container: dict) -> str:
    """The error of the kata agent for a missing program (src/agent/rustjail; kata-containers/kata-containers#9028)."""
    program = next(iter(container.get("command") or []), "")
    is_missing = program == "python3" and container["image"].endswith(":without-python3")
    return f"the file {program} was not found" if is_missing else ""


def _seconds(duration: str) -> float:
    """A duration of Go, such as 5m or 1m30s."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", duration))
