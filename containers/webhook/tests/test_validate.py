"""Resources that the API server rejects; test_webhook_differential.py compares them with an API server."""

from __future__ import annotations

import msgspec
import pytest

from peerpods_webhook.mutate import InvalidPodError, Pod, Policy, mutate
from peerpods_webhook.pod import PodSpec
from peerpods_webhook.validate import violations


def sentences(spec: dict) -> list[str]:
    return list(violations(msgspec.convert(spec, PodSpec)))


def one_container(**resources: dict) -> dict:
    return {"containers": [{"name": "app", "resources": resources}]}


def both(name: str, amount: str, **further: str) -> dict:
    return one_container(requests={name: amount, **further}, limits={name: amount, **further})


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"containers": [{"name": "app"}]},
        one_container(requests={"cpu": "1"}, limits={"cpu": "1"}),
        one_container(requests={"cpu": "500m", "ephemeral-storage": "1Gi"}),
        one_container(limits={"kubernetes.io/x": "500m"}),
        both("example.com/device", "2"),
        # The API server rounds up to thousandths.
        both("example.com/device", "0.9999"),
        both("hugepages-2Mi", "4Mi", cpu="1"),
        {**one_container(requests={"cpu": "1"}), "resources": {"requests": {"cpu": "1"}}},
        # The request of the pod is that of its containers by default.
        {**one_container(requests={"cpu": "1"}), "resources": {"limits": {"hugepages-2Mi": "2Mi"}}},
        {**both("hugepages-2Mi", "2Mi", cpu="1"), "resources": {"requests": {"memory": "1Gi"}}},
    ],
)
def test_valid_resources(spec):
    assert sentences(spec) == []


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            one_container(requests={"cpu": "2"}, limits={"cpu": "1"}),
            "container app: resources.requests[cpu] is more than the limit.",
        ),
        (
            one_container(requests={"example.com/device": "1"}),
            "container app: resources.requests[example.com/device] must be equal to the limit.",
        ),
        (
            one_container(requests={"example.com/device": "1"}, limits={"example.com/device": "2"}),
            "container app: resources.requests[example.com/device] must be equal to the limit.",
        ),
        (
            one_container(limits={"example.com/device": "1500m"}),
            "container app: resources.limits[example.com/device]: the amount is not a whole number.",
        ),
        (
            one_container(limits={"hugepages-2Mi": "3Mi", "cpu": "1"}),
            "container app: resources.limits[hugepages-2Mi]: the amount is not a multiple of the page size.",
        ),
        (both("hugepages-2Mi", "2Mi"), "container app: huge pages require a request or a limit of cpu or memory."),
        (
            one_container(limits={"hugepages-x": "1", "cpu": "1"}),
            "container app: resources.limits[hugepages-x]: the name has no page size.",
        ),
        (
            one_container(limits={"device": "1"}),
            (
                "container app: resources.limits[device]: the resource is not cpu, memory, ephemeral-storage or huge "
                "pages."
            ),
        ),
        (
            one_container(limits={"\0": "1"}),
            "container app: resources.limits['\\x00']: the name is not valid.",
        ),
        (
            one_container(limits={"requests.example.com/x": "1"}),
            "container app: resources.limits[requests.example.com/x]: the name is not that of an extended resource.",
        ),
        (
            one_container(requests={"ephemeral-storage": "-1"}),
            "container app: resources.requests[ephemeral-storage]: the amount is negative.",
        ),
        (
            {"containers": [], "resources": {"limits": {"ephemeral-storage": "1"}}},
            "spec: resources.limits[ephemeral-storage]: the resource is not cpu, memory or huge pages.",
        ),
        ({"containers": [], "resources": {"claims": []}}, "spec: resources.claims is not supported for a whole pod."),
        (
            {**one_container(requests={"cpu": "2"}), "resources": {"requests": {"cpu": "1"}}},
            "spec: resources.requests[cpu] is less than the requests of the containers.",
        ),
        (
            {**one_container(limits={"cpu": "2"}), "resources": {"limits": {"cpu": "1"}}},
            "spec: resources.limits[cpu] is less than that of container app.",
        ),
        (
            {**one_container(requests={"memory": "4Mi"}), "resources": {"limits": {"memory": "0"}}},
            "spec: resources.requests[memory] is more than the limit.",
        ),
    ],
)
def test_invalid_resources(spec, sentence):
    assert sentences(spec) == [sentence]


def test_an_invalid_pod_becomes_a_peer_pod_unless_resources_are_validated():
    spec = {"runtimeClassName": "kata-remote", **one_container(requests={"cpu": "2"}, limits={"cpu": "1"})}
    pod = msgspec.convert({"spec": spec}, Pod)
    assert b"default_vcpus" in mutate(pod, Policy())
    with pytest.raises(InvalidPodError, match=r"^container app: resources.requests\[cpu\] is more than the limit\.$"):
        mutate(pod, Policy.from_env({"VALIDATE_RESOURCES": "true"}))
