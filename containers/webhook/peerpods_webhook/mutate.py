# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a peer pod must look like: a pure function from a pod to a JSON patch (RFC 6902).

A peer pod's containers run in a VM of their own in the cloud. What they ask for
sizes that VM and must not be counted against the worker node; what is counted
there is the VM: one extended resource.

The types below decode only those fields of a pod that the decision needs; their
names are the API's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from . import quantity

DEFAULT_RUNTIME_CLASS = "kata-remote"
DEFAULT_EXTENDED_RESOURCE = "kata.peerpods.io/vm"

MACHINE_TYPE = "io.katacontainers.config.hypervisor.machine_type"
MEBIBYTE = 2**20


class Resources(msgspec.Struct, frozen=True, omit_defaults=True):
    """ResourceRequirements, of a container or of a whole pod.

    The API server sends quantities as strings in canonical form; numbers are JSON that it
    would also take.
    """

    claims: list[Any] | None = None
    limits: dict[str, str | int | float] | None = None
    requests: dict[str, str | int | float] | None = None


class Container(msgspec.Struct, frozen=True):
    name: str = ""
    resources: Resources | None = None
    restartPolicy: str | None = None  # noqa: N815


class PodSpec(msgspec.Struct, frozen=True):
    containers: list[Container] | None = None
    initContainers: list[Container] | None = None  # noqa: N815
    resources: Resources | None = None
    runtimeClassName: str | None = None  # noqa: N815


class ObjectMeta(msgspec.Struct, frozen=True):
    annotations: dict[str, str] | None = None
    generateName: str | None = None  # noqa: N815
    name: str | None = None


class Pod(msgspec.Struct, frozen=True):
    metadata: ObjectMeta | None = None
    spec: PodSpec | None = None


class InvalidPodError(ValueError):
    """A pod that cannot become a peer pod; the message is for the person who wrote the pod."""


class Sizing(StrEnum):
    """How containers' amounts add up to the size of their VM."""

    # All containers and init containers, as cloud-api-adaptor's webhook adds them.
    UPSTREAM = "upstream"
    # What Kubernetes holds to be a pod's request: init containers run before the others and one
    # after the other, but for sidecars, which stay.
    KUBERNETES = "kubernetes"


@dataclass(frozen=True)
class Policy:
    """Which pods are peer pods, what sizes their VM, and the extended resource that stands for it."""

    runtime_classes: frozenset[str] = frozenset({DEFAULT_RUNTIME_CLASS})
    extended_resource: str = DEFAULT_EXTENDED_RESOURCE
    sizing: Sizing = Sizing.UPSTREAM

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Policy:
        """Raises ValueError, as a sentence, where a value makes no sense."""
        # The product's documentation has the first name, upstream's code the second.
        named = env.get("TARGET_RUNTIME_CLASS") or env.get("TARGET_RUNTIMECLASS")
        runtime_classes = frozenset(
            name.strip() for name in (named or DEFAULT_RUNTIME_CLASS).split(",") if name.strip()
        )
        if not runtime_classes:
            raise ValueError(
                f"TARGET_RUNTIME_CLASS is {named!r}, which names no runtime class: set it to one "
                f"or more names separated by commas, such as {DEFAULT_RUNTIME_CLASS}."
            )
        sizing = env.get("SIZING") or Sizing.UPSTREAM
        if sizing not in list(Sizing):
            raise ValueError(f"SIZING is {sizing!r}: set it to {' or '.join(Sizing)}.")
        return cls(
            runtime_classes,
            env.get("POD_VM_EXTENDED_RESOURCE") or DEFAULT_EXTENDED_RESOURCE,
            Sizing(sizing),
        )


@dataclass(frozen=True)
class Dimension:
    """One resource that sizes the VM: the annotation that carries it, and in what unit.

    Extended resources cannot be overcommitted, so that their limit says nothing more than
    their request.
    """

    resource: str
    annotation: str
    unit: int
    overcommits: bool = True


DIMENSIONS = (
    Dimension("cpu", "io.katacontainers.config.hypervisor.default_vcpus", quantity.ONE),
    Dimension(
        "memory",
        "io.katacontainers.config.hypervisor.default_memory",
        MEBIBYTE * quantity.ONE,
    ),
    Dimension(
        "nvidia.com/gpu",
        "io.katacontainers.config.hypervisor.default_gpus",
        quantity.ONE,
        overcommits=False,
    ),
)

NOTHING = {dimension.resource: 0 for dimension in DIMENSIONS}


def mutate(pod: Pod, policy: Policy) -> list[dict[str, Any]]:
    """The JSON patch that makes `pod` a peer pod; empty where nothing is to change.

    Raises InvalidPodError where an amount that sizes the VM cannot be understood.
    """
    spec = pod.spec
    if spec is None or spec.runtimeClassName not in policy.runtime_classes:
        return []
    patch = [*_annotated(pod.metadata, _sizes(spec, policy.sizing))]
    if spec.resources not in (None, Resources()):
        patch.append({"op": "remove", "path": "/spec/resources"})
    vm = {policy.extended_resource: "1"}
    for index, container in enumerate(spec.containers or ()):
        patch += _with_resources(f"/spec/containers/{index}", container, vm if index == 0 else None)
    for index, container in enumerate(spec.initContainers or ()):
        patch += _with_resources(f"/spec/initContainers/{index}", container, None)
    return patch


def _with_resources(path: str, container: Container, amounts: dict[str, str] | None) -> Iterator[dict[str, Any]]:
    """Leave a container `amounts` as its only limits and requests.

    Claims stay: a device that DRA allocated to the pod stays allocated, and a container that
    lost its claim would run without the device and nobody would know.
    """
    current = container.resources or Resources()
    wanted = Resources(claims=current.claims, limits=amounts, requests=amounts)
    if current == wanted:
        return
    if wanted == Resources():
        yield {"op": "remove", "path": f"{path}/resources"}
    else:
        yield {"op": "add", "path": f"{path}/resources", "value": wanted}


def _annotated(metadata: ObjectMeta | None, sizes: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Add the annotations that size the VM, but touch none that the pod has already."""
    present = (metadata and metadata.annotations) or {}
    if present.get(MACHINE_TYPE):
        # An instance type says the size already.
        return
    if present:
        # The keys hold neither "~" nor "/": they are their own JSON pointer tokens.
        for annotation, size in sizes.items():
            if annotation not in present:
                yield {"op": "add", "path": f"/metadata/annotations/{annotation}", "value": size}
    elif sizes and metadata:
        yield {"op": "add", "path": "/metadata/annotations", "value": sizes}
    elif sizes:
        yield {"op": "add", "path": "/metadata", "value": {"annotations": sizes}}


def _sizes(spec: PodSpec, sizing: Sizing) -> dict[str, str]:
    """The annotations that say how large the VM is to be, each in its whole units.

    The limit where it is at least the request, else the request. As upstream, a container's limit
    alone sizes nothing: the API server has copied it to the request unless that was set to zero.
    The pod's own limit it copies only later, so that it counts alone.
    """
    requests, limits = (_totals(spec, side, sizing) for side in ("requests", "limits"))
    limits_of_pod = (spec.resources and spec.resources.limits) or ()
    sizes = {}
    for dimension in DIMENSIONS:
        resource = dimension.resource
        size = requests[resource]
        if dimension.overcommits and (size or resource in limits_of_pod):
            size = max(size, limits[resource])
        if size:
            sizes[dimension.annotation] = str(quantity.ceil_divide(size, dimension.unit))
    return sizes


def _totals(spec: PodSpec, side: str, sizing: Sizing) -> dict[str, int]:
    """What all containers and init containers come to, in billionths, for each of DIMENSIONS.

    What the pod as a whole asks for stands instead, as it does for the scheduler.

    Raises InvalidPodError for any amount that cannot be understood, also where it sizes nothing:
    its removal hides it from the API server.
    """
    totals = dict(NOTHING)
    for container in spec.containers or ():
        for resource, amount in _amounts(container.resources, side, container):
            totals[resource] += amount
    if spec.initContainers:
        _add_init_containers(totals, spec.initContainers, side, sizing)
    totals.update(_amounts(spec.resources, side, None))
    return totals


def _add_init_containers(totals: dict[str, int], containers: list[Container], side: str, sizing: Sizing) -> None:
    sidecars, alone = dict(NOTHING), dict(NOTHING)
    for container in containers:
        stays = container.restartPolicy == "Always" or sizing is Sizing.UPSTREAM
        for resource, amount in _amounts(container.resources, side, container):
            alone[resource] = max(alone[resource], sidecars[resource] + amount)
            if stays:
                sidecars[resource] += amount
    for resource, amount in sidecars.items():
        # As component-helpers' resource.PodRequests.
        totals[resource] = max(alone[resource], totals[resource] + amount)


def _amounts(resources: Resources | None, side: str, container: Container | None) -> Iterator[tuple[str, int]]:
    """Those that size the VM, in billionths; of the pod as a whole where `container` is None."""
    for resource, value in ((resources and getattr(resources, side)) or {}).items():
        if resource not in NOTHING:
            continue
        try:
            amount = quantity.parse(str(value))
            if amount < 0:
                raise ValueError(f"{quantity.quoted(value)} is negative")
        except ValueError as error:
            where = f'container "{container.name[:100]}"' if container else "spec"
            raise InvalidPodError(
                f"{where}: resources.{side}[{resource}]: {error}. Write an amount such as 500m, 2 or 1.5Gi."
            ) from error
        yield resource, amount
