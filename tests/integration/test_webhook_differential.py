"""The webhook behind the real API server, against a specification that shares no code with it.

Generated pods are created in server-side dry runs, once in a namespace of the webhook and once, as a reference, in a
namespace without it: both have the defaults of the API server. The stored pod must be equal to the reference, except
for the fields that the webhook's README.md lists. Amounts are drawn as numbers and then written in any of Kubernetes'
syntaxes, so that the specification does not have to parse them.

`DIFFERENTIAL_SEED` repeats a run; `DIFFERENTIAL_PODS` is the number of pods, which differ in each run.

`DIFFERENTIAL_PEER` is the URL of cloud-api-adaptor's webhook, and `DIFFERENTIAL_PEER_CA` the file with the CA of its
certificate. It must have been started with TARGET_RUNTIMECLASS=kata-differential and
POD_VM_EXTENDED_RESOURCE=example.com/vm. Then the pods that it stores are compared as well: the differences must be
those that the README.md lists.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import http.client
import json
import math
import os
import re
import secrets
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.cluster.webhook import SOURCE, start_webhook

sys.path.insert(0, str(SOURCE))
from peerpods_webhook import quantity

PODS = int(os.environ.get("DIFFERENTIAL_PODS", "1000"))
PEER_URL, PEER_CA = os.environ.get("DIFFERENTIAL_PEER"), os.environ.get("DIFFERENTIAL_PEER_CA", "")
# The number of these pods that are stored and read again.
STORED = PODS // 20
CONNECTIONS = 4

TARGET = "kata-differential"
VM = "example.com/vm"
HYPERVISOR = "io.katacontainers.config.hypervisor."
MACHINE_TYPE = f"{HYPERVISOR}machine_type"
# (resource, annotation with the VM's size, its unit)
SIZES = (
    ("cpu", f"{HYPERVISOR}default_vcpus", 1),
    ("memory", f"{HYPERVISOR}default_memory", 2**20),
    ("nvidia.com/gpu", f"{HYPERVISOR}default_gpus", 1),
)

# The webhook mutates pods in the first two namespaces. A LimitRange sets defaults for the containers of the second. A
# webhook that validates resources mutates pods in the third. The reference pods are created in the fourth. The webhook
# of cloud-api-adaptor mutates pods in the last one.
PEER, LIMITED, VALIDATED, REFERENCE = "peers", "peers-limited", "peers-validated", "reference"
UPSTREAM = "peers-upstream"
LIMIT_RANGER = "kubernetes.io/limit-ranger"
DEFAULT_LIMITS = {"cpu": ("700m", Fraction(7, 10)), "memory": ("300Mi", Fraction(300 * 2**20))}
DEFAULT_REQUESTS = {"cpu": ("300m", Fraction(3, 10)), "memory": ("200Mi", Fraction(200 * 2**20))}

NANO = Fraction(1, 10**9)


class Connection:
    """One kept-alive connection to the API server, as administrator."""

    def __init__(self, cluster: Cluster):
        context = ssl.create_default_context(cafile=cluster.directory / "ca.crt")
        context.load_cert_chain(cluster.directory / "admin.crt", cluster.directory / "admin.key")
        self._connection = http.client.HTTPSConnection(urlsplit(cluster.server).netloc, context=context, timeout=60)

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, dict]:
        encoded = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request(method, path, encoded, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.load(answer)

    def create(self, namespace: str, pod: dict, query: str = "?dryRun=All") -> tuple[int, dict]:
        return self("POST", f"/api/v1/namespaces/{namespace}/pods{query}", pod)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A separate cluster with the webhook, because thousands of requests fill its audit log."""
    with Cluster() as running:
        by = {PEER: "default", LIMITED: "default", VALIDATED: "validating", REFERENCE: "none", UPSTREAM: "upstream"}
        labels = {name: {"by": webhook} for name, webhook in by.items()}
        running.apply(
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": name, "labels": label},
                }
                for name, label in labels.items()
            ),
            *(
                {
                    "apiVersion": "node.k8s.io/v1",
                    "kind": "RuntimeClass",
                    "metadata": {"name": name},
                    "handler": name,
                    "overhead": {"podFixed": {"cpu": "250m", "memory": "160Mi"}},
                    "scheduling": {"nodeSelector": {"example.com/runtime": name}},
                }
                for name in (TARGET, "runc")
            ),
            {
                "apiVersion": "v1",
                "kind": "LimitRange",
                "metadata": {"name": "defaults", "namespace": LIMITED},
                "spec": {
                    "limits": [
                        {
                            "type": "Container",
                            "default": {key: text for key, (text, _) in DEFAULT_LIMITS.items()},
                            "defaultRequest": {key: text for key, (text, _) in DEFAULT_REQUESTS.items()},
                        }
                    ]
                },
            },
        )
        for namespace in labels:
            wait_for(
                f"the service account of {namespace}",
                lambda namespace=namespace: "default" in running.kubectl("get", "sa", "-n", namespace, "-o", "name"),
                seconds=30,
            )
        install_webhook(running, "default", PEER)
        install_webhook(running, "validating", VALIDATED, VALIDATE_RESOURCES="true")
        if PEER_URL:
            register_webhook(running, "upstream", UPSTREAM, PEER_URL, Path(PEER_CA))
        yield running


def install_webhook(cluster: Cluster, name: str, namespace: str, **environment: str) -> None:
    """Start a webhook and register it."""
    directory = cluster.directory / f"webhook-{name}"
    directory.mkdir()
    url, ca = start_webhook(
        cluster.processes,
        directory,
        {"TARGET_RUNTIME_CLASS": TARGET, "POD_VM_EXTENDED_RESOURCE": VM, **environment},
    )
    register_webhook(cluster, name, namespace, url, ca)


def register_webhook(cluster: Cluster, name: str, namespace: str, url: str, ca: Path) -> None:
    """Register a webhook for all pods, with any runtime class, of the namespaces with its name."""
    cluster.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": "mwebhook.peerpods.io",
                    "clientConfig": {
                        "url": url,
                        "caBundle": base64.b64encode(ca.read_bytes()).decode(),
                    },
                    "rules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["pods"],
                        }
                    ],
                    "namespaceSelector": {"matchLabels": {"by": name}},
                    "reinvocationPolicy": "IfNeeded",
                    "failurePolicy": "Fail",
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                }
            ],
        }
    )
    probe = generated(Random(0), "probe")._replace(runtime_class=TARGET, wrong=None)
    with contextlib.closing(Connection(cluster)) as api:

        def is_mutating() -> bool:
            cluster.processes.check_alive()
            status, pod = api.create(namespace, probe.manifest())
            return status == 201 and VM in json.dumps(pod["spec"])

        wait_for("the webhook's first change", is_mutating, seconds=30)


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("DIFFERENTIAL_SEED") or secrets.randbits(32))


# --- amounts -----------------------------------------------------------------------------------

FACTORS = {
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate("num", start=-3)},
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate(" kMGTPE")},
    **{f"{prefix}i": Fraction(1024) ** power for power, prefix in enumerate("KMGTPE", start=1)},
}
EXACT = Context(prec=400)


def written(random: Random, value: Fraction) -> str:
    """`value` in one of the syntaxes of Kubernetes."""
    if random.random() < 0.2:
        power = random.randrange(-9, 10)
        suffix, factor = f"{random.choice('eE')}{power}", Fraction(10) ** power
    else:
        suffix, factor = random.choice(list(FACTORS.items()))
    scaled = value / factor
    number = f"{EXACT.divide(Decimal(scaled.numerator), Decimal(scaled.denominator)):f}"
    if "." not in number:
        number += random.choice(("", "", ".", ".0"))
    elif number.startswith("0.") and random.random() < 0.5:
        number = number[1:]
    return f"{random.choice(('', '', '', '+', '00'))}{number}{suffix.strip()}"


class Amount(NamedTuple):
    """An amount as a user writes it, and its value to the API server."""

    text: str
    value: Fraction


def amount(random: Random, resource: str, minimum: Fraction = Fraction(0)) -> Amount:
    """A random amount of a resource, at least `minimum`, and a way to write it."""
    if resource == "cpu":
        value = Fraction(random.choice((0, 1, random.randrange(10**5), 1000)), 1000)
        value += NANO * random.choice((0, 0, random.randrange(10**6), Fraction(1, 1000)))
    elif resource in ("memory", "ephemeral-storage"):
        unit = random.choice((1, 2**20, 2**30, 10**6, Fraction(1, 1000), NANO / 10))
        value = Fraction(random.choice((0, 1, random.randrange(10**4)))) * unit
    else:
        value = Fraction(random.randrange(5))
    value += minimum
    # The API server rounds up what is in a pod to thousandths.
    return Amount(written(random, value), Fraction(math.ceil(value * 1000), 1000))


# --- pods --------------------------------------------------------------------------------------

Amounts = dict[str, Amount]


class Owner(NamedTuple):
    """The limits and requests of a container, or of a whole pod."""

    limits: Amounts
    requests: Amounts

    def manifest(self) -> dict[str, dict[str, str]]:
        sides = {"limits": self.limits, "requests": self.requests}
        return {
            side: {resource: amount.text for resource, amount in amounts.items()}
            for side, amounts in sides.items()
            if amounts
        }


class Pod(NamedTuple):
    """A pod to create, in parts from which the specification can compute the result."""

    metadata: dict[str, Any]
    runtime_class: str | None
    containers: list[tuple[dict[str, Any], Owner]]
    init: list[tuple[dict[str, Any], Owner]]
    pod_level: Owner | None
    limited: bool
    extra: dict[str, Any]
    # The location of a negative amount: the container's name, and the resource.
    wrong: tuple[str, str] | None

    def manifest(self) -> dict:
        def containers(owners: list[tuple[dict[str, Any], Owner]]) -> list[dict]:
            return [fields | {"resources": fields.get("resources", {}) | owner.manifest()} for fields, owner in owners]

        spec: dict[str, Any] = {
            "containers": containers(self.containers),
            # No scheduler binds pods that are really stored, and no controller adds a volume of random name.
            "schedulerName": "none",
            "automountServiceAccountToken": False,
            **self.extra,
        }
        if self.runtime_class:
            spec["runtimeClassName"] = self.runtime_class
        if self.init:
            spec["initContainers"] = containers(self.init)
        if self.pod_level:
            spec["resources"] = self.pod_level.manifest()
        return {"apiVersion": "v1", "kind": "Pod", "metadata": self.metadata, "spec": spec}


def generated(random: Random, name: str) -> Pod:
    """A pod that the API server accepts, unless `wrong` is set."""
    windows = random.random() < 0.03
    limited = random.random() < 0.15
    claims = [{"name": "device", "resourceClaimName": "one"}] if random.random() < 0.1 else []

    def container(prefix: str, index: int, sidecars: bool) -> tuple[dict[str, Any], Owner]:
        fields: dict[str, Any] = {"name": f"{prefix}{index}", "image": "example.com/never-pulled"}
        if random.random() < 0.2:
            fields["env"] = [{"name": "GREETING", "value": "🦊" * random.randrange(50)}]
        if claims and random.random() < 0.5:
            fields["resources"] = {"claims": [{"name": "device"}]}
        if sidecars and random.random() < 0.5:
            fields["restartPolicy"] = "Always"
        return fields, resources_of_container(random)

    containers = [container("app", index, False) for index in range(random.randint(1, 4))]
    init = [container("init", index, True) for index in range(random.choice((0, 0, 1, 2, 3)))]
    owners = [owner for _, owner in (*containers, *init)]
    has_whole = not windows and not limited and random.random() < 0.2
    pod_level = resources_of_pod(random, owners) if has_whole else None
    wrong = spoil(random, [*containers, *init]) if random.random() < 0.06 else None
    metadata: dict[str, Any] = {"generateName": f"{name}-"} if random.random() < 0.3 else {"name": name}
    if random.random() < 0.5:
        keys = [MACHINE_TYPE, "example.com/owner", *(key for _, key, _ in SIZES)]
        metadata["annotations"] = {
            key: random.choice(("", "16", "m5.large")) for key in random.sample(keys, random.randrange(3))
        }
    return Pod(
        metadata,
        random.choice((TARGET, TARGET, TARGET, TARGET, TARGET, TARGET, "runc", None)),
        containers,
        init,
        pod_level,
        limited,
        ({"resourceClaims": claims} if claims else {}) | ({"os": {"name": "windows"}} if windows else {}),
        wrong,
    )


def resources_of_container(random: Random) -> Owner:
    limits: Amounts = {}
    requests: Amounts = {}
    for resource in ("cpu", "memory", "ephemeral-storage"):
        kind = random.randrange(4)
        if kind & 1:
            requests[resource] = amount(random, resource)
        if kind & 2:
            minimum = requests[resource].value if kind & 1 else Fraction(0)
            limits[resource] = amount(random, resource, minimum)
    for resource in ("nvidia.com/gpu", VM):
        # A resource that cannot be overcommitted has a limit, and its request, if any, is the same.
        if random.random() < 0.15:
            limits[resource] = amount(random, resource)
            if random.random() < 0.5:
                value = limits[resource].value
                requests[resource] = Amount(written(random, value), value)
    return Owner(limits, requests)


def resources_of_pod(random: Random, owners: list[Owner]) -> Owner:
    """The amounts are not less than the sum of the containers, which the API server would reject."""
    limits: Amounts = {}
    requests: Amounts = {}
    for resource in ("cpu", "memory"):
        kind = random.randrange(4)
        minimum = sum((defaulted(owner, resource)[0] for owner in owners), Fraction(0))
        if kind & 1:
            requests[resource] = amount(random, resource, minimum)
            minimum = requests[resource].value
        if kind & 2:
            minimum += sum((defaulted(owner, resource)[1] for owner in owners), Fraction(0))
            limits[resource] = amount(random, resource, minimum)
    return Owner(limits, requests)


def spoil(random: Random, containers: list[tuple[dict[str, Any], Owner]]) -> tuple[str, str]:
    """Make one amount negative."""
    fields, owner = random.choice(containers)
    side, resource = random.choice(("limits", "requests")), random.choice(("cpu", "memory"))
    getattr(owner, side)[resource] = Amount(f"-{random.randint(1, 9)}", Fraction(-1))
    return fields["name"], resource


# --- the specification -------------------------------------------------------------------------


def defaulted(owner: Owner, resource: str, limited: bool = False) -> tuple[Fraction, Fraction]:
    """A container's request and limit after the API server's defaulting.

    The limit is copied to an absent request; then a LimitRange sets the amounts that are still absent.
    """
    zero = Amount("", Fraction(0))
    request = owner.requests.get(resource) or owner.limits.get(resource)
    limit = owner.limits.get(resource)
    if limited:
        request = request or Amount(*DEFAULT_REQUESTS.get(resource, zero))
        limit = limit or Amount(*DEFAULT_LIMITS.get(resource, zero))
    return (request or zero).value, (limit or zero).value


def size(pod: Pod, resource: str) -> Fraction:
    """The amount of a resource that the VM gets, before it is rounded up to a unit."""
    owners = [owner for _, owner in (*pod.containers, *pod.init)]
    of_vm = size_of_vm(pod, [defaulted(owner, resource, pod.limited) for owner in owners], resource)
    if of_vm == 0 and pod.limited:
        # Without annotations, the second invocation cannot detect the first invocation, after which the LimitRange has
        # set defaults for all containers.
        default_amount = defaulted(Owner({}, {}), resource, limited=True)
        return size_of_vm(pod, [default_amount] * len(owners), resource)
    return of_vm


def size_of_vm(pod: Pod, amounts: list[tuple[Fraction, Fraction]], resource: str) -> Fraction:
    """The amount that the VM gets, from the request and the limit of each container."""
    requests = sum((request for request, _ in amounts), Fraction(0))
    limits = sum((limit for _, limit in amounts), Fraction(0))
    limit_counts = requests > 0
    if pod.pod_level and resource in pod.pod_level.requests:
        requests = pod.pod_level.requests[resource].value
        limit_counts = requests > 0
    if pod.pod_level and resource in pod.pod_level.limits:
        limits = pod.pod_level.limits[resource].value
        limit_counts = True
    if resource == "nvidia.com/gpu" or not limit_counts:
        return requests
    return max(limits, requests)


def as_specified(pod: Pod, reference: dict) -> dict:
    """The pod that the API server must store, from the pod that it stores without the webhook."""
    after = copy.deepcopy(reference)
    if pod.runtime_class != TARGET:
        return after
    for side in ("containers", "initContainers"):
        for index, container in enumerate(after["spec"].get(side, ())):
            kept = {key: entry for key, entry in container["resources"].items() if key == "claims"}
            if (side, index) == ("containers", 0):
                kept |= {"limits": {VM: "1"}, "requests": {VM: "1"}}
            container["resources"] = kept
    after["spec"].pop("resources", None)
    # It is computed from cpu and memory, which were removed.
    after["status"]["qosClass"] = "BestEffort"
    notes = dict(pod.metadata.get("annotations", {}))
    if not notes.get(MACHINE_TYPE):
        for resource, annotation, unit in SIZES:
            if vm_size := math.ceil(size(pod, resource) / unit):
                notes.setdefault(annotation, str(vm_size))
    if notes:
        after["metadata"]["annotations"] = notes
    return after


def as_upstream(pod: Pod, reference: dict) -> dict:
    """The same for the webhook of cloud-api-adaptor (src/webhook/pkg/mutating/remove-resourcespec.go)."""
    after = copy.deepcopy(reference)
    if pod.runtime_class != TARGET:
        return after
    for side in ("containers", "initContainers"):
        for container in after["spec"].get(side, ()):
            container["resources"] = {}
    after["spec"]["containers"][0]["resources"] = {"limits": {VM: "1"}, "requests": {VM: "1"}}
    after["status"]["qosClass"] = "BestEffort"
    if pod.pod_level and (whole := after["spec"].pop("resources", None)):
        # The API server completes them from the containers after admission, which have no amounts then.
        limits = {resource: whole["limits"][resource] for resource in pod.pod_level.limits}
        requests = limits | {resource: whole["requests"][resource] for resource in pod.pod_level.requests}
        sides = {"limits": limits, "requests": requests}
        if given := {side: amounts for side, amounts in sides.items() if amounts}:
            after["spec"]["resources"] = given
        del after["status"]["qosClass"]
    notes = dict(pod.metadata.get("annotations", {}))
    for resource, annotation, unit in SIZES:
        amounts = [defaulted(owner, resource) for _, owner in (*pod.containers, *pod.init)]
        if vm_size := math.ceil(size_of_vm(pod._replace(pod_level=None), amounts, resource) / unit):
            notes[annotation] = str(vm_size)
    if notes:
        after["metadata"]["annotations"] = notes
    return after


def comparable(pod: dict) -> dict:
    """A pod as the API server returned it, without what differs each time it is created."""
    metadata = {
        key: value
        for key, value in pod["metadata"].items()
        if key not in ("creationTimestamp", "managedFields", "namespace", "resourceVersion", "uid")
    }
    if prefix := metadata.get("generateName"):
        assert re.fullmatch(f"{prefix}[a-z0-9]{{5}}", metadata.pop("name"))
    if LIMIT_RANGER in metadata.get("annotations", {}):
        notes = {key: field for key, field in metadata["annotations"].items() if key != LIMIT_RANGER}
        metadata = {key: field for key, field in metadata.items() if key != "annotations"}
        metadata |= {"annotations": notes} if notes else {}
    # Empty resources are equal to absent resources.
    spec = {key: field for key, field in pod["spec"].items() if (key, field) != ("resources", {})}
    return {**pod, "metadata": metadata, "spec": spec}


# --- the tests ---------------------------------------------------------------------------------


def check_pod(api: Connection, pod: Pod, store: bool) -> str:
    """Create a pod and its reference and compare them; returns the kind of the example."""
    namespace, manifest = LIMITED if pod.limited else PEER, pod.manifest()
    status, answer = api.create(namespace, manifest)
    if pod.wrong and pod.runtime_class == TARGET:
        container, resource = pod.wrong
        # A negative limit has been copied to the request.
        rejection = re.escape(f'The pod cannot become a peer pod: container "{container}": resources.')
        rejection += rf"(limits|requests)\[{resource}\]: '-\d' is negative"
        assert status == 400, answer
        assert re.search(rejection, answer["message"]), answer
        return "refused"
    reference_status, reference = api.create(REFERENCE, manifest)
    if pod.wrong:
        assert (status, reference_status) == (422, 422), (answer, reference)
        return "refused by the API server"
    if pod.limited and pod.runtime_class != TARGET:
        # The defaults of the LimitRange stay, and the reference has no LimitRange.
        return "limited"
    assert reference_status == 201, reference.get("message")
    assert status == 201, answer.get("message")
    expected = as_specified(pod, comparable(reference))
    assert comparable(answer) == expected
    if store:
        status, answer = api.create(namespace, manifest, query="")
        assert status == 201, answer.get("message")
        assert comparable(answer) == expected
        name = answer["metadata"]["name"]
        status, answer = api("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        assert status == 200, answer
        assert comparable(answer) == expected
    return "mutated" if pod.runtime_class == TARGET else "unchanged"


def test_stored_pods_are_as_the_webhook_specifies(cluster, seed):
    def run(first: int) -> list[str]:
        with contextlib.closing(Connection(cluster)) as api:
            return [
                repeatable(
                    f"pod {index}",
                    seed,
                    check_pod,
                    api,
                    generated(Random(seed << 32 | index), f"pod-{index}"),
                    index < STORED,
                )
                for index in range(first, PODS, CONNECTIONS)
            ]

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        outcomes = [word for words in threads.map(run, range(CONNECTIONS)) for word in words]
    assert len(outcomes) == PODS
    assert outcomes.count("mutated") > PODS / 2
    assert {"unchanged", "refused", "limited", "refused by the API server"} <= set(outcomes)


def check_upstream(api: Connection, pod: Pod) -> str:
    """Compare a pod with that of cloud-api-adaptor's webhook; returns the documented difference to this webhook."""
    manifest = pod.manifest()
    status, answer = api.create(UPSTREAM, manifest)
    own_status, own = api.create(PEER, manifest)
    if pod.wrong:
        if pod.runtime_class != TARGET:
            assert (status, own_status) == (422, 422), (answer, own)
            return "equal"
        # It does not reject them, and the API server does not see those that are removed.
        assert own_status == 400, own
        return "negative amount"
    reference_status, reference = api.create(REFERENCE, manifest)
    assert reference_status == 201, reference.get("message")
    assert (status, own_status) == (201, 201), (answer.get("message"), own.get("message"))
    theirs, expected = comparable(answer), as_upstream(pod, comparable(reference))
    if "qosClass" not in expected["status"]:
        theirs["status"] = {key: field for key, field in theirs["status"].items() if key != "qosClass"}
    assert with_values(theirs) == with_values(expected)
    if pod.runtime_class != TARGET:
        assert with_values(comparable(own)) == with_values(comparable(answer))
        return "equal"
    notes = pod.metadata.get("annotations", {})
    kinds = [
        *(["pod-level resources"] if pod.pod_level and "resources" in reference["spec"] else []),
        *(
            ["claims"]
            if any("claims" in fields.get("resources", {}) for fields, _ in (*pod.containers, *pod.init))
            else []
        ),
        *(["existing annotations"] if notes.get(MACHINE_TYPE) or {key for _, key, _ in SIZES} & notes.keys() else []),
    ]
    assert kinds or comparable(own) == comparable(answer)
    return "equal" if comparable(own) == comparable(answer) else " and ".join(kinds)


def with_values(pod: dict) -> dict:
    """A pod with the resources of the whole pod as numbers.

    The API server writes a sum in the syntax of one of its parts, which a patch changes: cloud-api-adaptor's webhook
    returns one for each pod.
    """
    resources = {
        side: {resource: stored_value(text) for resource, text in amounts.items()}
        for side, amounts in pod["spec"].get("resources", {}).items()
    }
    return {**pod, "spec": {**pod["spec"], "resources": resources}}


@pytest.mark.skipif(not PEER_URL, reason="DIFFERENTIAL_PEER names no webhook")
def test_the_webhook_of_cloud_api_adaptor_differs_only_as_documented(cluster, seed):
    def run(first: int) -> list[str]:
        with contextlib.closing(Connection(cluster)) as api:
            return [
                repeatable(
                    f"pod {index}",
                    seed,
                    check_upstream,
                    api,
                    generated(Random(seed << 32 | index), f"compared-{index}")._replace(limited=False),
                )
                for index in range(first, PODS, CONNECTIONS)
            ]

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        outcomes = Counter(word for words in threads.map(run, range(CONNECTIONS)) for word in words)
    print(f"DIFFERENTIAL_SEED={seed}: {dict(outcomes.most_common())}")
    assert outcomes.total() == PODS
    assert outcomes["equal"] > PODS / 3


def repeatable(example: str, seed: int, check: Callable[..., str], *arguments: Any) -> str:
    """The result of `check`; a failure includes how to repeat it."""
    try:
        return check(*arguments)
    except AssertionError as error:
        error.add_note(f"{example} of DIFFERENTIAL_SEED={seed}: {arguments[1:]}")
        raise


# --- resources that the API server rejects ------------------------------------------------------

# The names and amounts of resources, valid and invalid.
NAMES = [
    *("cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "hugepages-1Gi", "example.com/device"),
    *(
        "hugepages-",
        "hugepages-x",
        "hugepages-1500m",
        "hugepages-2Mi/x",
        "pods",
        "device",
        "-device",
        "a b",
        "/x",
        "a/b/c",
    ),
    *("kubernetes.io/x", "sub.kubernetes.io/x", "requests.example.com/x", "requests.cpu", "Example.com/x", "x" * 64),
    *(f"{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 60}/x", f"{'a.' * 126}a/x"),
]
TEXTS = ["0", "1", "2", "3", "1500m", "1999999999n", "1n", "2Mi", "3Mi", "4Mi", "1Gi", "-1", "-1n"]


def any_resources(random: Random, names: list[str]) -> dict:
    resources: dict[str, dict[str, str]] = {}
    for name in random.sample(names, random.choice((0, 1, 1, 2))):
        sides = random.choice((("limits",), ("requests",), ("limits", "requests")))
        text = random.choice(TEXTS)
        for side in sides:
            # Mostly the same amount, which a resource without overcommitment requires.
            resources.setdefault(side, {})[name] = text if random.random() < 0.7 else random.choice(TEXTS)
    return resources


def any_pod(random: Random) -> dict:
    """A pod in whose resources anything may be wrong, but mostly not everything."""
    names = random.sample(NAMES, 2) + NAMES[:6] if random.random() < 0.5 else NAMES[:6]

    def container(name: str, **fields: str) -> dict:
        return {"name": name, "image": "example.com/x", "resources": any_resources(random, names), **fields}

    spec: dict[str, Any] = {
        "containers": [container("app"), container("second")][: random.choice((1, 2))],
        "runtimeClassName": TARGET,
    }
    if random.random() < 0.3:
        sidecar = random.choice(({}, {"restartPolicy": "Always"}))
        spec["initContainers"] = [container("first"), container("init", **sidecar)][: random.choice((1, 2))]
    if random.random() < 0.3:
        spec["resources"] = any_resources(random, names)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec}


def check_resources(api: Connection, pod: dict) -> str:
    """The webhook that validates resources rejects what the API server rejects without a webhook."""
    reference_status, reference = api.create(REFERENCE, pod)
    status, answer = api.create(VALIDATED, pod)
    assert reference_status in (201, 422), reference
    assert (status == 201) == (reference_status == 201), (answer.get("message"), reference.get("message"))
    if status == 201:
        return "accepted"
    assert "The pod cannot become a peer pod: " in answer["message"]
    # As upstream's webhook, the webhook accepts it by default, except for a negative size of the VM.
    status, answer = api.create(PEER, pod)
    assert status == 201 or "is negative" in answer["message"], answer
    return "rejected" if status == 201 else "negative"


def test_resources_are_rejected_if_the_api_server_rejects_them(cluster, seed):
    with contextlib.closing(Connection(cluster)) as api:
        outcomes = [
            repeatable(f"resources {index}", seed, check_resources, api, any_pod(Random(seed << 32 | index)))
            for index in range(PODS // 3)
        ]
    assert min(outcomes.count(outcome) for outcome in ("accepted", "rejected", "negative")) > PODS / 60, outcomes


# --- quantities --------------------------------------------------------------------------------

# The API server accepts any quantity as a device's capacity, including negative quantities: 32 in each of 128 devices.
SLICES = "/apis/resource.k8s.io/v1/resourceslices?dryRun=All"
SLICE_SIZE = 32 * 128


def resource_slice(literals: list[Any]) -> dict:
    capacities = [
        {f"c{index}": {"value": literal} for index, literal in enumerate(literals[start : start + 32])}
        for start in range(0, len(literals), 32)
    ]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "quantities"},
        "spec": {
            "driver": "quantities.example.com",
            "nodeName": "none",
            "pool": {"name": "none", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": f"d{index}", "capacity": capacity} for index, capacity in enumerate(capacities)],
        },
    }


def random_literal(random: Random) -> Any:
    """A quantity of any syntax and size, as JSON text or number."""
    if random.random() < 0.02:
        return random.choice((random.randrange(-(10**6), 10**12), round(random.random() * 100, 6)))
    digits = str(random.randrange(10 ** random.choice((1, 2, 3, 4, 6, 10, 18, 19, 20, 25))))
    decimals = str(random.randrange(10 ** random.choice((1, 3, 9, 10, 20))))
    number = random.choice((digits, f"00{digits}", f"{digits}.{decimals}", f"{digits}.", f".{decimals}"))
    sign = random.choice(("", "", "", "+", "-"))
    exponent = f"{random.choice('eE')}{random.choice(('', '+', '-'))}{random.randrange(30)}"
    return sign + number + random.choice((*(suffix.strip() for suffix in FACTORS), exponent))


def stored_value(text: str) -> Fraction:
    """The value of a quantity as the API server returns it.

    This is a whole number with a suffix, or the unchanged literal, including a plus sign.
    """
    number, suffix = re.fullmatch(r"([+-]?[0-9.]+)([eE][+-]?[0-9]+|[a-zA-Z]{0,2})", text).groups()
    exponent = suffix[:1] in ("e", "E") and suffix[1:].strip("i")
    return Fraction(number.rstrip(".")) * (Fraction(10) ** int(exponent) if exponent else FACTORS[suffix or " "])


def test_quantities_have_the_value_that_the_api_server_computes(cluster, seed):
    random = Random(seed)
    # According to Kubernetes, a quantity is at most 2^63-1. The webhook uses this maximum for all larger quantities.
    # The API server does so only with a binary suffix, and returns 1000E as 1.
    maximum = 2**63 - 1
    compared = 0
    with contextlib.closing(Connection(cluster)) as api:
        for _ in range(8):
            literals = [random_literal(random) for _ in range(SLICE_SIZE)]
            status, stored = api("POST", SLICES, resource_slice(literals))
            assert status == 201, stored
            returned = [
                device["capacity"][f"c{index}"]["value"] for device in stored["spec"]["devices"] for index in range(32)
            ]
            for literal, text in zip(literals, returned, strict=True):
                if abs(quantity.parse(str(literal))) == maximum * quantity.ONE:
                    continue
                value = stored_value(text) * quantity.ONE
                parsed = (quantity.parse(str(literal)), quantity.parse(text))
                compared += 1
                assert parsed == (value, value), f"{literal!r}, {text!r}, DIFFERENTIAL_SEED={seed}"
    assert compared > 20_000


def test_quantities_are_rejected_if_the_api_server_rejects_them(cluster, seed):
    random = Random(seed)
    # Left out: exponents whose powers would fill the API server's memory.
    alphabet = "0123456789" * 2 + ".+-eEinumkKMGTP_xi"
    refused = 0
    with contextlib.closing(Connection(cluster)) as api:
        for _ in range(1500):
            literal = random_literal(random) if random.random() < 0.4 else ""
            for _ in range(random.choice((1, 1, 2, 3))):
                position = random.randrange(len(str(literal)) + 1)
                literal = f"{str(literal)[:position]}{random.choice(alphabet)}{str(literal)[position:]}"
            if re.search(r"[eE][+-]?[0-9]{3}", literal):
                continue
            status, answer = api("POST", SLICES, resource_slice([literal]))
            assert status in (201, 400), answer
            if status == 201:
                # The text that the webhook receives: the API server accepts "m" and ".", and converts them to "0".
                literal = answer["spec"]["devices"][0]["capacity"]["c0"]["value"]
            try:
                quantity.parse(literal)
                taken = True
            except ValueError:
                taken = False
            assert taken == (status == 201), f"{literal!r}, DIFFERENTIAL_SEED={seed}: {answer}"
            refused += not taken
    assert refused > 300
