# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The fields of a pod that its mutation depends on, with the names of the API; all others are not decoded."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Side = Literal["requests", "limits"]
Amounts = dict[str, str | int | float]


# The prefix of the annotations with which kata sizes the VM.
HYPERVISOR = "io.katacontainers.config.hypervisor."


def _of_hypervisor(name: str) -> Any:
    return msgspec.field(default=msgspec.UNSET, name=f"{HYPERVISOR}{name}")


class Resources(msgspec.Struct, frozen=True, omit_defaults=True):
    """ResourceRequirements of a container or of a whole pod.

    The API server sends quantities as strings in canonical form. It accepts JSON numbers, too.
    """

    claims: list[Any] | None = None
    limits: Amounts | None = None
    requests: Amounts | None = None


NO_RESOURCES = Resources()


class Container(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str = ""
    resources: Resources | None = None
    restartPolicy: str | None = None  # noqa: N815


class PodSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    containers: list[Container] | None = None
    initContainers: list[Container] | None = None  # noqa: N815
    resources: Resources | None = None
    runtimeClassName: str | None = None  # noqa: N815


class Annotations(msgspec.Struct, frozen=True, omit_defaults=True):
    """The annotations that size the VM. Decoding all annotations could take longer than everything else."""

    default_vcpus: str | msgspec.UnsetType = _of_hypervisor("default_vcpus")
    default_memory: str | msgspec.UnsetType = _of_hypervisor("default_memory")
    default_gpus: str | msgspec.UnsetType = _of_hypervisor("default_gpus")
    # Selects an instance type.
    machine_type: str | msgspec.UnsetType = _of_hypervisor("machine_type")


class ObjectMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    annotations: Annotations | None = None
    generateName: str | None = None  # noqa: N815
    name: str | None = None


class Pod(msgspec.Struct, frozen=True, omit_defaults=True):
    metadata: ObjectMeta | None = None
    spec: PodSpec | None = None
