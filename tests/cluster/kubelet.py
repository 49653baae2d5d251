"""Simulates the kubelet of one node: this machine, which runs its pods for real.

kwok only reports that pods run. The webhook and the agent must run, from the Pods of the Deployments that the roles
create: each Pod of this node gets its volumes (Secrets, ConfigMaps, a service account token), is started with `podman
kube play`, probed by its readiness probe, and its status is reported. Without podman, the same entry points run as
processes.

The image jobs of the operator (image_jobs.py) run as processes as well, and end. The API server reads the logs of
containers from here, as from a real kubelet.

Run it as `python -m tests.cluster.kubelet --help`. On SIGTERM, and when its launcher ends, it stops every pod that it
started.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import yaml
from urllib3.exceptions import HTTPError

from .api import Api, ApiError, now
from .image_jobs import BUILDER
from .pki import CertificateAuthority

ROOT = Path(__file__).parents[2]
SYNC_SECONDS = 0.3
HEARTBEAT_SECONDS = 10
VOLUME_REFRESH_SECONDS = 5
TOKEN_SECONDS = 3600
SERVICE_ACCOUNT_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"

# The programs in images that no registry here has, and that always run as processes, by repository.
PROGRAMS = {BUILDER: "tests.cluster.image_builder"}

# The fields of a Pod's containers that podman supports with the same meaning.
CONTAINER_FIELDS = ("name", "image", "command", "args", "workingDir", "securityContext")


class Runtime(Protocol):
    """Runs pods with podman or as processes."""

    name: str

    def start(self, pod: LocalPod, environment: dict[str, str]) -> None:
        """Start the containers of the pod, with `environment` in addition to their own."""

    def running(self, pod: LocalPod) -> bool:
        """Whether all containers run."""

    def logs(self, pod: LocalPod, container: str) -> bytes:
        """What the container has printed."""

    def address(self, pod: LocalPod) -> str:
        """The IP address of the pod."""

    def stop(self, pod: LocalPod, grace_seconds: int) -> None:
        """Stop the pod with SIGTERM, and after the grace period with SIGKILL."""


@dataclass
class LocalPod:
    """A pod of this node: its manifest, the directory of its volumes, and its last reported status."""

    manifest: dict
    directory: Path
    status: dict = field(default_factory=dict)
    # Of the readiness probes, in a row.
    failures: int = 0
    refreshed: float = 0
    tokens_made: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        metadata = self.manifest["metadata"]
        return f"{metadata['namespace']}_{metadata['name']}_{metadata['uid'][:8]}"

    @property
    def path(self) -> str:
        metadata = self.manifest["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    def volume(self, name: str) -> Path:
        return self.directory / "volumes" / name


class PodmanError(Exception):
    """A command of podman failed. The message has the command and its errors."""


class Podman:
    """Runs pods with `podman kube play`, on the bridge network of podman."""

    name = "podman"

    NETWORK = "podman-default-kube-network"
    OWNER_LABEL = "osc.peerpods.kubelet"

    def __init__(self, directory: Path):
        self._environment = {**os.environ, "CONTAINERS_CONF": str(containers_conf(directory))}
        # By the names of pods. Reading them takes a twentieth of a second of CPU time, and they seldom change.
        self._addresses: dict[str, str] = {}
        self._process_ids: dict[str, list[str]] = {}
        self._sweep()
        # Another kubelet may create it at the same time.
        self._podman("network", "create", self.NETWORK, check=False)
        network = json.loads(self._podman("network", "inspect", self.NETWORK).stdout)[0]
        self.gateway = network["subnets"][0]["gateway"]

    def start(self, pod: LocalPod, environment: dict[str, str]) -> None:
        spec = pod.manifest["spec"]
        manifest: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "labels": {self.OWNER_LABEL: str(os.getpid())}},
            "spec": {
                "restartPolicy": spec["restartPolicy"],
                # At most as long as Linux allows; podman would use the name above.
                "hostname": pod.manifest["metadata"]["name"][:63],
                # The certificate of the API server is valid for this name.
                "hostAliases": [{"ip": self.gateway, "hostnames": ["kubernetes.default.svc"]}],
                "containers": [
                    {
                        **{key: container[key] for key in CONTAINER_FIELDS if key in container},
                        "imagePullPolicy": "Never",
                        "env": [
                            {"name": name, "value": value}
                            for name, value in (environment | _environment(container, pod)).items()
                        ],
                        "volumeMounts": container.get("volumeMounts", []),
                    }
                    for container in spec["containers"]
                ],
                "volumes": [
                    {"name": volume["name"], "hostPath": {"path": str(pod.volume(volume["name"])), "type": "Directory"}}
                    for volume in spec.get("volumes", [])
                ],
            },
        }
        for container in manifest["spec"]["containers"]:
            container.get("securityContext", {}).pop("seccompProfile", None)
        played = pod.directory / "podman.yaml"
        played.write_text(yaml.safe_dump(manifest))
        try:
            self._podman("kube", "play", str(played))
        except PodmanError:
            # A part of it may exist. The next synchronization tries again.
            self._podman("pod", "rm", "--force", pod.name, check=False)
            raise

    def running(self, pod: LocalPod) -> bool:
        known = self._process_ids.get(pod.name)
        if known and all(Path("/proc", process_id).exists() for process_id in known):
            return True
        # One that does not run has the process ID 0.
        inspected = self._podman("inspect", "--format={{.State.Pid}}", *self._containers(pod)).stdout.split()
        self._process_ids[pod.name] = inspected
        return "0" not in inspected

    def logs(self, pod: LocalPod, container: str) -> bytes:
        return self._podman("logs", f"{pod.name}-{container}").stdout.encode()

    def address(self, pod: LocalPod) -> str:
        if pod.name not in self._addresses:
            infra = json.loads(self._podman("pod", "inspect", pod.name).stdout)["InfraContainerID"]
            networks = json.loads(self._podman("inspect", infra).stdout)[0]["NetworkSettings"]["Networks"]
            self._addresses[pod.name] = networks[self.NETWORK]["IPAddress"]
        return self._addresses[pod.name]

    def stop(self, pod: LocalPod, grace_seconds: int) -> None:
        # `podman pod stop` would remove the network while containers still use it.
        self._podman("stop", "--time", str(grace_seconds), *self._containers(pod), check=False)
        self._podman("pod", "rm", "--force", pod.name, check=False)

    @staticmethod
    def _containers(pod: LocalPod) -> list[str]:
        """The names that podman gives to the containers of the pod."""
        return [f"{pod.name}-{container['name']}" for container in pod.manifest["spec"]["containers"]]

    def _sweep(self) -> None:
        """Remove pods of kubelets that were killed."""
        listed = self._podman("pod", "ls", "--filter", f"label={self.OWNER_LABEL}", "--format", "json").stdout
        for pod in json.loads(listed):
            if not Path("/proc", pod["Labels"][self.OWNER_LABEL]).exists():
                self._podman("pod", "rm", "--force", pod["Id"], check=False)

    def _podman(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        completed = subprocess.run(
            ["podman", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and completed.returncode:
            raise PodmanError(f"podman {' '.join(arguments)}: {completed.stderr.strip()}")
        return completed


class ProcessRuntime:
    """Runs the entry points of the images as processes, for machines without podman."""

    name = "process"

    def __init__(self, address: str):
        self._address = address
        self._processes: dict[str, list[subprocess.Popen]] = {}

    def start(self, pod: LocalPod, environment: dict[str, str]) -> None:
        self._processes[pod.name] = [
            self._start(container, pod, environment) for container in pod.manifest["spec"]["containers"]
        ]

    def running(self, pod: LocalPod) -> bool:
        return all(process.poll() is None for process in self._processes[pod.name])

    def exit_codes(self, pod: LocalPod) -> list[int]:
        """Those of the containers, which must have ended."""
        return [process.wait() for process in self._processes[pod.name]]

    def logs(self, pod: LocalPod, container: str) -> bytes:
        return (pod.directory / f"{container}.log").read_bytes()

    def address(self, pod: LocalPod) -> str:
        return self._address

    def stop(self, pod: LocalPod, grace_seconds: int) -> None:
        for process in self._processes.pop(pod.name, []):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=grace_seconds)
            process.kill()
            process.wait()

    def _start(self, container: dict, pod: LocalPod, environment: dict[str, str]) -> subprocess.Popen:
        source, arguments = _program(container)
        variables = _environment(container, pod)
        # There is no mount namespace here: a path below a mount point is one below its volume.
        for mount in container.get("volumeMounts", []):
            for name, value in variables.items():
                if value.startswith(mount["mountPath"] + "/"):
                    variables[name] = value.replace(mount["mountPath"], str(pod.volume(mount["name"])), 1)
        log = (pod.directory / f"{container['name']}.log").open("ab")
        with log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment, **variables, "PYTHONPATH": str(source)},
            )


def _program(container: dict) -> tuple[Path, list[str]]:
    """The directory of a container's sources, and the arguments with which Python runs its program."""
    repository = _repository(container["image"])
    if repository in PROGRAMS:
        return ROOT, ["-m", PROGRAMS[repository], *container["command"][1:]]
    # …/webhook:TAG is built from containers/webhook, and so is …/peerpods-webhook@DIGEST.
    source = ROOT / "containers" / repository.removeprefix("peerpods-").replace("-", "_")
    (arguments,) = re.findall(r"^ENTRYPOINT (\[.*\])$", (source / "Containerfile").read_text(), re.MULTILINE)
    return source, json.loads(arguments)[1:]


def _repository(image: str) -> str:
    (repository,) = re.findall(r"([\w-]+)[:@][^/]+$", image)
    return repository


class Kubelet:
    def __init__(
        self,
        node: str,
        kubeconfig: str,
        directory: Path,
        runtime: Runtime,
        address: str,
    ):
        self._node = node
        self._api = Api(kubeconfig)
        self._ca = Path(kubeconfig).with_name("ca.crt").read_bytes()
        self._directory = directory
        self._runtime = runtime
        # For the images in PROGRAMS, which are not built.
        self._programs = runtime if isinstance(runtime, ProcessRuntime) else ProcessRuntime(address)
        self._address = address
        self._logs = _log_server(address, directory, self._ca, self._log)
        self._pods: dict[str, LocalPod] = {}
        self._heartbeat = 0.0
        # A pod takes up to its grace period to stop. The other pods are still handled.
        self._stoppers = ThreadPoolExecutor()
        self._stopping: set[str] = set()

    def run(self) -> None:
        stopping = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.append(True))
        try:
            self._register()
            while not stopping:
                try:
                    self._sync()
                except (ApiError, HTTPError) as error:
                    # Pods keep running while the API server is not available.
                    print(error, file=sys.stderr, flush=True)
                time.sleep(SYNC_SECONDS)
        finally:
            self._logs.shutdown()
            for pod in self._pods.values():
                self._stoppers.submit(self._runtime_of(pod).stop, pod, grace_seconds=2)
            self._stoppers.shutdown()

    def _runtime_of(self, pod: LocalPod) -> Runtime:
        repositories = {_repository(container["image"]) for container in pod.manifest["spec"]["containers"]}
        return self._programs if repositories & PROGRAMS.keys() else self._runtime

    def _log(self, namespace: str, name: str, container: str) -> bytes | None:
        """The log of a container; None if the node does not run it."""
        for pod in list(self._pods.values()):
            metadata = pod.manifest["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return self._runtime_of(pod).logs(pod, container)
        return None

    def _register(self) -> None:
        resources = {"cpu": "4", "memory": "16Gi", "pods": "250"}
        self._api.request(
            "POST",
            "/api/v1/nodes",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": self._node,
                    "labels": {
                        "kubernetes.io/hostname": self._node,
                        "kubernetes.io/os": "linux",
                        "node-role.kubernetes.io/master": "",
                        "node-role.kubernetes.io/control-plane": "",
                    },
                },
                "spec": {"taints": [{"key": "node-role.kubernetes.io/master", "effect": "NoSchedule"}]},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": self._address}],
                    "capacity": resources,
                    "allocatable": resources,
                    "nodeInfo": node_info(self._runtime.name),
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.server_port}},
                    "conditions": [
                        {
                            "type": "Ready",
                            "status": "True",
                            "reason": "KubeletReady",
                            "message": "simulates a kubelet",
                            "lastHeartbeatTime": now(),
                            "lastTransitionTime": now(),
                        }
                    ],
                },
            },
        )
        self._api.request(
            "POST",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._node},
                "spec": {"holderIdentity": self._node, "leaseDurationSeconds": 40, "renewTime": _now_micro()},
            },
        )

    def _sync(self) -> None:
        if time.monotonic() - self._heartbeat > HEARTBEAT_SECONDS:
            self._heartbeat = time.monotonic()
            self._api.merge(
                f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self._node}",
                {"spec": {"renewTime": _now_micro()}},
            )
        # From the API server's cache, as the watch of a real kubelet.
        bound = self._api.list(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{self._node}&resourceVersion=0")
        for manifest in bound:
            try:
                self._sync_pod(manifest)
            except PodmanError as error:
                # As a kubelet, try again next time.
                print(error, file=sys.stderr, flush=True)
            except ApiError as error:
                # Deleted or changed since the list, or a Secret does not exist yet: try again next time.
                if error.status not in (404, 409):
                    raise
        for uid in self._pods.keys() - {manifest["metadata"]["uid"] for manifest in bound}:
            pod = self._pods.pop(uid)
            self._stoppers.submit(self._runtime_of(pod).stop, pod, grace_seconds=0)

    def _sync_pod(self, manifest: dict) -> None:
        uid = manifest["metadata"]["uid"]
        if manifest["metadata"].get("deletionTimestamp"):
            if uid not in self._stopping:
                self._stopping.add(uid)
                self._stoppers.submit(self._terminate, manifest)
            return
        pod = self._pods.get(uid)
        if pod is None:
            pod = LocalPod(manifest, self._directory / uid)
            self._write_volumes(pod)
            self._resolve_environment(pod)
            environment = {
                "KUBERNETES_SERVICE_HOST": "kubernetes.default.svc",
                "KUBERNETES_SERVICE_PORT": self._api.server.rpartition(":")[2],
            }
            runtime = self._runtime_of(pod)
            if isinstance(runtime, ProcessRuntime):
                environment |= self._kubeconfig(pod)
            runtime.start(pod, environment)
            self._pods[uid] = pod
        elif time.monotonic() - pod.refreshed > VOLUME_REFRESH_SECONDS:
            self._write_volumes(pod)
        self._report(pod)

    def _terminate(self, manifest: dict) -> None:
        uid = manifest["metadata"]["uid"]
        pod = self._pods.pop(uid, None)
        if pod is not None:
            grace = manifest["metadata"].get("deletionGracePeriodSeconds", 30)
            self._runtime_of(pod).stop(pod, grace)
        try:
            self._api.request(
                "DELETE",
                LocalPod(manifest, Path()).path,
                {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}},
            )
        except (ApiError, HTTPError) as error:
            print(error, file=sys.stderr, flush=True)
            # Try again next time, if the pod still exists.
            self._stopping.discard(uid)

    def _resolve_environment(self, pod: LocalPod) -> None:
        """Add the variables of `envFrom`, of which the later ones win, and which `env` overrides."""
        namespace = f"/api/v1/namespaces/{pod.manifest['metadata']['namespace']}"
        for container in pod.manifest["spec"]["containers"]:
            variables: dict[str, str] = {}
            for source in container.get("envFrom", ()):
                reference = source.get("secretRef") or source["configMapRef"]
                kind = "secrets" if "secretRef" in source else "configmaps"
                path = f"{namespace}/{kind}/{reference['name']}"
                # A required one that does not exist is an error: the pod starts when it exists.
                found = self._api.get(path) if reference.get("optional") else self._api.request("GET", path)
                data = (found or {}).get("data") or {}
                if kind == "secrets":
                    data = {name: base64.b64decode(value).decode() for name, value in data.items()}
                variables |= data
            own = [{"name": name, "value": value} for name, value in variables.items()]
            container["env"] = [*own, *container.get("env", ())]

    def _write_volumes(self, pod: LocalPod) -> None:
        pod.refreshed = time.monotonic()
        namespace = f"/api/v1/namespaces/{pod.manifest['metadata']['namespace']}"
        for volume in pod.manifest["spec"].get("volumes", []):
            files = self._volume_files(pod, volume, namespace)
            if files is not None:
                write_atomically(pod.volume(volume["name"]), files)

    def _volume_files(self, pod: LocalPod, volume: dict, namespace: str) -> dict[str, bytes] | None:
        """The contents of a volume, by file name; None if nothing new must be written."""
        if "emptyDir" in volume:
            pod.volume(volume["name"]).mkdir(parents=True, exist_ok=True, mode=0o777)
            return None
        if "secret" in volume:
            secret = self._api.request("GET", f"{namespace}/secrets/{volume['secret']['secretName']}")
            return {name: base64.b64decode(data) for name, data in secret["data"].items()}
        if "configMap" in volume:
            config_map = self._api.request("GET", f"{namespace}/configmaps/{volume['configMap']['name']}")
            return {name: data.encode() for name, data in config_map.get("data", {}).items()}
        if "projected" in volume:
            made = pod.tokens_made.get(volume["name"])
            if made and time.monotonic() - made < TOKEN_SECONDS / 2:
                return None
            pod.tokens_made[volume["name"]] = time.monotonic()
            sources = volume["projected"]["sources"]
            (token,) = [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]
            audience = token.get("audience", "https://kubernetes.default.svc")
            files = {token["path"]: self._token(pod, namespace, audience).encode()}
            if len(sources) == 1:
                return files
            # The volume of the service account, as the API server adds it to a pod.
            return {
                **files,
                "ca.crt": self._ca,
                "namespace": pod.manifest["metadata"]["namespace"].encode(),
            }
        raise NotImplementedError(f"volume {volume['name']} of pod {pod.name}: {sorted(volume)}")

    def _token(self, pod: LocalPod, namespace: str, audience: str) -> str:
        metadata = pod.manifest["metadata"]
        account = pod.manifest["spec"]["serviceAccountName"]
        return self._api.request(
            "POST",
            f"{namespace}/serviceaccounts/{account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "audiences": [audience],
                    "expirationSeconds": TOKEN_SECONDS,
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                    },
                },
            },
        )["status"]["token"]

    def _kubeconfig(self, pod: LocalPod) -> dict[str, str]:
        """Write a kubeconfig of the service account, because a process has no /var/run/secrets of its own."""
        account = next(
            (
                pod.volume(mount["name"])
                for container in pod.manifest["spec"]["containers"]
                for mount in container.get("volumeMounts", [])
                if mount["mountPath"] == SERVICE_ACCOUNT_DIRECTORY
            ),
            None,
        )
        if account is None:
            return {}
        path = pod.directory / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {
                            "name": "c",
                            "cluster": {"server": self._api.server, "certificate-authority": str(account / "ca.crt")},
                        }
                    ],
                    "users": [{"name": "u", "user": {"tokenFile": str(account / "token")}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        return {"KUBECONFIG": str(path)}

    @staticmethod
    def _is_ready(pod: LocalPod, address: str) -> bool:
        """Whether the readiness probes succeed, or have failed for fewer times in a row than makes a pod unready."""
        containers = pod.manifest["spec"]["containers"]
        failed = [
            probe
            for container in containers
            if (probe := container.get("readinessProbe")) and not probe_succeeds(probe, container, address)
        ]
        if not failed:
            pod.failures = 0
            return True
        pod.failures += 1
        was_ready = pod.status.get("ready", False)
        return was_ready and pod.failures < min(probe.get("failureThreshold", 3) for probe in failed)

    def _report(self, pod: LocalPod) -> None:
        runtime = self._runtime_of(pod)
        running = runtime.running(pod)
        if not running and pod.manifest["spec"]["restartPolicy"] == "Never" and isinstance(runtime, ProcessRuntime):
            return self._report_end(pod, runtime)
        address = runtime.address(pod)
        ready = running and self._is_ready(pod, address)
        yes = {True: "True", False: "False"}
        summary = {"address": address, "running": running, "ready": ready}
        if summary == pod.status:
            return
        started = now()
        self._api.merge(
            f"{pod.path}/status",
            {
                "status": {
                    "phase": "Running",
                    "hostIP": self._address,
                    "podIP": address,
                    "podIPs": [{"ip": address}],
                    "startTime": started,
                    "conditions": [
                        {"type": kind, "status": status, "lastTransitionTime": started}
                        for kind, status in (
                            ("PodScheduled", "True"),
                            ("Initialized", "True"),
                            ("ContainersReady", yes[ready]),
                            ("Ready", yes[ready]),
                        )
                    ],
                    "containerStatuses": [
                        {
                            "name": container["name"],
                            "image": container["image"],
                            "imageID": "",
                            "restartCount": 0,
                            "ready": ready,
                            "started": running,
                            "state": {"running": {"startedAt": started}}
                            if running
                            else {"waiting": {"reason": "CrashLoopBackOff"}},
                        }
                        for container in pod.manifest["spec"]["containers"]
                    ],
                }
            },
        )
        pod.status = summary

    def _report_end(self, pod: LocalPod, runtime: ProcessRuntime) -> None:
        """The status of a pod whose containers have ended, and are not started again."""
        if "ended" in pod.status:
            return
        codes, ended = runtime.exit_codes(pod), now()
        failed = any(codes)
        containers = zip(pod.manifest["spec"]["containers"], codes, strict=True)
        reason = "PodFailed" if failed else "PodCompleted"
        self._api.merge(
            f"{pod.path}/status",
            {
                "status": {
                    "phase": "Failed" if failed else "Succeeded",
                    "hostIP": self._address,
                    "startTime": ended,
                    "conditions": [
                        {"type": kind, "status": status, "reason": reason, "lastTransitionTime": ended}
                        for kind, status in (("Initialized", "True"), ("ContainersReady", "False"), ("Ready", "False"))
                    ],
                    "containerStatuses": [
                        {
                            "name": container["name"],
                            "image": container["image"],
                            "imageID": "",
                            "restartCount": 0,
                            "ready": False,
                            "started": False,
                            "state": {
                                "terminated": {
                                    "exitCode": code,
                                    "reason": "Error" if code else "Completed",
                                    "startedAt": ended,
                                    "finishedAt": ended,
                                }
                            },
                        }
                        for container, code in containers
                    ],
                }
            },
        )
        pod.status = {"ended": True}


def _log_server(address: str, directory: Path, client_ca: bytes, read: Any) -> ThreadingHTTPServer:
    """Serves GET /containerLogs/NAMESPACE/POD/CONTAINER to the API server (pkg/kubelet/server/server.go of Kubernetes).

    The API server does not verify the certificate, as on a real cluster without --kubelet-certificate-authority.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            parts, query = url.path.strip("/").split("/"), dict(parse_qsl(url.query))
            log = read(*parts[1:]) if len(parts) == 4 and parts[0] == "containerLogs" else None
            content = f"no such container: {url.path}".encode() if log is None else log
            if tail := query.get("tailLines"):
                content = b"".join(content.splitlines(keepends=True)[-int(tail) :])
            content = content[: int(query.get("limitBytes", len(content)))]
            self.send_response(404 if log is None else 200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Not logged."""

    pair = CertificateAuthority("kubelet").server("kubelet", address)
    serving = directory / "kubelet.pem"
    serving.touch(mode=0o600)
    serving.write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(serving)
    context.load_verify_locations(cadata=client_ca.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer((address, 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def node_info(runtime: str) -> dict[str, str]:
    """A node's `status.nodeInfo`. All of its fields are required; the runtime is what runs the pods."""
    unknown = dict.fromkeys(
        (
            "architecture",
            "bootID",
            "kernelVersion",
            "kubeProxyVersion",
            "kubeletVersion",
            "machineID",
            "operatingSystem",
            "osImage",
            "systemUUID",
        ),
        "",
    )
    return {**unknown, "containerRuntimeVersion": f"{runtime}://"}


def probe_succeeds(probe: dict, container: dict, address: str) -> bool:
    """Whether a readiness probe (only httpGet) returns a status below 400."""
    http_get = probe["httpGet"]
    port = http_get["port"]
    if isinstance(port, str):
        port = next(p["containerPort"] for p in container["ports"] if p.get("name") == port)
    url = f"{http_get.get('scheme', 'HTTP').lower()}://{address}:{port}{http_get.get('path', '/')}"
    # As a kubelet, do not verify the certificate.
    unverified = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(url, context=unverified, timeout=1) as answer:
            return answer.status < 400
    except OSError:
        return False


def write_atomically(directory: Path, files: dict[str, bytes]) -> None:
    """Write a volume as a kubelet does: names link into ..data, which is replaced atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    current = directory / "..data"
    if current.exists() and files == {f.name: f.read_bytes() for f in current.iterdir()}:
        return
    fresh = directory / f"..{time.time_ns()}"
    fresh.mkdir()
    for name, content in files.items():
        (fresh / name).write_bytes(content)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(Path("..data", name))
    stale = current.resolve() if current.is_symlink() else None
    link = directory / "..data_tmp"
    link.symlink_to(fresh.name)
    link.replace(current)
    if stale:
        shutil.rmtree(stale)


def _environment(container: dict, pod: LocalPod) -> dict[str, str]:
    """The environment variables of a container, with the fields of the downward API resolved."""
    resolved = {}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            field: Any = pod.manifest
            for part in variable["valueFrom"]["fieldRef"]["fieldPath"].split("."):
                field = field[part]
            resolved[variable["name"]] = field
        else:
            resolved[variable["name"]] = variable.get("value", "")
    return resolved


def containers_conf(directory: Path) -> Path:
    """Settings with which podman also runs in a container or a VM with low limits."""
    path = directory / "containers.conf"
    path.write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n[engine]\nruntime = "runc"\n'
    )
    return path


def host_address() -> str:
    """The address of this machine: an EndpointSlice may not contain a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # No packet is sent: connecting a UDP socket only chooses the source address.
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


def _now_micro() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--node", required=True)
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--directory", required=True, type=Path, help="the directory of the volumes")
    parser.add_argument("--runtime", required=True, choices=["podman", "process"])
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    address = host_address()
    runtime = Podman(arguments.directory) if arguments.runtime == "podman" else ProcessRuntime(address)
    Kubelet(arguments.node, arguments.kubeconfig, arguments.directory, runtime, address).run()


if __name__ == "__main__":
    main()
