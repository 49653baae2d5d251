# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verify a mutation by pods that are created in dry runs (private to this collection).

A dry run in one namespace proves little if it is rejected: a quota, a policy or another webhook of that namespace
rejects a pod after it was mutated, and the API server then does not return it. So the next namespace is tried.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._admission.namespaces import PROBE
from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import AdmissionError
from ansible_collections.osc.peerpods.plugins.module_utils._admission.policy import MUTATED_BY, exclusions, policy_path
from ansible_collections.osc.peerpods.plugins.module_utils._admission.webhook import excludes
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.api import (
    MUTATING_POLICY_VERSIONS,
    MUTATING_WEBHOOKS_PATH,
    NAMESPACES_PATH,
    RUNTIME_CLASSES_PATH,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.client import (
    Cluster,
    ClusterError,
    readable,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import is_accounted_for

# The pause between two dry runs, until the API server uses the new object. Seconds.
PROBE_INTERVAL = 0.5

# For how long a namespace may reject the pod only because the API server does not use the new object yet. Seconds.
SETTLE_SECONDS = 10.0

# The namespace that every cluster has, and how many others are tried if it rejects the pod.
FIRST_NAMESPACE = "default"
OTHER_NAMESPACES = 20

# The name of the collection's webhook and of the operator's.
WEBHOOK = "mwebhook.peerpods.io"

# Whether a namespace, by its name, is left out.
Excludes = Callable[[str], bool]

MUTATED, NOT_MUTATED, REJECTED, NO_RUNTIME_CLASS = "mutated", "not_mutated", "rejected", "no_runtime_class"


@dataclass(frozen=True)
class Proof:
    """What the dry runs of a pod have shown.

    `namespace` is where the pod was mutated or not, and `reasons` are why it was not, or was rejected, as sentences.
    """

    state: str
    namespace: str | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mutator:
    """A registered webhook or policy that mutates peer pods, for messages, and the namespaces that it excludes."""

    name: str
    excludes: Excludes


def registered(cluster: Cluster) -> list[Mutator]:
    """The webhooks called WEBHOOK, and the policies of this collection; without the permission to read them, none."""
    mutators = [
        Mutator(f"MutatingWebhookConfiguration {configuration['metadata']['name']}", partial(excludes, webhook))
        for configuration in readable(cluster, MUTATING_WEBHOOKS_PATH)
        for webhook in configuration.get("webhooks") or ()
        if webhook["name"] == WEBHOOK
    ]
    for version in MUTATING_POLICY_VERSIONS:
        if policies := readable(cluster, policy_path(version)):
            for policy in policies:
                excluded = exclusions(policy["spec"])
                if excluded is not None:
                    name = f"MutatingAdmissionPolicy {policy['metadata']['name']}"
                    mutators.append(Mutator(name, excluded.__contains__))
            break
    return mutators


def verify(
    module: AnsibleModule,
    cluster: Cluster,
    subject: str,
    name: str,
    find: Callable[[], Iterable[str]],
    mark: str | None = None,
    *,
    is_new: bool,
) -> bool:
    """Whether a pod of each target RuntimeClass is mutated; False, with a warning, if that could not be verified.

    `subject` is the webhook or the policy, for messages, and `name` is its name. `find` returns the namespaces to try.
    With `mark`, only a mutation by the policy with that fingerprint counts. With `is_new`, the API server may not use
    it yet. Raises AdmissionError if a pod is not mutated within wait_timeout.
    """
    params = module.params
    proofs = {}
    for runtime_class in params["target_runtime_classes"]:
        pod = probe_pod(runtime_class, params["object_selector"], {MUTATED_BY: ""} if mark else None)
        settle_seconds = SETTLE_SECONDS if is_new else 0.0
        proofs[runtime_class] = _wait(cluster, pod, find, name, mark, params["wait_timeout"], settle_seconds)
        if problem := _problem(subject, runtime_class, proofs[runtime_class], params):
            raise AdmissionError(problem)
    missing = [name for name, proof in proofs.items() if proof.state == NO_RUNTIME_CLASS]
    if missing:
        module.warn(
            f"The {subject} could not be verified: RuntimeClass {', '.join(missing)} does not exist yet. The operator "
            "creates it for a KataConfig that enables peer pods."
        )
    for runtime_class, proof in proofs.items():
        if proof.state == REJECTED:
            module.warn(f"The {subject} could not be verified. {describe_rejection(runtime_class, proof.reasons)}")
    return all(proof.state == MUTATED for proof in proofs.values())


def _wait(
    cluster: Cluster,
    pod: dict,
    find: Callable[[], Iterable[str]],
    name: str,
    mark: str | None,
    seconds: float,
    settle_seconds: float,
) -> Proof:
    """The proof once the pod is no longer returned without the mutation.

    Until `settle_seconds` have passed, a namespace may reject the pod because it is not mutated yet, such as by a quota
    of cpu.
    """
    began = time.monotonic()
    deadline, settled_at = began + seconds, began + min(seconds, settle_seconds)
    first: list[str] = []
    while True:
        # The namespaces before it rejected the pod. It may reject the mutated pod too, such as by a quota of peer pods.
        namespaces = itertools.chain(first, (namespace for namespace in find() if namespace not in first))
        try:
            proof = prove(cluster, pod, namespaces, [name], mark)
        except ClusterError as error:
            if not error.transient or time.monotonic() > deadline:
                raise
        else:
            is_final = proof.state in (MUTATED, NO_RUNTIME_CLASS)
            if is_final or time.monotonic() > (settled_at if proof.state == REJECTED else deadline):
                return proof
            first = [proof.namespace] if proof.namespace else []
        time.sleep(PROBE_INTERVAL)


def _problem(subject: str, runtime_class: str, proof: Proof, params: dict) -> str:
    """Why the module fails; empty if it does not."""
    if proof.state == NOT_MUTATED:
        return (
            f"The {subject} is configured, but after {params['wait_timeout']} s it does not mutate a pod with the "
            f"RuntimeClass {runtime_class} in a dry run: {' '.join(proof.reasons)}"
        )
    if proof.state == REJECTED and params["verify_namespace"]:
        return (
            f"The {subject} is configured, but could not be verified. "
            f"{describe_rejection(runtime_class, proof.reasons)} Set verify_namespace to another namespace than "
            f"{params['verify_namespace']}, or do not set it."
        )
    return ""


def describe_rejection(runtime_class: str, reasons: tuple[str, ...]) -> str:
    if not reasons:
        return (
            f"Every namespace is excluded, so that no pod with the RuntimeClass {runtime_class} can be created in a "
            "dry run."
        )
    more = f" {len(reasons) - 1} more namespaces reject it as well." if len(reasons) > 1 else ""
    return (
        f"A dry run of a pod with the RuntimeClass {runtime_class} was rejected, but not by what mutates peer pods: "
        f"{reasons[0]}{more}"
    )


def describe_proof(runtime_class: str, proof: Proof) -> str:
    """The result for a user, with the reason and what to do."""
    if proof.state == MUTATED:
        return (
            f"Peer pods are counted: the API server added {EXTENDED_RESOURCE} to a peer pod in a dry run (namespace "
            f"{proof.namespace})."
        )
    if proof.state == NO_RUNTIME_CLASS:
        return f"Could not verify that peer pods are counted: the RuntimeClass {runtime_class} does not exist yet."
    if proof.state == REJECTED:
        return f"Could not verify that peer pods are counted. {describe_rejection(runtime_class, proof.reasons)}"
    return (
        f"Peer pods are not counted: in a dry run in namespace {proof.namespace}, {' '.join(proof.reasons)} Nodes "
        "would get more peer pods than the limit allows. Run the role webhook, or find out why the API server does "
        "not call the webhook."
    )


def candidates(
    cluster: Cluster, chosen: str | None, is_excluded: Excludes, first: str = FIRST_NAMESPACE
) -> Iterator[str]:
    """The namespaces to create the pod in, one after the other until one admits it; only the chosen one if there is
    one.

    The others are read only when they are needed.
    """
    if chosen:
        yield chosen
        return
    if not is_excluded(first):
        yield first
    others = (name for name in _existing(cluster) if name != first and not is_excluded(name))
    yield from itertools.islice(others, OTHER_NAMESPACES)


def candidates_without(
    cluster: Cluster, chosen: str | None, registration: dict, others: Iterable[Mutator]
) -> Iterator[str]:
    """The namespaces that show whether `others` mutate peer pods without the webhook of this registration: it excludes
    them, and not all of the others do. Its own namespace is the first one."""

    def is_useless(name: str) -> bool:
        return not excludes(registration, name) or is_excluded_by_all(others, name)

    own = (registration["clientConfig"].get("service") or {}).get("namespace", FIRST_NAMESPACE)
    return candidates(cluster, chosen, is_useless, own)


def is_excluded_by_all(mutators: Iterable[Mutator], namespace: str) -> bool:
    """Whether no pod of the namespace is mutated; False if no webhook or policy is known."""
    verdicts = [mutator.excludes(namespace) for mutator in mutators]
    return bool(verdicts) and all(verdicts)


def _existing(cluster: Cluster) -> Iterator[str]:
    try:
        for item in cluster.list(NAMESPACES_PATH):
            if "deletionTimestamp" not in item["metadata"]:
                yield item["metadata"]["name"]
    except ClusterError as error:
        # A user without this permission can name a namespace.
        if error.status != 403:
            raise


def prove(
    cluster: Cluster,
    pod: dict,
    namespaces: Iterable[str],
    names: Iterable[str],
    mark: str | None = None,
    *,
    looks_everywhere: bool = False,
) -> Proof:
    """Create the pod in dry runs, in one namespace after the other, until one admits it.

    `names` are those of the webhook or policy, whose own rejection is a result. With `looks_everywhere`, the pod counts
    as not mutated only if no namespace mutates it: which namespaces are excluded is not known.
    """
    rejections: list[str] = []
    first_unchanged: Proof | None = None
    for namespace in namespaces:
        try:
            created = cluster.create(f"/api/v1/namespaces/{namespace}/pods", pod, dryRun="All")
        except ClusterError as error:
            text = str(error)
            # Neither says anything about the pod: credentials that have expired, and an API server that is away.
            if error.status in (None, 401) or (error.transient and not is_of(text, names)):
                raise
            if error.status == 403 and not rejections and _lacks_runtime_class(cluster, pod):
                return Proof(NO_RUNTIME_CLASS)
            if is_of(text, names) or (error.status >= 500 and "calling webhook" not in text):
                return Proof(NOT_MUTATED, namespace, (text,))
            rejections.append(text)
            continue
        reason = _why_unchanged(created, mark)
        if reason is None:
            return Proof(MUTATED, namespace)
        first_unchanged = first_unchanged or Proof(NOT_MUTATED, namespace, (reason,))
        if not looks_everywhere:
            break
    return first_unchanged or Proof(REJECTED, reasons=tuple(rejections))


def is_of(text: str, names: Iterable[str]) -> bool:
    """Whether an error of the API server names one of these webhooks or policies as its source."""
    return any(f'webhook "{name}"' in text or f"policy '{name}'" in text for name in names)


def _why_unchanged(created: dict, mark: str | None) -> str | None:
    if not is_accounted_for(created):
        return f"the pod was returned without {EXTENDED_RESOURCE}."
    if mark and created["metadata"]["annotations"].get(MUTATED_BY) != mark:
        return "the pod was mutated, but not by the current policy."
    return None


def _lacks_runtime_class(cluster: Cluster, pod: dict) -> bool:
    try:
        return cluster.get(f"{RUNTIME_CLASSES_PATH}/{pod['spec']['runtimeClassName']}") is None
    except ClusterError as error:
        # The rejection itself names its reason.
        if error.status != 403:
            raise
        return False


def probe_pod(runtime_class: str, object_selector: dict | None, annotations: dict[str, str] | None = None) -> dict:
    """A pod that must be mutated, and that the strictest Pod Security Standard admits."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "peer-pod-probe-",
            "labels": (object_selector or {}).get("matchLabels") or {},
            "annotations": {PROBE: "", **(annotations or {})},
        },
        "spec": {
            "runtimeClassName": runtime_class,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": "never-pulled",
                    "resources": {"requests": {"cpu": "10m"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
