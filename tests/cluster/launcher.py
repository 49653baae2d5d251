"""Starts a real Kubernetes control plane on this machine, and stops it without leaving anything behind.

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real programs; kwok simulates
the kubelets of the worker nodes. RBAC is enabled, every connection is TLS with a temporary CA, and ports are random, so
that several clusters can run at the same time.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import yaml

from .binaries import binaries
from .client import Client, PatchType
from .pki import CertificateAuthority, KeyPair
from .pod_network import SOCKET
from .processes import START_SECONDS, Processes, free_ports, wait_for
from .seeds import copy, seed

# The service network of OpenShift. It is not routed here: the API server connects to the endpoints of a webhook's
# Service (--enable-aggregator-routing).
SERVICE_NETWORK = "172.30.0.0/16"

# The audience of the tokens with which service accounts log in to the API server.
API_AUDIENCE = "https://kubernetes.default.svc"

# kwok simulates the nodes with this annotation.
FAKE_NODE_ANNOTATION = {"kwok.x-k8s.io/node": "fake"}

# The API server presents a client certificate to webhooks in this namespace, if they request one, and, as on OpenShift,
# to no other webhooks.
CLIENT_CERTIFICATE_NAMESPACE = "client-certificates"

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # Requests of the control plane to itself, which tests do not count.
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {
            "level": "None",
            "users": [
                "system:kube-scheduler",
                "system:kube-controller-manager",
                "system:apiserver",
                "kwok",
                "cluster-operators",
            ],
        },
        {"level": "Metadata"},
    ],
}


class Cluster:
    """One running control plane. Use it as a context manager, or call `stop`.

    The CustomResourceDefinitions in `definitions`, YAML files or directories of such, exist from the beginning. The
    garbage collector looks for new kinds every 30 seconds only.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        definitions: Sequence[Path] = (),
        has_pod_network: bool = False,
        issuer: str = API_AUDIENCE,
    ):
        self._temporary = None
        self.definitions = definitions
        # Of the tokens of service accounts.
        self.issuer = issuer
        # Whether the API server reaches nodes, pods and Services by the network of pod_network.py.
        self.has_pod_network = has_pod_network
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="osc-peerpods-cluster-")
            directory = Path(self._temporary.name)
        self.directory = directory
        self.bin = binaries()
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        self.processes = Processes(self.directory / "logs")
        self._authority = CertificateAuthority("osc.peerpods test cluster")
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None:
        """Raise an error if a program has ended by itself, unless the body has raised one already."""
        try:
            if exception is None:
                self.processes.check_alive()
        finally:
            self.stop()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig (group system:masters)."""
        return self.directory / "admin.kubeconfig"

    @property
    def ca(self) -> bytes:
        """The CA certificate that clients of the API server and its webhooks trust (PEM)."""
        return self._authority.pair.certificate

    @property
    def audit_log(self) -> Path:
        """The API server's audit log: one JSON event per line, for each request except those of the control plane."""
        return self.directory / "audit.log"

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl as the administrator and return its output."""
        run = subprocess.run(
            [self.bin / "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments],
            input=input,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {run.stderr.strip()}")
        return run.stdout

    def get(self, *arguments: str) -> dict:
        """The parsed output of `kubectl get … -o json`."""
        return self._client.get(*arguments)

    def apply(self, *objects: dict) -> None:
        """Create or update objects of any kind, as `kubectl apply --server-side --force-conflicts` does."""
        self._client.apply(*objects)

    def merge(self, name: str, patch: dict, namespace: str = "default", **options: str) -> None:
        """Patch the object KIND/NAME as `kubectl patch --type=merge` does; options: subresource, manager."""
        self._client.patch(name, patch, namespace, type="merge", **options)

    def patch(
        self, name: str, patch: dict | list, namespace: str = "default", *, type: PatchType, **options: str
    ) -> None:
        """Patch the object KIND/NAME as `kubectl patch --type=…` does; options: subresource, manager."""
        self._client.patch(name, patch, namespace, type=type, **options)

    def delete(self, *arguments: str) -> None:
        """Delete objects as `kubectl delete` with these arguments does."""
        self._client.delete(*arguments)

    def label(self, *arguments: str) -> None:
        """Change labels as `kubectl label --overwrite` with these arguments does."""
        self._client.label(*arguments)

    def annotate(self, *arguments: str) -> None:
        """Change annotations as `kubectl annotate --overwrite` with these arguments does."""
        self._client.annotate(*arguments)

    def define(self, *paths: Path) -> None:
        """Install CustomResourceDefinitions from YAML files or directories."""
        self.kubectl("apply", "--server-side", *(f"--filename={path}" for path in paths))
        wait_for("the CustomResourceDefinitions", self._all_established, seconds=START_SECONDS)
        self._client.rediscover()

    def _all_established(self) -> bool:
        established = {"type": "Established", "status": "True"}.items()
        return all(
            any(established <= condition.items() for condition in definition.get("status", {}).get("conditions") or ())
            for definition in self.get("customresourcedefinitions")["items"]
        )

    def user_kubeconfig(self, user: str, *groups: str) -> Path:
        """A kubeconfig for `user` in `groups`, authenticated by a client certificate."""
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        pair = self._authority.client(user, *groups)
        self._write(path, yaml.safe_dump(_kubeconfig(self.server, self._ca_file, *self._files(path.stem, pair))))
        return path

    def restart_api_server(self, down_seconds: float = 0) -> None:
        """Stop the API server with SIGTERM, as when its node is drained, start it again after `down_seconds`, and wait
        until it is ready.
        """
        self.processes.restart("kube-apiserver", down_seconds)
        self._wait_for_api_server()

    def stop(self) -> None:
        self.processes.stop()
        if self._temporary:
            self._temporary.cleanup()

    def _start_program(self, name: str, command: list[str]) -> None:
        """Start a program of the control plane, so that it takes less CPU time.

        Its garbage collector may take more memory, and it runs on its share of the processors: if test processes in
        parallel have several clusters, more threads would only wake and suspend each other.
        """
        sharing = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        threads = max(1, (os.cpu_count() or 1) // sharing)
        self.processes.start(name, command, environment={"GOGC": "400", "GOMAXPROCS": str(threads)})

    def _start(self) -> None:
        files = [Path(__file__), *self.definitions]
        files = [file for path in files for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        copy(seed([self.bin.name.encode(), *(file.read_bytes() for file in files)], self._grow), self._data)
        self._start_api_server()
        self._start_controllers()

    @property
    def _data(self) -> Path:
        return self.directory / "etcd"

    def _grow(self, target: Path) -> None:
        """Write the data of a new control plane with the same definitions into the directory `target`."""
        with _Seedling(definitions=self.definitions) as seedling:
            if self.definitions:
                seedling.define(*self.definitions)
            # The API server deletes its lease when it stops: in other clusters, it is not a peer.
            seedling.processes.end("kube-apiserver")
            seedling.processes.end("etcd")
            copy(seedling._data, target)

    def _start_api_server(self) -> None:
        """Start etcd with the existing data, and the API server."""
        etcd_port, peer_port, port = free_ports(3)
        self.server = f"https://127.0.0.1:{port}"
        self._ca_file = self._write("ca.crt", self.ca)
        # Containers on this machine do not connect to the loopback address. They verify the name that all pods use.
        serving = self._files(
            "apiserver",
            self._authority.server("kube-apiserver", "127.0.0.1", "localhost", "kubernetes.default.svc"),
        )
        etcd_serving = self._files("etcd", self._authority.server("etcd", "127.0.0.1"))
        etcd_client = self._files("etcd-client", self._authority.client("kube-apiserver"))
        self._service_account_key = self._files("service-account", self._authority.client("service-account-signer"))[1]
        kubelet_client = self._files("kubelet-client", self._authority.client("kube-apiserver-kubelet-client"))
        audit_policy = self._write("audit-policy.yaml", yaml.safe_dump(AUDIT_POLICY))
        webhook_client = self._files("webhook-client", self._authority.client("kube-apiserver"))
        admission = self._admission_configuration(*webhook_client)

        etcd_url = f"https://127.0.0.1:{etcd_port}"
        self._start_program(
            "etcd",
            [
                str(self.bin / "etcd"),
                f"--data-dir={self._data}",
                f"--listen-client-urls={etcd_url}",
                f"--advertise-client-urls={etcd_url}",
                f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
                f"--initial-cluster=default=http://127.0.0.1:{peer_port}",
                f"--cert-file={etcd_serving[0]}",
                f"--key-file={etcd_serving[1]}",
                f"--trusted-ca-file={self._ca_file}",
                "--client-cert-auth",
                # Durability is not needed here, and a sync for each write would be slow.
                "--unsafe-no-fsync",
            ],
        )
        self._start_program(
            "kube-apiserver",
            [
                # For the relative path of the socket.
                "env",
                f"--chdir={self.directory}",
                str(self.bin / "kube-apiserver"),
                f"--etcd-servers={etcd_url}",
                f"--etcd-cafile={self._ca_file}",
                f"--etcd-certfile={etcd_client[0]}",
                f"--etcd-keyfile={etcd_client[1]}",
                "--bind-address=0.0.0.0",
                f"--secure-port={port}",
                "--endpoint-reconciler-type=none",
                # Disabled by default. Older API servers serve only these versions.
                "--runtime-config=admissionregistration.k8s.io/v1beta1=true,admissionregistration.k8s.io/v1alpha1=true",
                f"--tls-cert-file={serving[0]}",
                f"--tls-private-key-file={serving[1]}",
                f"--client-ca-file={self._ca_file}",
                # It reads the logs of containers from kubelet.py.
                f"--kubelet-client-certificate={kubelet_client[0]}",
                f"--kubelet-client-key={kubelet_client[1]}",
                f"--admission-control-config-file={admission}",
                "--anonymous-auth=false",
                "--authorization-mode=Node,RBAC",
                f"--service-cluster-ip-range={SERVICE_NETWORK}",
                f"--service-account-issuer={self.issuer}",
                f"--api-audiences={API_AUDIENCE}",
                f"--service-account-key-file={self._service_account_key}",
                f"--service-account-signing-key-file={self._service_account_key}",
                "--enable-aggregator-routing=true",
                "--allow-privileged=true",
                # End watches when it stops. By default it waits a minute for them to end.
                "--shutdown-watch-termination-grace-period=1s",
                f"--audit-log-path={self.audit_log}",
                f"--audit-policy-file={audit_policy}",
                *self._egress_selector(),
            ],
        )
        self._client = Client(str(self.user_kubeconfig("admin", "system:masters")))
        self._wait_for_api_server()

    def _start_controllers(self) -> None:
        scheduler_port, manager_port = free_ports(2)
        ca_key_file = self._write("ca.key", self._authority.pair.key)
        self._start_program(
            "kube-controller-manager",
            [
                str(self.bin / "kube-controller-manager"),
                f"--kubeconfig={self.user_kubeconfig('system:kube-controller-manager')}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--secure-port={manager_port}",
                "--use-service-account-credentials=true",
                # With the default of 20 requests a second, hundreds of new nodes become usable only after minutes.
                "--kube-api-qps=400",
                "--kube-api-burst=800",
                # After a minute by default, a node that never reports its status gets the condition Ready=Unknown.
                # Those of some tests have no kubelet.
                "--node-startup-grace-period=1h",
                f"--root-ca-file={self._ca_file}",
                f"--service-account-private-key-file={self._service_account_key}",
                f"--cluster-signing-cert-file={self._ca_file}",
                f"--cluster-signing-key-file={ca_key_file}",
            ],
        )
        self._start_program(
            "kube-scheduler",
            [
                str(self.bin / "kube-scheduler"),
                f"--kubeconfig={self.user_kubeconfig('system:kube-scheduler')}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--secure-port={scheduler_port}",
            ],
        )
        ((key, value),) = FAKE_NODE_ANNOTATION.items()
        self._start_program(
            "kwok",
            [
                str(self.bin / "kwok"),
                f"--kubeconfig={self.user_kubeconfig('kwok', 'system:masters')}",
                # The stages that kwok simulates. None of them writes the capacity of a node, which the node-capacity
                # agent does.
                *(f"--config={stage}" for stage in sorted(Path(__file__).with_name("kwok").iterdir())),
                f"--manage-nodes-with-annotation-selector={key}={value}",
                "--node-lease-duration-seconds=40",
            ],
        )
        # Pods cannot be created before the service account of their namespace exists.
        wait_for(
            "the default service account",
            lambda: self.get("serviceaccounts", "--field-selector=metadata.name=default")["items"],
            seconds=START_SECONDS,
        )
        self.processes.check_alive()

    def _egress_selector(self) -> list[str]:
        """See Set up Konnectivity service in the documentation of Kubernetes."""
        if not self.has_pod_network:
            return []
        # Relative: the path of a Unix socket has 107 bytes at most.
        transport = {"uds": {"udsName": SOCKET}}
        connection = {"proxyProtocol": "HTTPConnect", "transport": transport}
        configuration = {
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [{"name": "cluster", "connection": connection}],
        }
        path = self._write("egress-selector.yaml", yaml.safe_dump(configuration))
        return [f"--egress-selector-config-file={path}"]

    def _admission_configuration(self, certificate_file: str, key_file: str) -> str:
        """The configuration of the client certificate that the API server presents to webhooks.

        See Dynamic Admission Control, Authenticate API servers, in the documentation of Kubernetes.
        """
        user = {"client-certificate": certificate_file, "client-key": key_file}
        webhooks = f"*.{CLIENT_CERTIFICATE_NAMESPACE}.svc"
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "users": [{"name": webhooks, "user": user}],
        }
        configuration = {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AdmissionConfiguration",
            "plugins": [
                {
                    "name": "MutatingAdmissionWebhook",
                    "configuration": {
                        "apiVersion": "apiserver.config.k8s.io/v1",
                        "kind": "WebhookAdmissionConfiguration",
                        "kubeConfigFile": self._write("webhooks.kubeconfig", yaml.safe_dump(kubeconfig)),
                    },
                }
            ],
        }
        return self._write("admission.yaml", yaml.safe_dump(configuration))

    def _wait_for_api_server(self) -> None:
        wait_for("the API server's /readyz", self._ready, seconds=START_SECONDS)

    def _ready(self) -> bool:
        self.processes.check_alive()
        context = ssl.create_default_context(cafile=self._ca_file)
        context.load_cert_chain(self.directory / "admin.crt", self.directory / "admin.key")
        try:
            with urllib.request.urlopen(f"{self.server}/readyz", context=context, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _files(self, name: str, pair: KeyPair) -> tuple[str, str]:
        return self._write(f"{name}.crt", pair.certificate), self._write(f"{name}.key", pair.key)

    def _write(self, name: str | Path, content: str | bytes) -> str:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)


class _Seedling(Cluster):
    """Only etcd and the API server, without data of another cluster."""

    def _start(self) -> None:
        self._start_api_server()


def _kubeconfig(server: str, ca_file: str, certificate_file: str, key_file: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": ca_file}}],
        "users": [
            {
                "name": "user",
                "user": {"client-certificate": certificate_file, "client-key": key_file},
            }
        ],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
