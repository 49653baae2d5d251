# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The agent's settings, from environment variables (listed in README.md)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no")


@dataclass(frozen=True)
class Settings:
    namespace: str = "osc-peerpods"
    peerpodconfig_namespace: str = "openshift-sandboxed-containers-operator"
    resource: str = "kata.peerpods.io/vm"
    lease_name: str = "peerpods-node-capacity"
    lease_duration_seconds: int = 15
    cloud_capacity_configmap: str = "peerpods-cloud-capacity"
    limits_configmap: str = "peerpods-limits"
    require_ready_adaptor: bool = True
    count_peer_pods: bool = True
    bind_address: str = "0.0.0.0"
    health_port: int = 8081

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Raises ValueError if a value is not valid."""
        address = env.get("BIND_ADDRESS") or cls.bind_address
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise ValueError(f"BIND_ADDRESS must be an IP address: {error}.") from error
        return cls(
            namespace=env.get("NAMESPACE") or cls.namespace,
            peerpodconfig_namespace=env.get("PEERPODCONFIG_NAMESPACE") or cls.peerpodconfig_namespace,
            resource=env.get("POD_VM_EXTENDED_RESOURCE") or cls.resource,
            lease_name=env.get("LEASE_NAME") or cls.lease_name,
            # A shorter Lease is lost in every short interruption of the API server.
            lease_duration_seconds=_number(env, "LEASE_DURATION_SECONDS", cls.lease_duration_seconds, 3, 3600),
            cloud_capacity_configmap=env.get("CLOUD_CAPACITY_CONFIGMAP") or cls.cloud_capacity_configmap,
            limits_configmap=env.get("LIMITS_CONFIGMAP") or cls.limits_configmap,
            require_ready_adaptor=_switch(env, "REQUIRE_READY_ADAPTOR", cls.require_ready_adaptor),
            count_peer_pods=_switch(env, "COUNT_PEER_PODS", cls.count_peer_pods),
            bind_address=address,
            health_port=_number(env, "HEALTH_PORT", cls.health_port, 1, 65535),
        )


def _number(env: Mapping[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    text = env.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and lowest <= int(text) <= highest):
        raise ValueError(f"{name} must be a whole number from {lowest} to {highest}; got {text!r}.")
    return int(text)


def _switch(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = (env.get(name) or str(default)).lower()
    if text not in TRUE + FALSE:
        raise ValueError(f"{name} must be true or false; got {text!r}.")
    return text in TRUE
