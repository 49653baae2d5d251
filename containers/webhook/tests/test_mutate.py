"""Applies the patch for a pod and compares the result with the expected peer pod."""

from __future__ import annotations

import copy
import json
import math
from fractions import Fraction

import jsonpatch
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity

from peerpods_webhook.mutate import MAX_CACHED_BYTES, InvalidPodError, Pod, Policy, Sizing, mutate

VM = {"limits": {"kata.peerpods.io/vm": "1"}, "requests": {"kata.peerpods.io/vm": "1"}}
VCPUS = "io.katacontainers.config.hypervisor.default_vcpus"
MEMORY = "io.katacontainers.config.hypervisor.default_memory"
GPUS = "io.katacontainers.config.hypervisor.default_gpus"
MACHINE_TYPE = "io.katacontainers.config.hypervisor.machine_type"

DEFAULT = Policy()


def patch_for(pod: dict, policy: Policy = DEFAULT) -> list[dict]:
    return json.loads(mutate(msgspec.convert(pod, Pod), policy) or b"[]")


def mutated(pod: dict, policy: Policy = DEFAULT) -> dict:
    return jsonpatch.apply_patch(copy.deepcopy(pod), patch_for(pod, policy))


def container(name: str, requests=None, limits=None, **fields) -> dict:
    amounts = {"requests": requests, "limits": limits}
    return {
        "name": name,
        "image": "example/app",
        "resources": {side: value for side, value in amounts.items() if value is not None},
        **fields,
    }


def pod(*containers: dict, init=(), annotations=None, runtime_class="kata-remote", **spec) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "demo-", "annotations": annotations}
        if annotations is not None
        else {"generateName": "demo-"},
        "spec": {
            "runtimeClassName": runtime_class,
            "containers": list(containers),
            **({"initContainers": list(init)} if init else {}),
            **spec,
        },
    }


@pytest.mark.parametrize("runtime_class", ["kata", "kata-remote-2", "KATA-REMOTE", "", None])
def test_pods_of_other_runtime_classes_are_unchanged(runtime_class):
    assert patch_for(pod(container("app", {"cpu": "1"}), runtime_class=runtime_class)) == []


def test_pods_without_a_runtime_class_are_unchanged():
    ordinary = pod(container("app", {"cpu": "no quantity"}))
    del ordinary["spec"]["runtimeClassName"]
    assert patch_for(ordinary) == []


# Requests and limits of containers and init containers, and the sizes that upstream's webhook
# writes for them: the limit if the sum of limits is at least the sum of requests.
SIZES = {
    "limits above requests": (
        [({"cpu": "2", "memory": "4Gi"}, {"cpu": "3", "memory": "5Gi"})],
        [],
        {VCPUS: "3", MEMORY: "5120"},
    ),
    "requests only": ([({"cpu": "2"}, {})], [], {VCPUS: "2"}),
    "memory only": ([({"memory": "4Gi"}, {})], [], {MEMORY: "4096"}),
    "gpu": (
        [({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "1"})],
        [({"nvidia.com/gpu": "2"}, {"nvidia.com/gpu": "2"})],
        {GPUS: "3"},
    ),
    "nothing requested": ([({}, {})], [], {}),
    "less than one vcpu": ([({"cpu": "200m"}, {"cpu": "500m"})], [], {VCPUS: "1"}),
    "between two vcpus": ([({"cpu": "200m"}, {"cpu": "1500m"})], [], {VCPUS: "2"}),
    "a byte above a mebibyte": ([({"memory": "1048577"}, {})], [], {MEMORY: "2"}),
    "a thousandth of a byte": ([({"memory": "1m"}, {})], [], {MEMORY: "1"}),
    "rounded once, after the sum": (
        [({"cpu": "500m"}, {}), ({"cpu": "250m"}, {})],
        [({"cpu": "250m"}, {})],
        {VCPUS: "1"},
    ),
    "init containers add up": (
        [({"cpu": "200m", "memory": "4Gi"}, {"cpu": "0.5", "memory": "4Gi"})],
        [({"cpu": "200m", "memory": "4Gi"}, {"cpu": "0.7", "memory": "4Gi"})],
        {VCPUS: "2", MEMORY: "8192"},
    ),
    "limits of one container only, below all requests": (
        [({"cpu": "1"}, {"cpu": "2"}), ({"cpu": "4"}, {})],
        [],
        {VCPUS: "5"},
    ),
    "limits of one container only, above all requests": (
        [({"cpu": "1"}, {"cpu": "8"}), ({"cpu": "4"}, {})],
        [],
        {VCPUS: "8"},
    ),
    "a limit with no request": ([({}, {"cpu": "2"})], [], {}),
    "a limit with a request of zero": ([({"cpu": "0"}, {"cpu": "2"})], [], {}),
    "other resources": (
        [({"ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi"}, {"hugepages-2Mi": "4Mi"})],
        [],
        {},
    ),
    "exponents and decimals": (
        [({"cpu": "1e3", "memory": "0.5Gi"}, {})],
        [],
        {VCPUS: "1000", MEMORY: "512"},
    ),
    "numbers": ([({"cpu": 0.5, "memory": 3145728}, {})], [], {VCPUS: "1", MEMORY: "3"}),
}


@pytest.mark.parametrize(("containers", "init", "sizes"), SIZES.values(), ids=SIZES.keys())
def test_sizes(containers, init, sizes):
    given_pod = pod(
        *(container(f"c{i}", *amounts) for i, amounts in enumerate(containers)),
        init=[container(f"i{i}", *amounts) for i, amounts in enumerate(init)],
    )
    assert mutated(given_pod)["metadata"].get("annotations", {}) == sizes


def init(cpu: str, sidecar: bool = False) -> dict:
    return container("init", {"cpu": cpu}, **({"restartPolicy": "Always"} if sidecar else {}))


# Init containers in addition to a container of 2 CPUs, and the CPUs for both kinds of sizing.
SIZINGS = {
    "none": ([], 2, 2),
    "smaller than the containers": ([init("1"), init("1")], 4, 2),
    "the largest, larger than the containers": ([init("3"), init("5"), init("1")], 11, 5),
    "sidecars keep running": ([init("1", sidecar=True), init("1", sidecar=True)], 4, 4),
    "in addition to the sidecars started earlier": (
        [init("4"), init("1", sidecar=True), init("4"), init("1", sidecar=True)],
        12,
        5,
    ),
}


@pytest.mark.parametrize(("inits", "upstream", "kubernetes"), SIZINGS.values(), ids=SIZINGS.keys())
def test_sizing(inits, upstream, kubernetes):
    given_pod = pod(container("app", {"cpu": "2"}), init=inits)
    for sizing, cpus in ((Sizing.UPSTREAM, upstream), (Sizing.KUBERNETES, kubernetes)):
        result = mutated(given_pod, Policy(sizing=sizing))
        assert result["metadata"]["annotations"][VCPUS] == str(cpus)
        assert not any("resources" in container for container in result["spec"].get("initContainers", ()))


def test_only_the_first_container_keeps_resources():
    sidecar = container("mesh", {"cpu": "1"}, {"cpu": "1"}, restartPolicy="Always")
    given_pod = pod(
        container("app", {"cpu": "1"}, {"cpu": "1"}),
        container("log", {"memory": "1Mi"}),
        container("bare"),
        init=[container("prepare", {"cpu": "1"}), sidecar],
        overhead={"cpu": "250m"},
        volumes=[],
    )
    expected = copy.deepcopy(given_pod)
    expected["metadata"]["annotations"] = {VCPUS: "3", MEMORY: "1"}
    expected["spec"]["containers"][0]["resources"] = VM
    del expected["spec"]["containers"][1]["resources"]
    del expected["spec"]["initContainers"][0]["resources"]
    del expected["spec"]["initContainers"][1]["resources"]
    assert mutated(given_pod) == expected


def test_the_patch_is_minimal():
    assert patch_for(pod(container("app"), container("log"), init=[container("prepare")])) == [
        {"op": "add", "path": "/spec/containers/0/resources", "value": VM}
    ]


@pytest.mark.parametrize("empty", [{}, {"requests": {}, "limits": {}}, None])
def test_absent_and_empty_resources(empty):
    given_pod = pod(container("app"), container("log"))
    for entry in given_pod["spec"]["containers"]:
        entry["resources"] = empty
    first, second = mutated(given_pod)["spec"]["containers"]
    assert first["resources"] == VM
    assert not any((second.get("resources") or {}).values())


@pytest.mark.parametrize("metadata", [{"name": "demo"}, {"annotations": None}, {"annotations": {}}])
def test_pods_without_annotations(metadata):
    given_pod = pod(container("app", {"cpu": "1"})) | {"metadata": metadata}
    assert mutated(given_pod)["metadata"] == metadata | {"annotations": {VCPUS: "1"}}


def test_a_pod_without_metadata():
    given_pod = pod(container("app", {"cpu": "1"}))
    del given_pod["metadata"]
    assert mutated(given_pod)["metadata"] == {"annotations": {VCPUS: "1"}}


@pytest.mark.parametrize("pod_spec", [None, {}, {"runtimeClassName": "kata-remote"}])
def test_pods_that_the_api_server_will_reject_do_not_raise(pod_spec):
    assert patch_for({"spec": pod_spec}) == []


def test_existing_annotations_are_unchanged():
    existing = {VCPUS: "16", "example.com/owner": "team~a/b"}
    given_pod = pod(container("app", {"cpu": "1", "memory": "1Gi"}), annotations=existing)
    assert mutated(given_pod)["metadata"]["annotations"] == existing | {MEMORY: "1024"}


def test_an_instance_type_replaces_the_sizes():
    existing = {MACHINE_TYPE: "m5.xlarge"}
    after = mutated(pod(container("app", {"cpu": "1"}), annotations=existing))
    assert after["metadata"]["annotations"] == existing
    assert after["spec"]["containers"][0]["resources"] == VM


def test_an_empty_instance_type_does_not_replace_the_sizes():
    after = mutated(pod(container("app", {"cpu": "1"}), annotations={MACHINE_TYPE: ""}))
    assert after["metadata"]["annotations"] == {MACHINE_TYPE: "", VCPUS: "1"}


def test_pod_level_resources_replace_the_sum():
    given_pod = pod(
        container("app", {"cpu": "1", "memory": "1Gi"}),
        container("log", {"cpu": "1", "memory": "1Gi"}),
        resources={"requests": {"cpu": "3"}, "limits": {"cpu": "6"}},
    )
    after = mutated(given_pod)
    assert after["metadata"]["annotations"] == {VCPUS: "6", MEMORY: "2048"}
    assert "resources" not in after["spec"]


def test_a_pod_level_limit_sizes_without_any_request():
    given_pod = pod(container("app"), resources={"limits": {"memory": "8Gi"}})
    assert mutated(given_pod)["metadata"]["annotations"] == {MEMORY: "8192"}


def test_resource_claims_are_unchanged():
    claims = [{"name": "gpu", "request": "one"}]
    given_pod = pod(
        container("app", {"cpu": "1"}),
        container("log", {"cpu": "1"}),
        container("idle"),
        resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
    )
    for entry in given_pod["spec"]["containers"]:
        entry["resources"]["claims"] = claims
    after = mutated(given_pod)
    assert [entry["resources"] for entry in after["spec"]["containers"]] == [
        VM | {"claims": claims},
        {"claims": claims},
        {"claims": claims},
    ]
    assert after["spec"]["resourceClaims"] == given_pod["spec"]["resourceClaims"]
    assert patch_for(after) == []


def test_a_sidecar_injected_between_two_invocations_loses_its_resources():
    first = mutated(pod(container("app", {"cpu": "1"})))
    first["spec"]["containers"].append(container("mesh", {"cpu": "4"}))
    second = mutated(first)
    assert "resources" not in second["spec"]["containers"][1]
    # The webhook cannot distinguish the annotations of the first invocation from those of a user.
    assert second["metadata"]["annotations"] == {VCPUS: "1"}


@pytest.mark.parametrize("prior", ["2", "1000m", 1])
def test_any_amount_of_the_extended_resource_is_set_to_one(prior):
    given_pod = pod(container("app", *[{"kata.peerpods.io/vm": prior}] * 2))
    assert mutated(given_pod)["spec"]["containers"][0]["resources"] == VM


@pytest.mark.parametrize("padding", [0, MAX_CACHED_BYTES], ids=["cached", "too large to be cached"])
def test_pods_share_patches_only_if_these_are_equal(padding):
    def owned(cpu: str, **annotations: str) -> dict:
        # The one of the user does not decide.
        return pod(
            container("app" + "x" * padding, {"cpu": cpu}), annotations={**annotations, "example.com/owner": "team"}
        )

    pods = [owned("1"), owned("2"), owned("1", **{MEMORY: "1", VCPUS: "7"}), owned("1")]
    del pods[3]["metadata"]
    policies = [DEFAULT, Policy(extended_resource="example.com/vm")]
    patches = [mutate(msgspec.convert(example, Pod), policy) for example in pods for policy in policies]
    assert len(set(patches)) == len(patches)
    assert patches == [mutate(msgspec.convert(example, Pod), policy) for example in pods for policy in policies]


def test_an_invalid_pod_is_rejected_each_time():
    for name in ("app", "app", "db"):
        with pytest.raises(InvalidPodError, match=f'container "{name}"'):
            patch_for(pod(container(name, {"cpu": "-1"})))


def test_policy():
    policy = Policy(frozenset({"kata-remote", "kata-snp"}), "example.com/vm")
    given_pod = pod(container("app", {"cpu": "1"}), runtime_class="kata-snp")
    resources = mutated(given_pod, policy)["spec"]["containers"][0]["resources"]
    assert resources == {"limits": {"example.com/vm": "1"}, "requests": {"example.com/vm": "1"}}


@pytest.mark.parametrize(
    ("env", "policy"),
    [
        ({}, Policy(frozenset({"kata-remote"}), "kata.peerpods.io/vm")),
        ({"TARGET_RUNTIME_CLASS": "a, b,"}, Policy(frozenset({"a", "b"}))),
        ({"TARGET_RUNTIMECLASS": "c"}, Policy(frozenset({"c"}))),
        ({"TARGET_RUNTIME_CLASS": "a", "TARGET_RUNTIMECLASS": "c"}, Policy(frozenset({"a"}))),
        ({"TARGET_RUNTIME_CLASS": ""}, Policy(frozenset({"kata-remote"}))),
        ({"POD_VM_EXTENDED_RESOURCE": "x.y/z"}, Policy(extended_resource="x.y/z")),
        ({"SIZING": "kubernetes"}, Policy(sizing=Sizing.KUBERNETES)),
    ],
)
def test_policy_from_env(env, policy):
    assert Policy.from_env(env) == policy


def test_policy_without_a_runtime_class():
    with pytest.raises(ValueError, match="TARGET_RUNTIME_CLASS is ' , ', which contains no"):
        Policy.from_env({"TARGET_RUNTIME_CLASS": " , "})


def test_policy_with_an_unknown_sizing():
    with pytest.raises(ValueError, match=r"SIZING is 'max'\. Set it to upstream or kubernetes"):
        Policy.from_env({"SIZING": "max"})


@pytest.mark.parametrize(
    ("given_pod", "message"),
    [
        (
            pod(container("app"), container("db", {"memory": "12 GiB"})),
            r'container "db": resources.requests\[memory\]: \'12 GiB\' is not a Kubernetes quantity',
        ),
        (
            pod(container("app"), init=[container("prepare", {"cpu": "1"}, {"cpu": "-1"})]),
            r'container "prepare": resources.limits\[cpu\]: \'-1\' is negative',
        ),
        (
            # It sizes nothing, but the API server cannot validate what the patch removes.
            pod(container("app", {"cpu": "0"}, {"cpu": "-1"})),
            r'container "app": resources.limits\[cpu\]: \'-1\' is negative',
        ),
        (
            pod(container("app", {"cpu": "x"}), annotations={MACHINE_TYPE: "m5.large"}),
            r'container "app": resources.requests\[cpu\]: \'x\' is not a Kubernetes quantity',
        ),
        (
            pod(container("app"), resources={"requests": {"cpu": ""}}),
            r"spec: resources.requests\[cpu\]: '' is not a Kubernetes quantity",
        ),
    ],
)
def test_invalid_amounts(given_pod, message):
    with pytest.raises(InvalidPodError, match=message):
        patch_for(given_pod)


# --- any pod -----------------------------------------------------------------------------------

amounts = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu", "ephemeral-storage", "kata.peerpods.io/vm"]),
    st.sampled_from(["0", "1", "2", "250m", "1500m", "64Mi", "1.5Gi", "1e3", "100k", "1u"]),
)
containers = st.builds(container, st.just("c"), st.none() | amounts, st.none() | amounts)
annotations = st.none() | st.dictionaries(
    st.sampled_from([VCPUS, MEMORY, GPUS, MACHINE_TYPE, "example.com/a~b"]),
    st.sampled_from(["", "9"]),
)
pods = st.builds(
    lambda first_container, other_containers, init, annotations, runtime_class, resources: pod(
        first_container,
        *other_containers,
        init=init,
        annotations=annotations,
        runtime_class=runtime_class,
        **({} if resources is None else {"resources": resources}),
    ),
    containers,
    st.lists(containers, max_size=3),
    st.lists(containers, max_size=3),
    annotations,
    st.sampled_from(["kata-remote", "kata-remote", "kata-remote", "runc"]),
    st.none() | st.fixed_dictionaries({"requests": amounts, "limits": amounts}),
)


def as_specified(given_pod: dict) -> dict:
    """The expected peer pod: a second implementation, of the specification in the README."""
    after = copy.deepcopy(given_pod)
    spec = after["spec"]
    if spec["runtimeClassName"] != "kata-remote":
        return after
    containers = spec["containers"] + spec.get("initContainers", [])

    def total(side: str, resource: str) -> Fraction:
        pod_level = spec.get("resources", {}).get(side, {})
        if resource in pod_level:
            return Fraction(parse_quantity(pod_level[resource]))
        amounts = [container["resources"].get(side, {}).get(resource, "0") for container in containers]
        return sum((Fraction(parse_quantity(amount)) for amount in amounts), Fraction(0))

    annotations = after["metadata"].get("annotations", {})
    if not annotations.get(MACHINE_TYPE):
        for key, resource, unit in (
            (VCPUS, "cpu", 1),
            (MEMORY, "memory", 2**20),
            (GPUS, "nvidia.com/gpu", 1),
        ):
            size = total("requests", resource)
            has_pod_limit = resource in spec.get("resources", {}).get("limits", {})
            if (size or has_pod_limit) and resource != "nvidia.com/gpu":
                size = max(size, total("limits", resource))
            if size:
                annotations.setdefault(key, str(math.ceil(size / unit)))
    if annotations:
        after["metadata"]["annotations"] = annotations
    spec.pop("resources", None)
    for container in containers:
        container["resources"] = {}
    containers[0]["resources"] = VM
    return after


def without_empty_resources(given_pod: dict) -> dict:
    """Normalizes a pod: the API server treats empty resources as absent."""
    spec = copy.deepcopy(given_pod["spec"])
    if spec["runtimeClassName"] == "kata-remote" and not any(spec.get("resources", {}).values()):
        spec.pop("resources", None)
    for container in spec["containers"] + spec.get("initContainers", []):
        if not any(container.get("resources", {}).values()):
            container.pop("resources", None)
    return given_pod | {"spec": spec}


@given(pods)
def test_any_pod_is_mutated_as_specified(given_pod):
    after = mutated(given_pod)
    assert without_empty_resources(after) == without_empty_resources(as_specified(given_pod))


@given(pods)
def test_a_second_invocation_changes_nothing(given_pod):
    assert patch_for(mutated(given_pod)) == []
