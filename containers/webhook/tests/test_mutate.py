"""Pods in, pods out: every patch is applied and compared with what the pod should have become."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import jsonpatch
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity

from peerpods_webhook.mutate import InvalidPodError, Pod, Policy, Sizing, mutate

VM = {"limits": {"kata.peerpods.io/vm": "1"}, "requests": {"kata.peerpods.io/vm": "1"}}
VCPUS = "io.katacontainers.config.hypervisor.default_vcpus"
MEMORY = "io.katacontainers.config.hypervisor.default_memory"
GPUS = "io.katacontainers.config.hypervisor.default_gpus"
MACHINE_TYPE = "io.katacontainers.config.hypervisor.machine_type"

DEFAULT = Policy()


def decide(pod: dict, policy: Policy = DEFAULT) -> list[dict]:
    return msgspec.to_builtins(mutate(msgspec.convert(pod, Pod), policy))


def mutated(pod: dict, policy: Policy = DEFAULT) -> dict:
    return jsonpatch.apply_patch(copy.deepcopy(pod), decide(pod, policy))


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
def test_other_runtime_classes_are_left_alone(runtime_class):
    assert decide(pod(container("app", {"cpu": "1"}), runtime_class=runtime_class)) == []


def test_a_pod_without_a_runtime_class_is_left_alone():
    ordinary = pod(container("app", {"cpu": "no quantity"}))
    del ordinary["spec"]["runtimeClassName"]
    assert decide(ordinary) == []


# Requests and limits of containers and init containers, and the sizes that upstream's webhook
# writes for them: the limit where the sum of limits is at least the sum of requests.
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
    "nothing asked for": ([({}, {})], [], {}),
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


# Init containers, beside one container of 2 CPUs, and the CPUs by either sizing.
SIZINGS = {
    "none": ([], 2, 2),
    "smaller than the containers": ([init("1"), init("1")], 4, 2),
    "the largest, larger than the containers": ([init("3"), init("5"), init("1")], 11, 5),
    "sidecars stay": ([init("1", sidecar=True), init("1", sidecar=True)], 4, 4),
    "beside the sidecars started before it": (
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
        assert not any("resources" in one for one in result["spec"].get("initContainers", ()))


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


def test_the_patch_is_no_larger_than_needed():
    assert decide(pod(container("app"), container("log"), init=[container("prepare")])) == [
        {"op": "add", "path": "/spec/containers/0/resources", "value": VM}
    ]


@pytest.mark.parametrize("empty", [{}, {"requests": {}, "limits": {}}, None])
def test_absent_and_empty_resources(empty):
    given_pod = pod(container("app"), container("log"))
    for each in given_pod["spec"]["containers"]:
        each["resources"] = empty
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
def test_pods_that_the_api_server_will_refuse_do_not_break_us(pod_spec):
    assert decide({"spec": pod_spec}) == []


def test_annotations_of_the_user_stand():
    theirs = {VCPUS: "16", "example.com/owner": "team~a/b"}
    given_pod = pod(container("app", {"cpu": "1", "memory": "1Gi"}), annotations=theirs)
    assert mutated(given_pod)["metadata"]["annotations"] == theirs | {MEMORY: "1024"}


def test_an_instance_type_of_the_user_sizes_the_vm_alone():
    theirs = {MACHINE_TYPE: "m5.xlarge"}
    after = mutated(pod(container("app", {"cpu": "1"}), annotations=theirs))
    assert after["metadata"]["annotations"] == theirs
    assert after["spec"]["containers"][0]["resources"] == VM


def test_an_empty_instance_type_sizes_nothing():
    after = mutated(pod(container("app", {"cpu": "1"}), annotations={MACHINE_TYPE: ""}))
    assert after["metadata"]["annotations"] == {MACHINE_TYPE: "", VCPUS: "1"}


def test_pod_level_resources_stand_instead_of_the_sum():
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


def test_resource_claims_stay():
    claims = [{"name": "gpu", "request": "one"}]
    given_pod = pod(
        container("app", {"cpu": "1"}),
        container("log", {"cpu": "1"}),
        container("idle"),
        resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
    )
    for each in given_pod["spec"]["containers"]:
        each["resources"]["claims"] = claims
    after = mutated(given_pod)
    assert [each["resources"] for each in after["spec"]["containers"]] == [
        VM | {"claims": claims},
        {"claims": claims},
        {"claims": claims},
    ]
    assert after["spec"]["resourceClaims"] == given_pod["spec"]["resourceClaims"]
    assert decide(after) == []


def test_a_sidecar_injected_between_two_invocations_loses_its_resources():
    first = mutated(pod(container("app", {"cpu": "1"})))
    first["spec"]["containers"].append(container("mesh", {"cpu": "4"}))
    second = mutated(first)
    assert "resources" not in second["spec"]["containers"][1]
    # What the first invocation wrote cannot be told from what a user wrote.
    assert second["metadata"]["annotations"] == {VCPUS: "1"}


@pytest.mark.parametrize("prior", ["2", "1000m", 1])
def test_another_amount_of_the_extended_resource_becomes_one(prior):
    given_pod = pod(container("app", *[{"kata.peerpods.io/vm": prior}] * 2))
    assert mutated(given_pod)["spec"]["containers"][0]["resources"] == VM


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
def test_policy_from_the_environment(env, policy):
    assert Policy.from_env(env) == policy


def test_an_environment_that_names_no_runtime_class():
    with pytest.raises(ValueError, match="TARGET_RUNTIME_CLASS is ' , ', which names no"):
        Policy.from_env({"TARGET_RUNTIME_CLASS": " , "})


def test_an_environment_that_names_an_unknown_sizing():
    with pytest.raises(ValueError, match="SIZING is 'max': set it to upstream or kubernetes"):
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
            # It would size nothing; with it gone, the API server could not refuse it any more.
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
def test_amounts_that_make_no_sense(given_pod, message):
    with pytest.raises(InvalidPodError, match=message):
        decide(given_pod)


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
    lambda first, others, init, notes, runtime_class, resources: pod(
        first,
        *others,
        init=init,
        annotations=notes,
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
    """What the pod should become, written a second time from the README alone."""
    after = copy.deepcopy(given_pod)
    spec = after["spec"]
    if spec["runtimeClassName"] != "kata-remote":
        return after
    everyone = spec["containers"] + spec.get("initContainers", [])

    def asked(side: str, resource: str) -> Fraction:
        whole = spec.get("resources", {}).get(side, {})
        if resource in whole:
            return Fraction(parse_quantity(whole[resource]))
        each = [one["resources"].get(side, {}).get(resource, "0") for one in everyone]
        return sum((Fraction(parse_quantity(text)) for text in each), Fraction(0))

    notes = after["metadata"].get("annotations", {})
    if not notes.get(MACHINE_TYPE):
        for key, resource, unit in (
            (VCPUS, "cpu", 1),
            (MEMORY, "memory", 2**20),
            (GPUS, "nvidia.com/gpu", 1),
        ):
            size = asked("requests", resource)
            alone = resource in spec.get("resources", {}).get("limits", {})
            if (size or alone) and resource != "nvidia.com/gpu":
                size = max(size, asked("limits", resource))
            if size:
                notes.setdefault(key, str(math.ceil(size / unit)))
    if notes:
        after["metadata"]["annotations"] = notes
    spec.pop("resources", None)
    for one in everyone:
        one["resources"] = {}
    everyone[0]["resources"] = VM
    return after


def without_empty_resources(given_pod: dict) -> dict:
    """As the API server sees it: empty resources are no resources."""
    spec = copy.deepcopy(given_pod["spec"])
    if spec["runtimeClassName"] == "kata-remote" and not any(spec.get("resources", {}).values()):
        spec.pop("resources", None)
    for one in spec["containers"] + spec.get("initContainers", []):
        if not any(one.get("resources", {}).values()):
            one.pop("resources", None)
    return given_pod | {"spec": spec}


@given(pods)
def test_any_pod_becomes_what_is_specified(given_pod):
    after = mutated(given_pod)
    assert without_empty_resources(after) == without_empty_resources(as_specified(given_pod))


@given(pods)
def test_a_second_invocation_changes_nothing(given_pod):
    assert decide(mutated(given_pod)) == []
