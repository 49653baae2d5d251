# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Resources that the API server rejects: a pure function from a pod to sentences.

The API server validates a pod after its mutation, which removes these resources. The rules are those of
validateResourceRequirements, validatePodResources and what they call, in pkg/apis/core/validation and
pkg/apis/core/helper of k8s.io/kubernetes. From 1.37 on, the API server also sets the defaults of the resources of a
whole pod after its mutation: those of defaultHugePagePodLimits and defaultPodRequests in pkg/apis/core/v1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain

from . import quantity
from .pod import NO_RESOURCES, Container, PodSpec, Resources, Side
from .quantity import printable

HUGE_PAGES = "hugepages-"

# The resources of containers that have no prefix, besides huge pages, and those of a whole pod.
CONTAINER_RESOURCES, POD_RESOURCES = ("cpu", "memory", "ephemeral-storage"), ("cpu", "memory")

THOUSANDTH = quantity.ONE // 1000

_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")

# Amounts in billionths by resource.
Amounts = Mapping[str, int]


def violations(spec: PodSpec) -> Iterator[str]:
    """A sentence for each reason why the API server would reject the resources of the pod."""
    for container in chain(spec.containers or (), spec.initContainers or ()):
        resources = container.resources or NO_RESOURCES
        limits, requests = _amounts(resources, "limits"), _amounts(resources, "requests")
        for sentence in _of_resources(limits, requests, CONTAINER_RESOURCES):
            yield f"container {printable(container.name)}: {sentence}"
    if spec.resources:
        if spec.resources.claims is not None:
            yield "spec: resources.claims is not supported for a whole pod."
        limits, requests = _with_defaults(spec, spec.resources)
        for sentence in chain(_of_resources(limits, requests, POD_RESOURCES), _of_whole_pod(spec, limits, requests)):
            yield f"spec: {sentence}"


def _with_defaults(spec: PodSpec, resources: Resources) -> tuple[Amounts, Amounts]:
    """The limits and requests of a whole pod, with the defaults that those of its containers imply."""
    limits, requests = dict(_amounts(resources, "limits")), dict(_amounts(resources, "requests"))
    if limits or requests:
        for name in filter(_is_huge_pages, _names(spec, "limits")):
            if name not in requests:
                limits.setdefault(name, _aggregate(spec, "limits", name))
    if limits:
        for name in POD_RESOURCES:
            if name in _names(spec, "requests"):
                requests.setdefault(name, _aggregate(spec, "requests", name))
        for name, limit in limits.items():
            if name in POD_RESOURCES or _is_huge_pages(name):
                requests.setdefault(name, limit)
    return limits, requests


def _names(spec: PodSpec, side: Side) -> set[str]:
    """The resources that at least one container has."""
    containers = chain(spec.containers or (), spec.initContainers or ())
    return {name for each in containers for name in _amounts(each.resources or NO_RESOURCES, side)}


def _of_resources(limits: Amounts, requests: Amounts, names: tuple[str, ...]) -> Iterator[str]:
    for side, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            if reason := _why_invalid_name(name, names) or _why_invalid_amount(name, amount):
                yield f"resources.{side}[{printable(name)}]: {reason}."
    for name, request in requests.items():
        limit = limits.get(name)
        if not _overcommits(name):
            if request != limit:
                yield f"resources.requests[{printable(name)}] must be equal to the limit."
        elif limit is not None and request > limit:
            yield f"resources.requests[{printable(name)}] is more than the limit."
    if any(map(_is_huge_pages, (*limits, *requests))) and not {"cpu", "memory"} & {*limits, *requests}:
        yield "huge pages require a request or a limit of cpu or memory."


def _of_whole_pod(spec: PodSpec, limits: Amounts, requests: Amounts) -> Iterator[str]:
    for name, request in requests.items():
        if _aggregate(spec, "requests", name) > request:
            yield f"resources.requests[{printable(name)}] is less than the requests of the containers."
    for name, limit in limits.items():
        if _is_huge_pages(name) and _aggregate(spec, "limits", name) > limit:
            yield f"resources.limits[{printable(name)}] is less than the limits of the containers."
        for container in spec.containers or ():
            if _amount_of(container, "limits", name) > limit:
                yield f"resources.limits[{printable(name)}] is less than that of container {printable(container.name)}."


def _aggregate(spec: PodSpec, side: Side, name: str) -> int:
    """What the containers take together, as AggregateContainerRequests in k8s.io/component-helpers/resource."""
    running = peak = 0
    for container in spec.initContainers or ():
        amount = _amount_of(container, side, name)
        peak = max(peak, running + amount)
        if container.restartPolicy == "Always":
            running += amount
    return max(peak, running + sum(_amount_of(container, side, name) for container in spec.containers or ()))


def _amount_of(container: Container, side: Side, name: str) -> int:
    return _amounts(container.resources or NO_RESOURCES, side).get(name, 0)


def _amounts(resources: Resources, side: Side) -> Amounts:
    """Raises ValueError if an amount is not a quantity, which the API server rejects before admission."""
    return {name: quantity.parse(str(value)) for name, value in (getattr(resources, side) or {}).items()}


def _why_invalid_name(name: str, unprefixed: tuple[str, ...]) -> str | None:
    prefix, slash, last = name.rpartition("/")
    if not _is_qualified(prefix, slash, last):
        return "the name is not valid"
    if name in unprefixed or _is_huge_pages(name):
        return None
    if not slash or unprefixed is POD_RESOURCES:
        return f"the resource is not {', '.join(unprefixed)} or huge pages"
    is_extended = not name.startswith("requests.") and _is_qualified(f"requests.{prefix}", slash, last)
    return None if _is_native(name) or is_extended else "the name is not that of an extended resource"


def _is_qualified(prefix: str, slash: str, last: str) -> bool:
    if slash and not (_PREFIX.fullmatch(prefix) and len(prefix) <= 253):
        return False
    return _NAME.fullmatch(last) is not None and len(last) <= 63


def _why_invalid_amount(name: str, amount: int) -> str | None:
    if amount < 0:
        return "the amount is negative"
    if _is_huge_pages(name):
        try:
            size = quantity.parse(name.removeprefix(HUGE_PAGES))
        except ValueError:
            return "the name has no page size"
        is_multiple = (
            size > 0 and _is_whole(size) and quantity.ceil_divide(amount, quantity.ONE) * quantity.ONE % size == 0
        )
        return None if is_multiple else "the amount is not a multiple of the page size"
    if not _is_native(name) and not _is_whole(amount):
        return "the amount is not a whole number"
    return None


def _is_whole(amount: int) -> bool:
    """As in Kubernetes, after rounding up to thousandths."""
    return quantity.ceil_divide(amount, THOUSANDTH) % 1000 == 0


def _is_native(name: str) -> bool:
    return "/" not in name or "kubernetes.io/" in name


def _is_huge_pages(name: str) -> bool:
    return name.startswith(HUGE_PAGES)


def _overcommits(name: str) -> bool:
    return _is_native(name) and not _is_huge_pages(name)
