"""Makes a bare Kubernetes API look like an OpenShift 4 cluster on AWS or Azure without peer pods."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tests.support import OPERATOR_NAMESPACE

from .binaries import source
from .launcher import FAKE_NODE_ANNOTATION, Cluster
from .pod_network import SOCKET
from .processes import START_SECONDS, free_ports, wait_for

VERSION = "4.16.21"
INFRASTRUCTURE_NAME = "demo-7x2kq"
CLUSTER_ID = "0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11"

# The region of workers that do not exist in a cloud.
IMAGINED_REGION = {"aws": "eu-central-1", "azure": "westeurope"}

# The environment of child processes that run modules of this repository.
PYTHON = {"PYTHONPATH": str(Path(__file__).parents[2])}

# The go.mod that pins the modules with the published CustomResourceDefinitions.
DEFINITIONS = Path(__file__).parents[1] / "definitions"

# The node that runs pods for real: this machine (tests/cluster/kubelet.py).
CONTROL_PLANE_NODE = "control-plane-0"

# The annotations of the machine config daemon on an up-to-date worker node.
CONFIGURED = {
    "machineconfiguration.openshift.io/currentConfig": "rendered-worker-0",
    "machineconfiguration.openshift.io/desiredConfig": "rendered-worker-0",
    "machineconfiguration.openshift.io/state": "Done",
}

NAMESPACES = (
    "openshift",
    "openshift-cloud-credential-operator",
    "openshift-config",
    "openshift-machine-api",
    "openshift-machine-config-operator",
    "openshift-marketplace",
    "openshift-operator-lifecycle-manager",
    "openshift-service-ca",
)


@dataclass(frozen=True)
class Worker:
    """A worker node: its name, its provider ID, and its location."""

    name: str
    provider_id: str | None
    zone: str
    instance_type: str
    internal_ip: str


def imagined_workers(count: int, cloud: str = "aws") -> tuple[Worker, ...]:
    """Workers whose instances do not exist, for a cluster without a cloud."""
    imagine = {"aws": _imagined_instance, "azure": _imagined_virtual_machine}[cloud]
    return tuple(imagine(IMAGINED_REGION[cloud], index) for index in range(10, 10 + count))


def _imagined_instance(region: str, index: int) -> Worker:
    zone = f"{region}{'abc'[index % 3]}"
    return Worker(
        name=f"ip-10-0-{index // 256}-{index % 256}.{region}.compute.internal",
        provider_id=f"aws:///{zone}/i-{index:017x}",
        zone=zone,
        instance_type="m6i.2xlarge",
        internal_ip=f"10.0.{index // 256}.{index % 256}",
    )


def _imagined_virtual_machine(region: str, index: int) -> Worker:
    name = f"{INFRASTRUCTURE_NAME}-worker-{region}{index % 3 + 1}-{index:05x}"
    return Worker(
        name=name,
        provider_id=(
            f"azure:///subscriptions/{UUID(int=0)}/resourceGroups/{INFRASTRUCTURE_NAME}-rg"
            f"/providers/Microsoft.Compute/virtualMachines/{name}"
        ),
        zone=f"{region}-{index % 3 + 1}",
        instance_type="Standard_D8s_v3",
        internal_ip=f"10.0.{index // 256}.{index % 256}",
    )


def azure_status(resource_group: str, network_resource_group: str | None = None) -> dict:
    """The Infrastructure's status.platformStatus on Azure, for `fill`."""
    return {
        "type": "Azure",
        "azure": {
            "resourceGroupName": resource_group,
            "networkResourceGroupName": network_resource_group or resource_group,
            "cloudName": "AzurePublicCloud",
        },
    }


def definitions(*, peer_pod_configs: bool = True) -> list[Path]:
    """The CustomResourceDefinitions that an installer leaves behind.

    That of PeerPodConfigs comes with an operator up to 1.8; `peer_pod_configs` installs it without one.
    """
    transcribed = sorted(Path(__file__).with_name("crds").iterdir())
    if not peer_pod_configs:
        transcribed = [file for file in transcribed if not file.name.startswith("peerpodconfigs")]
    return [*transcribed, *_published()]


def fill(
    cluster: Cluster,
    workers: tuple[Worker, ...],
    region: str,
    platform_status: dict | None = None,
) -> None:
    """Create the objects that an installer leaves behind, in a cluster with `definitions`.

    `platform_status` is that of the Infrastructure; the default is AWS in `region`.
    """
    platform = platform_status or {"type": "AWS", "aws": {"region": region}}
    cluster.apply(
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in NAMESPACES),
        *(node(worker, region) for worker in workers),
        _infrastructure(platform["type"]),
        _cluster_version(),
        *_credential_settings(),
        _of_cluster("Proxy", {"trustedCA": {"name": ""}}),
        _of_cluster("OperatorHub", {}),
        _catalog_source(),
        *(_machine_config_pool(role) for role in ("master", "worker")),
        _security_context_constraints("restricted-v2", privileged=False),
        _security_context_constraints("privileged", privileged=True),
    )
    set_status(
        cluster,
        "infrastructure/cluster",
        {
            "infrastructureName": INFRASTRUCTURE_NAME,
            "apiServerURL": cluster.server,
            "apiServerInternalURI": cluster.server,
            "controlPlaneTopology": "HighlyAvailable",
            "infrastructureTopology": "HighlyAvailable",
            "platform": platform["type"],
            "platformStatus": platform,
        },
    )
    set_status(
        cluster,
        "clusterversion/version",
        {
            "desired": {"version": VERSION, "image": "release"},
            "history": [
                {
                    "state": "Completed",
                    "version": VERSION,
                    "image": "release",
                    "verified": True,
                    "startedTime": "2024-11-04T08:00:00Z",
                    "completionTime": "2024-11-04T08:41:00Z",
                }
            ],
            "availableUpdates": [],
            "observedGeneration": 1,
            "versionHash": "hash",
        },
    )
    for role, count in (("master", 3), ("worker", len(workers))):
        set_status(
            cluster,
            f"machineconfigpool/{role}",
            {
                "machineCount": count,
                "updatedMachineCount": count,
                "readyMachineCount": count,
                "unavailableMachineCount": 0,
                "degradedMachineCount": 0,
            },
        )


def start_stand_ins(
    cluster: Cluster,
    runtime: str,
    operator: str = "1.8",
    *,
    webhook_image: str = "",
    cloud_environment: dict[str, str] | None = None,
) -> None:
    """Start the controllers of the cluster (operators.py), the cloud-api-adaptors (adaptor.py) and the real node
    (kubelet.py).

    The head of the channel `stable` is the release `operator`, which deploys its own webhook only with `webhook_image`:
    an image of containers/webhook, or "webhook:source" if pods run as processes. With `cloud_environment`, the
    variables of a client of a cloud, an image job creates an image in it, where it otherwise invents one; and on a
    cluster that `has_pod_network`, peer pods have VMs in it.
    """
    kubeconfig = str(cluster.user_kubeconfig("cluster-operators", "system:masters"))
    webhook = ["--webhook", webhook_image, *map(str, free_ports(2))] if webhook_image else []
    cluster.processes.start(
        "operators",
        [sys.executable, "-m", "tests.cluster.operators", kubeconfig, operator, *webhook],
        environment=PYTHON,
    )
    start_adaptor(cluster, kubeconfig, cloud_environment if cluster.has_pod_network else None)
    start_kubelet(cluster, runtime, cloud_environment)

    def has_catalog() -> bool:
        cluster.processes.check_alive()
        return bool(cluster.get("packagemanifests", "-A")["items"]) or not cluster.get("catalogsources", "-A")["items"]

    # Preflight does not wait for it: the catalog of a cluster that runs is ready.
    wait_for("the catalog", has_catalog, seconds=START_SECONDS)


def start_adaptor(cluster: Cluster, kubeconfig: str, cloud_environment: dict[str, str] | None = None) -> None:
    """Start the cloud-api-adaptors (adaptor.py), and wait for the pod network."""
    cluster.processes.start(
        "adaptor",
        [
            sys.executable,
            "-m",
            "tests.cluster.adaptor",
            kubeconfig,
            *([str(cluster.directory)] if cloud_environment else []),
        ],
        environment={**PYTHON, **(cloud_environment or {})},
    )
    if cloud_environment:

        def has_socket() -> bool:
            cluster.processes.check_alive()
            return (cluster.directory / SOCKET).exists()

        wait_for("the pod network", has_socket, seconds=START_SECONDS)


# The variables that name a cloud on this machine. Its credentials come from the Secret of a pod.
ENDPOINTS = ("AWS_ENDPOINT_URL", "AZURE_CLOUD_ENVIRONMENT", "REQUESTS_CA_BUNDLE")


def start_kubelet(cluster: Cluster, runtime: str, cloud_environment: dict[str, str] | None = None) -> None:
    """Start the real node (kubelet.py), which runs pods with podman or as processes."""
    cluster.processes.start(
        "kubelet",
        [
            sys.executable,
            "-m",
            "tests.cluster.kubelet",
            f"--node={CONTROL_PLANE_NODE}",
            f"--kubeconfig={cluster.user_kubeconfig(f'system:node:{CONTROL_PLANE_NODE}', 'system:nodes')}",
            f"--directory={cluster.directory / 'pods'}",
            f"--runtime={runtime}",
        ],
        environment={**PYTHON, **{key: value for key, value in (cloud_environment or {}).items() if key in ENDPOINTS}},
        death_signal="TERM",
    )

    def ready() -> bool:
        """Whether Kubernetes is done with new nodes: it completes their labels and removes the taint of their start."""
        cluster.processes.check_alive()
        nodes = {node["metadata"]["name"]: node for node in cluster.get("nodes")["items"]}
        return CONTROL_PLANE_NODE in nodes and all(
            "beta.kubernetes.io/os" in node["metadata"]["labels"]
            and not any(taint["key"] == "node.kubernetes.io/not-ready" for taint in node["spec"].get("taints", []))
            for node in nodes.values()
        )

    wait_for("the nodes", ready, seconds=START_SECONDS)


def set_status(cluster: Cluster, name: str, status: dict, namespace: str = "default") -> None:
    cluster.merge(name, {"status": status}, namespace, subresource="status")


def remove_pods(cluster: Cluster, namespace: str = "default") -> None:
    """Delete all pods of a namespace, also where there is no kubelet that ends them."""
    cluster.delete("pods", "--all", "-n", namespace, "--force", "--grace-period=0")


def wait_for_scheduler(cluster: Cluster, pod: str, namespace: str) -> None:
    """Wait until the scheduler has looked for a node for the pod."""
    wait_for(
        "the scheduler to have looked",
        lambda: cluster.get("pod", pod, "-n", namespace)["status"].get("conditions"),
        seconds=30,
    )


def monitoring(cluster: Cluster) -> None:
    """Install the CustomResourceDefinitions of Prometheus' operator."""
    files = source(DEFINITIONS, "github.com/prometheus-operator/prometheus-operator")
    cluster.define(files / "example" / "prometheus-operator-crd")


def _published() -> Iterator[Path]:
    """The CustomResourceDefinitions of OpenShift and OLM in a cluster without peer pods."""
    openshift = source(DEFINITIONS, "github.com/openshift/api")
    for file in (
        "config/v1/{}/0000_00_cluster-version-operator_01_clusterversions-Default.crd.yaml",
        "config/v1/{}/0000_10_config-operator_01_apiservers.crd.yaml",
        "config/v1/{}/0000_10_config-operator_01_authentications-SelfManagedHA-Default.crd.yaml",
        "config/v1/{}/0000_10_config-operator_01_imagedigestmirrorsets.crd.yaml",
        "config/v1/{}/0000_10_config-operator_01_infrastructures-Default.crd.yaml",
        "config/v1/{}/0000_03_config-operator_01_proxies.crd.yaml",
        "config/v1/{}/0000_03_marketplace_01_operatorhubs.crd.yaml",
        "machineconfiguration/v1/{}/0000_80_machine-config_01_machineconfigpools-Default.crd.yaml",
        "operator/v1/{}/0000_40_cloud-credential_00_cloudcredentials.crd.yaml",
        "machineconfiguration/v1/{}/0000_80_machine-config_01_machineconfigs.crd.yaml",
        "operator/v1alpha1/{}/0000_10_config-operator_01_imagecontentsourcepolicies.crd.yaml",
        "security/v1/{}/0000_03_config-operator_01_securitycontextconstraints.crd.yaml",
    ):
        yield openshift / file.format("zz_generated.crd-manifests")
    yield source(DEFINITIONS, "github.com/operator-framework/api") / "crds"


def custom_resource(cluster: Cluster, group: str, kind: str, *, scope: str = "Namespaced", version: str = "v1") -> None:
    """Define a kind without a schema."""
    plural = f"{kind.lower()}s"
    cluster.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {
                "group": group,
                "scope": scope,
                "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                "versions": [
                    {
                        "name": version,
                        "served": True,
                        "storage": True,
                        "subresources": {"status": {}},
                        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                ],
            },
        }
    )
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{plural}.{group}", "--timeout=30s")


def node(worker: Worker, region: str) -> dict:
    resources = {"cpu": "8", "memory": "32Gi", "pods": "250", "ephemeral-storage": "120Gi"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": worker.name,
            "annotations": {**FAKE_NODE_ANNOTATION, **CONFIGURED},
            "labels": {
                "kubernetes.io/hostname": worker.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "node-role.kubernetes.io/worker": "",
                "node.kubernetes.io/instance-type": worker.instance_type,
                "topology.kubernetes.io/region": region,
                "topology.kubernetes.io/zone": worker.zone,
            },
        },
        "spec": {"providerID": worker.provider_id} if worker.provider_id else {},
        "status": {
            "addresses": [{"type": "InternalIP", "address": worker.internal_ip}],
            "capacity": resources,
            "allocatable": resources,
        },
    }


# The settings that the operator requires before it creates or deletes an image of the pod VMs (operators.py).
POD_VM_SETTINGS = {
    "CLOUD_PROVIDER": "aws",
    "AWS_REGION": "eu-central-1",
    "AWS_VPC_ID": "vpc-0",
    "AWS_SUBNET_ID": "subnet-0",
    "AWS_SG_IDS": "sg-0",
}
POD_VM_CREDENTIALS = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "peer-pods-secret", "namespace": OPERATOR_NAMESPACE},
    "stringData": {"AWS_ACCESS_KEY_ID": "AKIA0", "AWS_SECRET_ACCESS_KEY": "secret"},
}


def subscription(start: str | None = None, approval: str = "Automatic") -> list[dict]:
    """The objects that an administrator applies to install the operator, in that version or the newest of the
    channel."""
    metadata = {"name": "sandboxed-containers-operator", "namespace": OPERATOR_NAMESPACE}
    starting = {"startingCSV": f"sandboxed-containers-operator.v{start}"} if start else {}
    return [
        {
            "apiVersion": "operators.coreos.com/v1",
            "kind": "OperatorGroup",
            "metadata": metadata,
            "spec": {"targetNamespaces": [OPERATOR_NAMESPACE]},
        },
        {
            "apiVersion": "operators.coreos.com/v1alpha1",
            "kind": "Subscription",
            "metadata": metadata,
            "spec": {
                "name": "sandboxed-containers-operator",
                "channel": "stable",
                "source": "redhat-operators",
                "sourceNamespace": "openshift-marketplace",
                "installPlanApproval": approval,
                **starting,
            },
        },
    ]


def peer_pod_config(role: str = "kata-oc", limit: str = "10") -> dict:
    """The PeerPodConfig as the operator creates it; it selects the nodes with the label of `role`."""
    return {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPodConfig",
        "metadata": {"name": "peerpodconfig-openshift", "namespace": OPERATOR_NAMESPACE},
        "spec": {
            "cloudSecretName": "peer-pods-secret",
            "configMapName": "peer-pods-cm",
            "limit": limit,
            "nodeSelector": {f"node-role.kubernetes.io/{role}": ""},
        },
    }


def _infrastructure(platform: str) -> dict:
    return {
        "apiVersion": "config.openshift.io/v1",
        "kind": "Infrastructure",
        "metadata": {"name": "cluster"},
        "spec": {"platformSpec": {"type": platform, platform.lower(): {}}},
    }


def _of_cluster(kind: str, spec: dict) -> dict:
    """An object of which the installer creates one, with the name `cluster`."""
    return {"apiVersion": "config.openshift.io/v1", "kind": kind, "metadata": {"name": "cluster"}, "spec": spec}


def _cluster_version() -> dict:
    return {
        "apiVersion": "config.openshift.io/v1",
        "kind": "ClusterVersion",
        "metadata": {"name": "version"},
        "spec": {
            "channel": "stable-" + VERSION.rpartition(".")[0],
            "clusterID": CLUSTER_ID,
        },
    }


def _credential_settings() -> Iterator[dict]:
    """The settings of an installation without short-lived credentials, as the installer creates them."""
    yield {
        "apiVersion": "operator.openshift.io/v1",
        "kind": "CloudCredential",
        "metadata": {"name": "cluster"},
        "spec": {
            "credentialsMode": "",
            "logLevel": "Normal",
            "managementState": "Managed",
            "operatorLogLevel": "Normal",
        },
    }
    yield {
        "apiVersion": "config.openshift.io/v1",
        "kind": "Authentication",
        "metadata": {"name": "cluster"},
        "spec": {"serviceAccountIssuer": ""},
    }


def use_tokens(cluster: Cluster, issuer: str) -> None:
    """The settings of an installation with short-lived credentials of ccoctl."""
    cluster.merge("cloudcredential/cluster", {"spec": {"credentialsMode": "Manual"}})
    cluster.merge("authentication/cluster", {"spec": {"serviceAccountIssuer": issuer}})


def use_root_credential(cluster: Cluster) -> None:
    """The settings of `fill` again."""
    cluster.merge("cloudcredential/cluster", {"spec": {"credentialsMode": ""}})
    cluster.merge("authentication/cluster", {"spec": {"serviceAccountIssuer": ""}})


def _catalog_source() -> dict:
    return {
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "CatalogSource",
        "metadata": {"name": "redhat-operators", "namespace": "openshift-marketplace"},
        "spec": {
            "sourceType": "grpc",
            "displayName": "Red Hat Operators",
            "publisher": "Red Hat",
            "image": "redhat-operator-index:v" + VERSION.rpartition(".")[0],
        },
    }


def _machine_config_pool(role: str) -> dict:
    return {
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfigPool",
        "metadata": {"name": role},
        "spec": {
            "paused": False,
            "machineConfigSelector": {"matchLabels": {"machineconfiguration.openshift.io/role": role}},
            "nodeSelector": {"matchLabels": {f"node-role.kubernetes.io/{role}": ""}},
        },
    }


def _security_context_constraints(name: str, *, privileged: bool) -> dict:
    allowed = {
        f"allow{permission}": privileged
        for permission in (
            "HostDirVolumePlugin",
            "HostIPC",
            "HostNetwork",
            "HostPID",
            "HostPorts",
            "PrivilegeEscalation",
            "PrivilegedContainer",
        )
    }
    return {
        "apiVersion": "security.openshift.io/v1",
        "kind": "SecurityContextConstraints",
        "metadata": {"name": name},
        **allowed,
        "allowedCapabilities": ["*"] if privileged else ["NET_BIND_SERVICE"],
        "defaultAddCapabilities": [],
        "requiredDropCapabilities": [] if privileged else ["ALL"],
        "priority": 0,
        "readOnlyRootFilesystem": False,
        "groups": [] if privileged else ["system:authenticated"],
        "users": [],
        "volumes": ["*"] if privileged else ["configMap", "emptyDir", "projected", "secret"],
    }
