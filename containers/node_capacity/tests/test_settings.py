"""The agent's environment variables."""

from __future__ import annotations

import pytest

from peerpods_node_capacity.settings import Settings


def test_defaults():
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"HEALTH_PORT": "", "NAMESPACE": "", "COUNT_PEER_PODS": ""}) == Settings()


def test_every_variable():
    read = Settings.from_env(
        {
            "NAMESPACE": "own",
            "PEERPODCONFIG_NAMESPACE": "configs",
            "POD_VM_EXTENDED_RESOURCE": "example.com/vm",
            "LEASE_NAME": "lease",
            "LEASE_DURATION_SECONDS": "60",
            "CLOUD_CAPACITY_CONFIGMAP": "cloud",
            "LIMITS_CONFIGMAP": "limits",
            "REQUIRE_READY_ADAPTOR": "no",
            "COUNT_PEER_PODS": "False",
            "BIND_ADDRESS": "::",
            "HEALTH_PORT": "9000",
        }
    )
    assert read == Settings(
        namespace="own",
        peerpodconfig_namespace="configs",
        resource="example.com/vm",
        lease_name="lease",
        lease_duration_seconds=60,
        cloud_capacity_configmap="cloud",
        limits_configmap="limits",
        require_ready_adaptor=False,
        count_peer_pods=False,
        bind_address="::",
        health_port=9000,
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HEALTH_PORT", "http", "from 1 to 65535"),
        ("HEALTH_PORT", "0", "from 1 to 65535"),
        ("HEALTH_PORT", "65536", "from 1 to 65535"),
        ("HEALTH_PORT", "٣", "from 1 to 65535"),
        ("LEASE_DURATION_SECONDS", "2", "from 3 to 3600"),
        ("LEASE_DURATION_SECONDS", "15s", "from 3 to 3600"),
        ("COUNT_PEER_PODS", "maybe", "true or false"),
        ("REQUIRE_READY_ADAPTOR", "maybe", "true or false"),
        ("BIND_ADDRESS", "localhost", "an IP address"),
    ],
)
def test_invalid_values(name, value, message):
    with pytest.raises(ValueError, match=f"{name} must be.*{message}"):
        Settings.from_env({name: value})
