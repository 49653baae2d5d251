"""Which VMs the roles check, open ports for and write to peer-pods-cm, by the options, the cluster and the cloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.playbook_runs import run_playbook
from tests.support import JSON_OUTPUT, ROOT, ansible_environment, local_play

FILES = (
    "cloud_networking/defaults/main.yml",
    "operator_install/defaults/main.yml",
    "cluster_prerequisites/defaults/main/main.yml",
    "cluster_prerequisites/vars/main.yml",
)
NOTHING: dict[str, list] = {
    "subnets": [],
    "security_groups": [],
    "network_security_groups": [],
    "default_sizes": [],
    "sizes": [],
}
CURRENT = {
    "subnets": ["current"],
    "security_groups": ["current"],
    "network_security_groups": ["current"],
    "default_sizes": ["current"],
    "sizes": ["a", "b"],
    "tunnel_ports": ["4789"],
}
AGENT = {"protocol": "Tcp", "destination_port_ranges": ["15150"], "to": ["vms"]}
TUNNEL = {"destination_port_ranges": ["4790"]}
IN_CM = {"cluster_prerequisites_cluster": {"pod_vms": CURRENT}}
NOT_IN_CM = {"cluster_prerequisites_cluster": {"pod_vms": NOTHING}}
SUBNETS = [{"id": "subnet-b"}, {"id": "subnet-a"}]
WORKERS = {
    "cluster_prerequisites_ports": {
        "instances": [{"subnet_id": "subnet-b"}, {"subnet_id": "subnet-a"}],
        "subnets": SUBNETS,
    }
}


def ports(tunnel: str) -> list[dict]:
    """The port of the tunnel is the one that cloud-api-adaptor gets."""
    return [
        {"port": 15150, "protocols": ["tcp"], "to": ["vms"]},
        {"port": tunnel, "protocols": ["tcp", "udp"], "to": ["vms", "workers"]},
    ]


# Options, and what follows from them. An option that is not set has an empty text in a survey.
CASES: list[tuple[dict, dict]] = [
    # test_nsg_attachments.py tests which group that is.
    (
        {"cloud_networking_report": {"subnets": SUBNETS, "vm_network_security_group": "nsg"}},
        {
            "operator_install_found_azure_subnet_id": "subnet-a",
            "operator_install_found_azure_nsg_id": "nsg",
            # The role cloud_networking may run again in the same play.
            "cloud_networking_vm_subnet_ids": [],
        },
    ),
    (
        {"cloud_networking_report": {"subnets": SUBNETS, "vm_network_security_group": None}},
        {"operator_install_found_azure_nsg_id": ""},
    ),
    ({}, {"operator_install_found_azure_subnet_id": "", "operator_install_found_azure_nsg_id": ""}),
    # A first installation, also before the cluster was read.
    (
        {**NOT_IN_CM, **WORKERS},
        {
            "cloud_networking_vm_security_group_ids": [],
            "cloud_networking_vm_subnet_ids": [],
            "cloud_networking_vm_network_security_group_ids": [],
            "cloud_networking_ports": ports("9000"),
            "cluster_prerequisites_aws_subnet_id": "subnet-a",
            "cluster_prerequisites_azure_subnet_id": "subnet-a",
        },
    ),
    (
        {},
        {
            "cluster_prerequisites_aws_instance_types": ["t3.medium"],
            "cluster_prerequisites_azure_sizes": ["Standard_B2als_v2"],
        },
    ),
    # What peer-pods-cm has stays. Whether its subnet is another than those of the workers is decided by the module.
    (
        {**IN_CM, **WORKERS, "operator_install_azure_nsg_id": "", "operator_install_aws_security_group_ids": ""},
        {
            "cloud_networking_vm_security_group_ids": ["current"],
            "cloud_networking_vm_subnet_ids": [],
            "cloud_networking_vm_network_security_group_ids": ["current"],
            "cloud_networking_ports": ports("4789"),
            "cluster_prerequisites_aws_subnet_id": "current",
            "cluster_prerequisites_azure_subnet_id": "current",
            "cluster_prerequisites_aws_instance_types": ["current", "a", "b"],
            "cluster_prerequisites_azure_sizes": ["current", "a", "b"],
        },
    ),
    # Options that are set replace it.
    (
        {
            **IN_CM,
            **WORKERS,
            "operator_install_aws_security_group_ids": "sg-1,sg-2",
            "operator_install_aws_subnet_id": "set",
            "operator_install_azure_subnet_id": "set",
            "operator_install_azure_nsg_id": "set",
            "operator_install_podvm_instance_type": "set",
            "operator_install_vxlan_port": "4790",
            "operator_install_azure_instance_sizes": ["set"],
        },
        {
            "cloud_networking_vm_security_group_ids": ["sg-1", "sg-2"],
            "cloud_networking_vm_subnet_ids": ["set"],
            "cloud_networking_vm_network_security_group_ids": ["set"],
            "cloud_networking_ports": ports("4790"),
            "cloud_networking_security_rules": [
                {**AGENT, "name": "Allow-Kata-Agent-Internal", "priority": 112},
                {**TUNNEL, "name": "Allow-VXLAN-Internal", "priority": 111, "protocol": "Tcp"},
                {**TUNNEL, "name": "Allow-VXLAN-UDP-Internal", "priority": 110, "protocol": "Udp"},
            ],
            "cluster_prerequisites_aws_subnet_id": "set",
            "cluster_prerequisites_azure_subnet_id": "set",
            "cluster_prerequisites_aws_instance_types": ["set", "a", "b"],
            "cluster_prerequisites_azure_sizes": ["current", "set"],
        },
    ),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What a role would see in each case."""
    tasks = [
        {
            "ansible.builtin.debug": {"msg": {name: f"{{{{ {name} }}}}" for name in expected}},
            "vars": options,
        }
        for options, expected in CASES
    ]
    playbook: Path = tmp_path_factory.mktemp("defaults") / "play.yml"
    files = [f"{ROOT}/roles/{file}" for file in FILES]
    playbook.write_text(json.dumps(local_play(tasks=tasks, vars_files=files)))
    completed = run_playbook(["ansible-playbook", str(playbook)], ansible_environment(JSON_OUTPUT))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return [task["hosts"]["localhost"]["msg"] for task in json.loads(completed.stdout)["plays"][0]["tasks"]]


@pytest.mark.parametrize("index", range(len(CASES)))
def test_the_defaults_of_the_vms(results: list[dict], index: int):
    assert results[index] == CASES[index][1]
