# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The mutation of a peer pod: a pure function from a pod to a JSON patch (RFC 6902).

The containers of a peer pod run in a VM of their own in the cloud. Their resources size that VM
and must not count against the worker node. There, the VM itself counts: one extended resource.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from . import quantity
from .pod import HYPERVISOR, NO_RESOURCES, Amounts, Container, ObjectMeta, Pod, PodSpec, Resources, Side
from .validate import violations

DEFAULT_RUNTIME_CLASS = "kata-remote"
DEFAULT_EXTENDED_RESOURCE = "kata.peerpods.io/vm"

MEBIBYTE = 2**20

# Limits of the cache of patches: entries, and the decisive fields of a pod as JSON.
MAX_CACHED_PATCHES = 1024
MAX_CACHED_BYTES = 4096

# How many reasons for a rejection are returned.
MAX_SENTENCES = 5


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operation of a JSON patch."""

    op: str
    path: str
    value: Any = msgspec.UNSET


class InvalidPodError(ValueError):
    """A pod that cannot become a peer pod. The message is for the author of the pod."""


class Sizing(StrEnum):
    """How the amounts of containers add up to the size of their VM."""

    # The sum over all containers and init containers, as in cloud-api-adaptor's webhook.
    UPSTREAM = "upstream"
    # The effective request of a pod in Kubernetes: init containers run one after the other before
    # the containers start, except for sidecars, which keep running.
    KUBERNETES = "kubernetes"


class Policy(msgspec.Struct, frozen=True, cache_hash=True):
    """Which pods are peer pods, how their VM is sized, the extended resource that counts VMs, and whether pods are
    rejected whose resources the API server would reject."""

    runtime_classes: frozenset[str] = frozenset({DEFAULT_RUNTIME_CLASS})
    extended_resource: str = DEFAULT_EXTENDED_RESOURCE
    sizing: Sizing = Sizing.UPSTREAM
    validates_resources: bool = False

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Policy:
        """Raises ValueError if a value is invalid."""
        # The product documentation uses the first name, cloud-api-adaptor the second.
        value = env.get("TARGET_RUNTIME_CLASS") or env.get("TARGET_RUNTIMECLASS") or DEFAULT_RUNTIME_CLASS
        runtime_classes = frozenset(name.strip() for name in value.split(",") if name.strip())
        if not runtime_classes:
            raise ValueError(
                f"TARGET_RUNTIME_CLASS is {value!r}, which contains no runtime class. Set it to one "
                f"or more names separated by commas, such as {DEFAULT_RUNTIME_CLASS}."
            )
        sizing = env.get("SIZING") or Sizing.UPSTREAM
        if sizing not in list(Sizing):
            raise ValueError(f"SIZING is {sizing!r}. Set it to {' or '.join(Sizing)}.")
        return cls(
            runtime_classes,
            env.get("POD_VM_EXTENDED_RESOURCE") or DEFAULT_EXTENDED_RESOURCE,
            Sizing(sizing),
            env.get("VALIDATE_RESOURCES", "").lower() in ("1", "true", "yes"),
        )


class Dimension(NamedTuple):
    """A resource that sizes the VM, the name of its annotation after HYPERVISOR, and the unit of that."""

    resource: str
    name: str
    unit: int
    # Kubernetes does not allow the limit of an extended resource to exceed its request.
    overcommits: bool = True


DIMENSIONS = (
    Dimension("cpu", "default_vcpus", quantity.ONE),
    Dimension("memory", "default_memory", MEBIBYTE * quantity.ONE),
    Dimension("nvidia.com/gpu", "default_gpus", quantity.ONE, overcommits=False),
)

# No amounts of the resources that size the VM, to be added to.
ZERO = {dimension.resource: 0 for dimension in DIMENSIONS}

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[ObjectMeta | None, PodSpec]).decode


def mutate(pod: Pod, policy: Policy) -> bytes:
    """The JSON patch that makes `pod` a peer pod, or nothing if the pod needs no change.

    Raises InvalidPodError if an amount that sizes the VM is invalid.
    """
    spec, metadata = pod.spec, pod.metadata
    if spec is None or spec.runtimeClassName not in policy.runtime_classes:
        return b""
    # The pods of a workload rarely differ in these fields, and therefore share their patch.
    decisive = _encode((metadata and ObjectMeta(metadata.annotations), spec))
    return _cached_patch(decisive, policy) if len(decisive) <= MAX_CACHED_BYTES else _patch(metadata, spec, policy)


@functools.lru_cache(MAX_CACHED_PATCHES)
def _cached_patch(decisive: bytes, policy: Policy) -> bytes:
    return _patch(*_decode(decisive), policy)


def _patch(metadata: ObjectMeta | None, spec: PodSpec, policy: Policy) -> bytes:
    """The patch, which depends on nothing but the decisive fields of the pod and the policy."""
    sizes = _vm_sizes(spec, policy.sizing)
    if policy.validates_resources:
        _require_valid_resources(spec)
    patch = [
        *_annotation_operations(metadata, sizes),
        *_resources_operations(spec, policy.extended_resource),
    ]
    return _encode(patch) if patch else b""


def _require_valid_resources(spec: PodSpec) -> None:
    try:
        sentences = list(itertools.islice(violations(spec), MAX_SENTENCES))
    except ValueError as error:
        # The API server rejects what is not a quantity before admission.
        sentences = [f"resources: {error}."]
    if sentences:
        raise InvalidPodError(" ".join(sentences))


def _annotation_operations(metadata: ObjectMeta | None, sizes: dict[str, str]) -> Iterator[Operation]:
    """Add the annotations that size the VM, without changing those that the pod has."""
    present = metadata and metadata.annotations
    if not sizes or (present and present.machine_type):
        # An instance type determines the size.
        return
    annotations = {f"{HYPERVISOR}{name}": size for name, size in sizes.items()}
    if present:
        # The keys contain neither "~" nor "/": a JSON pointer needs no escaping.
        for name, size in sizes.items():
            if getattr(present, name) is msgspec.UNSET:
                yield Operation("add", f"/metadata/annotations/{HYPERVISOR}{name}", size)
    elif metadata:
        yield Operation("add", "/metadata/annotations", annotations)
    else:
        yield Operation("add", "/metadata", {"annotations": annotations})


def _resources_operations(spec: PodSpec, extended_resource: str) -> Iterator[Operation]:
    """Leave one VM in the first container as the only limit and request of the pod.

    Claims stay: a device that DRA allocated to the pod stays allocated, and a container without
    its claim would silently run without the device.
    """
    if spec.resources not in (None, NO_RESOURCES):
        yield Operation("remove", "/spec/resources")
    for field, containers in (("containers", spec.containers), ("initContainers", spec.initContainers)):
        for index, container in enumerate(containers or ()):
            current = container.resources or NO_RESOURCES
            amounts: Amounts | None = {extended_resource: "1"} if field == "containers" and index == 0 else None
            if current.limits == current.requests == amounts:
                continue
            path = f"/spec/{field}/{index}/resources"
            if amounts or current.claims is not None:
                yield Operation("add", path, Resources(current.claims, amounts, amounts))
            else:
                yield Operation("remove", path)


def _vm_sizes(spec: PodSpec, sizing: Sizing) -> dict[str, str]:
    """The sizes of the VM, each in its unit, by the names of their annotations after HYPERVISOR.

    A size is the limit if that is at least the request, else the request. As in
    cloud-api-adaptor's webhook, the limit of a container sizes nothing without a request: the API
    server has copied the limit to the request unless that was set to zero. It copies the limit of
    the whole pod after admission, so that this limit counts on its own.
    """
    requests = _totals(spec, "requests", sizing)
    limits = _totals(spec, "limits", sizing)
    pod_limits = (spec.resources and spec.resources.limits) or {}
    sizes = {}
    for resource, name, unit, overcommits in DIMENSIONS:
        size = requests[resource]
        if overcommits and (size or resource in pod_limits):
            size = max(size, limits[resource])
        if size:
            sizes[name] = str(quantity.ceil_divide(size, unit))
    return sizes


def _totals(spec: PodSpec, side: Side, sizing: Sizing) -> dict[str, int]:
    """The totals of all containers and init containers in billionths, for each of DIMENSIONS.

    The amounts of the whole pod replace those totals, as for the scheduler.

    Raises InvalidPodError for any invalid amount, also if that sizes nothing: the API server
    cannot validate what the patch removes.
    """
    totals = dict(ZERO)
    for container in spec.containers or ():
        for resource, amount in _amounts(container.resources, side, container):
            totals[resource] += amount
    if spec.initContainers:
        _add_init_containers(totals, spec.initContainers, side, sizing)
    totals.update(_amounts(spec.resources, side, None))
    return totals


def _add_init_containers(totals: dict[str, int], containers: list[Container], side: Side, sizing: Sizing) -> None:
    running, peak = dict(ZERO), dict(ZERO)
    for container in containers:
        keeps_running = container.restartPolicy == "Always" or sizing is Sizing.UPSTREAM
        for resource, amount in _amounts(container.resources, side, container):
            peak[resource] = max(peak[resource], running[resource] + amount)
            if keeps_running:
                running[resource] += amount
    for resource, amount in running.items():
        # As PodRequests in k8s.io/component-helpers/resource.
        totals[resource] = max(peak[resource], totals[resource] + amount)


def _amounts(resources: Resources | None, side: Side, container: Container | None) -> list[tuple[str, int]]:
    """The amounts that size the VM, in billionths. `container` is None for those of the whole pod."""
    if resources is None:
        return []
    amounts = []
    for resource, value in (getattr(resources, side) or {}).items():
        if resource not in ZERO:
            continue
        try:
            amount = quantity.parse(str(value))
            if amount < 0:
                raise ValueError(f"{quantity.quote(value)} is negative")
        except ValueError as error:
            owner = f'container "{container.name[:100]}"' if container else "spec"
            raise InvalidPodError(
                f"{owner}: resources.{side}[{resource}]: {error}. Set an amount such as 500m, 2 or 1.5Gi."
            ) from error
        amounts.append((resource, amount))
    return amounts
