"""The jobs that only use Kubernetes, and the tasks with which contenders on any cloud read it."""

from __future__ import annotations

from tests import documented
from tests.cluster import openshift
from tests.support import OPERATOR_NAMESPACE

from .contenders import DOCUMENTED, OURS, Contender, Job, World

WORKER = "node-role.kubernetes.io/worker"
CONFIG = ("peerpodconfig", "peerpodconfig-openshift", "-n", OPERATOR_NAMESPACE)
LIMIT_BEFORE, LIMIT = "10", "20"
WEBHOOK_NAMESPACE = WEBHOOK = "peerpods-webhook"
CONFIGURATION = ("mutatingwebhookconfiguration", WEBHOOK)


def k8s_info(register: str, api_version: str, kind: str, **options: object) -> dict:
    return {
        "kubernetes.core.k8s_info": {"api_version": api_version, "kind": kind, **options},
        "register": register,
    }


# The status of a node is not needed here, and is most of the output of a task.
NODES = k8s_info("nodes", "v1", "Node", label_selectors=[WORKER], hidden_fields=["status"])


def endpoint_slice() -> dict:
    """The ready endpoint that a webhook's Service needs before the registration."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": WEBHOOK,
            "namespace": WEBHOOK_NAMESPACE,
            "labels": {"kubernetes.io/service-name": WEBHOOK},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.10"], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": 9443}],
    }


def patched_limit() -> dict:
    definition = openshift.peer_pod_config("worker", LIMIT)
    return {
        "kubernetes.core.k8s": {
            "state": "patched",
            "definition": {**definition, "spec": {"limit": LIMIT}},
        }
    }


def registered_webhook() -> dict:
    service = {"namespace": WEBHOOK_NAMESPACE, "name": WEBHOOK, "path": "/mutate-v1-pod"}
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    not_in = {
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": ["kube-system", WEBHOOK_NAMESPACE],
    }
    only_peer_pods = "has(object.spec.runtimeClassName) && object.spec.runtimeClassName in {}"
    return {
        "kubernetes.core.k8s": {
            "definition": {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": WEBHOOK},
                "webhooks": [
                    {
                        "name": "mwebhook.peerpods.io",
                        "clientConfig": {"service": {**service, "port": 443}},
                        "rules": [{**rule, "scope": "*"}],
                        "namespaceSelector": {"matchExpressions": [not_in]},
                        "matchConditions": [
                            {
                                "name": "peer-pods-only",
                                "expression": only_peer_pods.format('["kata-remote"]'),
                            }
                        ],
                        "failurePolicy": "Fail",
                        "reinvocationPolicy": "IfNeeded",
                        "timeoutSeconds": 10,
                        "sideEffects": "None",
                        "admissionReviewVersions": ["v1"],
                    }
                ],
            }
        }
    }


def kubernetes_jobs(world: World) -> tuple[Job, ...]:
    config = f"{OURS}.peerpod_limit"
    return (
        Job(
            "read the cluster",
            (
                Contender(OURS, [{f"{OURS}.cluster_info": {}}]),
                Contender(
                    "kubernetes.core",
                    [
                        k8s_info("i", "config.openshift.io/v1", "Infrastructure", name="cluster"),
                        k8s_info("v", "config.openshift.io/v1", "ClusterVersion", name="version"),
                        NODES,
                    ],
                ),
                Contender(DOCUMENTED, script=documented.AWS_FACTS),
            ),
        ),
        Job(
            "set the limit",
            (
                Contender(OURS, [{config: {"limit": LIMIT}}]),
                Contender(
                    "kubernetes.core",
                    [
                        k8s_info("c", "confidentialcontainers.org/v1alpha1", "PeerPodConfig"),
                        NODES,
                        patched_limit(),
                    ],
                ),
                Contender("kubernetes.core, patch only", [patched_limit()]),
                Contender(DOCUMENTED, script=documented.limit(LIMIT)),
            ),
            lambda: world.cluster.merge("/".join(CONFIG[:2]), {"spec": {"limit": LIMIT_BEFORE}}, OPERATOR_NAMESPACE),
            lambda: world.cluster.get(*CONFIG)["spec"]["limit"] == LIMIT,
        ),
        Job(
            "register the webhook",
            (
                Contender(
                    OURS,
                    [{f"{OURS}.mutating_webhook": {"service": {"namespace": WEBHOOK_NAMESPACE, "name": WEBHOOK}}}],
                ),
                Contender(
                    "kubernetes.core",
                    [
                        k8s_info(
                            "e",
                            "discovery.k8s.io/v1",
                            "EndpointSlice",
                            namespace=WEBHOOK_NAMESPACE,
                            label_selectors=[f"kubernetes.io/service-name={WEBHOOK}"],
                        ),
                        registered_webhook(),
                    ],
                ),
                Contender("kubernetes.core, write only", [registered_webhook()]),
            ),
            lambda: world.cluster.delete(*CONFIGURATION, "--ignore-not-found"),
            lambda: len(world.cluster.get(*CONFIGURATION)["webhooks"]) == 1,
        ),
    )
