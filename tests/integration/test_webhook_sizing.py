"""`SIZING=kubernetes` compared with the API server's own sum: the amount that a ResourceQuota charges for a pod."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator

import msgspec
import pytest
from kubernetes.utils.quantity import parse_quantity

from tests.cluster.launcher import Cluster
from tests.cluster.webhook import SOURCE

sys.path.insert(0, str(SOURCE))

from peerpods_webhook.mutate import Pod, Policy, Sizing, mutate

NAMESPACE = "sizing"
PODS = 60
VCPUS = "io.katacontainers.config.hypervisor.default_vcpus"


def container(draw: random.Random, name: str, **fields: str) -> dict:
    cpu = f"{draw.randint(1, 5)}"
    return {
        "name": name,
        "image": "registry.example.com/app:1",
        "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}},
        **fields,
    }


def pod(draw: random.Random, number: int) -> dict:
    of_pod = {"resources": {"requests": {"cpu": "40"}, "limits": {"cpu": "40"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{number}", "namespace": NAMESPACE},
        "spec": {
            # No scheduler has this name: the pod stays pending.
            "schedulerName": "none",
            "containers": [container(draw, f"app-{n}") for n in range(draw.randint(1, 3))],
            "initContainers": [
                container(draw, f"init-{n}", **({"restartPolicy": "Always"} if draw.random() < 0.5 else {}))
                for n in range(draw.randint(0, 4))
            ],
            **(of_pod if draw.random() < 0.2 else {}),
        },
    }


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[None]:
    """A namespace with a quota that counts the CPU of its pods."""
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "all", "namespace": NAMESPACE},
            "spec": {"hard": {"requests.cpu": "100k"}},
        },
    )
    cluster.kubectl("wait", "-n", NAMESPACE, "resourcequota/all", "--for=jsonpath={.status.used}")
    yield
    cluster.delete("namespace", "--wait=false", NAMESPACE)


@pytest.mark.usefixtures("namespace")
def test_the_size_is_the_amount_that_a_quota_charges(cluster: Cluster):
    policy = Policy(frozenset({""}), sizing=Sizing.KUBERNETES)
    draw = random.Random(7)
    charged = []
    for number in range(PODS):
        manifest = pod(draw, number)
        cluster.apply(manifest)
        quota = cluster.get("-n", NAMESPACE, "resourcequota", "all")
        charged.append((manifest, parse_quantity(quota["status"]["used"]["requests.cpu"])))
    before = 0
    for manifest, used in charged:
        manifest["spec"]["runtimeClassName"] = ""
        patch = json.loads(mutate(msgspec.convert(manifest, Pod), policy))
        assert patch[0]["path"] == "/metadata/annotations"
        assert int(patch[0]["value"][VCPUS]) == used - before, manifest
        before = used
