"""Azure: the emulated Resource Manager of the tests, the contenders that open ports there, and the cost of imports."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests import documented
from tests.azure_arm import AzureArm
from tests.azure_arm.az import AZURE_CLI, Az
from tests.cluster import openshift
from tests.cluster.azure import REGION, create_cloud_side
from tests.cluster.launcher import Cluster
from tests.environments import own_environment
from tests.support import ROOT

from .contenders import DOCUMENTED, IDLE, OURS, Contender, Job, World
from .kubernetes import NODES

# Those of the product documentation: name, priority and port.
RULES = (("Allow-Kata-Agent-Internal", 112, 15150), ("Allow-VXLAN-Internal", 111, 9000))
# Every contender adds the same rules.
CLUSTER = {
    "cluster_name": openshift.INFRASTRUCTURE_NAME,
    "cluster_id": openshift.CLUSTER_ID,
    "rules": [
        {"name": name, "priority": priority, "destination_port_ranges": [str(port)]} for name, priority, port in RULES
    ],
}

# The package ansible has the collection; these are the further requirements of the collection.
COLLECTIONS = Path(importlib.metadata.distribution("ansible").locate_file("."))
AZCOLLECTION = COLLECTIONS / "ansible_collections" / "azure" / "azcollection"


def install_azcollection() -> Path:
    """The bin directory of an environment with azure.azcollection's requirements.

    It pins older packages of the SDK than the tests use, so it gets its own environment, with the same
    version of ansible-core and the same collections.
    """
    version = importlib.metadata.version("ansible-core")
    programs = own_environment(
        f"azcollection-ansible-core-{version}",
        f"ansible-core=={version}",
        "kubernetes",
        "-r",
        str(AZCOLLECTION / "requirements.txt"),
    )
    (clouds,) = programs.parent.glob("lib/python*/site-packages/azure/cli/core/cloud.py")
    source = clouds.read_text()
    if CLOUD_BY_URL not in source:
        clouds.unlink()  # The file may be a hard link to the package installer's cache.
        clouds.write_text(source + CLOUD_BY_URL)
    return programs


# The collection (3.12.0) calls this for a cloud_environment that is a URL, and azure-cli-core, of
# the version that it requires, does not have it: without it, only Microsoft's own clouds are
# supported. The values that it would request from the cloud are known here.
CLOUD_BY_URL = """

def get_cloud_from_metadata_endpoint(url):
    endpoints = CloudEndpoints(
        active_directory=url, active_directory_resource_id=url, resource_manager=url + "/"
    )
    return Cloud(url, endpoints)
"""


def azure_azcollection(virtual_machines: str) -> list[dict]:
    """Three tasks of azure.azcollection that do what nsg_rules does.

    Its modules do not return the machine of an interface, so the tasks use OpenShift's names of
    both.
    """
    interfaces = (
        "{{ nics.networkinterfaces | selectattr('name', 'in', virtual_machines | map('split', '/')"
        " | map('last') | map('regex_replace', '$', '-nic')) | map(attribute='virtual_network')"
        " | unique }}"
    )
    prefix = "{{ item.address_prefix_cidr or item.address_prefixes_cidr }}"
    return [
        {
            "azure.azcollection.azure_rm_networkinterface_info": {
                "resource_group": "{{ (virtual_machines | first | split('resourceGroups/') | last"
                " | split('/') | first) }}"
            },
            "vars": {"virtual_machines": virtual_machines},
            "register": "nics",
        },
        {
            "azure.azcollection.azure_rm_subnet_info": {
                "resource_group": "{{ item.resource_group }}",
                "virtual_network_name": "{{ item.name }}",
                "name": "{{ item.subnet_id | split('/') | last }}",
            },
            "vars": {"virtual_machines": virtual_machines},
            "loop": interfaces,
            "register": "subnets",
        },
        {
            "azure.azcollection.azure_rm_securitygroup": {
                "resource_group": "{{ (item.security_group | split('/'))[4] }}",
                "name": "{{ item.security_group | split('/') | last }}",
                "purge_rules": False,
                "rules": [
                    {
                        "name": name,
                        "priority": priority,
                        "protocol": "Tcp",
                        "source_address_prefix": prefix,
                        "destination_address_prefix": prefix,
                        "destination_port_range": port,
                    }
                    for name, priority, port in RULES
                ],
            },
            "loop": "{{ subnets.results | map(attribute='subnets') | flatten }}",
        },
    ]


class AzureWorld(World):
    api = "ARM"
    packages = ("azure-core", "azure-identity", "azure-mgmt-network")
    cli = AZURE_CLI

    @classmethod
    @contextlib.contextmanager
    def started(cls, scratch: Path) -> Iterator[Self]:
        with AzureArm(scratch / "arm") as arm, Cluster(definitions=openshift.definitions()) as cluster:
            yield cls(cluster, scratch, arm)

    def __init__(self, cluster: Cluster, scratch: Path, arm: AzureArm):
        super().__init__(cluster, scratch)
        self._arm = arm
        self._az = own_environment(AZURE_CLI)
        self._azcollection = install_azcollection()
        az = Az(arm, scratch / "az")
        self.environment = {
            **{key: az.environment[key] for key in az.environment if key.startswith("AZURE_")},
            **arm.environment,
        }
        side = create_cloud_side(arm, 0)
        self._nsg = side.nsg_id
        openshift.fill(cluster, (), REGION, openshift.azure_status(side.resource_group))

    def grow(self, count: int) -> None:
        self.workers = list(create_cloud_side(self._arm, count).workers)
        self.cluster.apply(*(openshift.node(worker, REGION) for worker in self.workers))
        self.variables = {"workers": [worker.provider_id for worker in self.workers]}

    def take_calls(self) -> int:
        return len(self._arm.take_requests())

    def jobs(self) -> tuple[Job, ...]:
        azcollection = Contender("azure.azcollection", programs=self._azcollection, collections=COLLECTIONS)
        return (
            Job(
                "open the ports, given the VMs",
                (
                    Contender(OURS, [{f"{OURS}.nsg_rules": {**CLUSTER, "virtual_machines": "{{ workers }}"}}]),
                    dataclasses.replace(azcollection, tasks=azure_azcollection("{{ workers }}")),
                ),
                self._close_ports,
                self._ports_open,
            ),
            Job(
                "open the ports, given the cluster",
                (
                    Contender(OURS, [{f"{OURS}.nsg_rules": {**CLUSTER, "nodes": {}}}]),
                    dataclasses.replace(
                        azcollection,
                        name=f"kubernetes.core + {azcollection.name}",
                        tasks=[
                            NODES,
                            *azure_azcollection("{{ nodes.resources | map(attribute='spec.providerID') }}"),
                        ],
                    ),
                    Contender(DOCUMENTED, script=documented.AZURE_PORTS, programs=self._az),
                ),
                self._close_ports,
                self._ports_open,
            ),
            Job(
                IDLE,
                (
                    dataclasses.replace(
                        azcollection,
                        name="ansible-playbook, their environment",
                        tasks=[{"ansible.builtin.meta": "noop"}],
                    ),
                ),
            ),
        )

    def _close_ports(self) -> None:
        for name, *_ in RULES:
            for suffix in ("", f"-{openshift.INFRASTRUCTURE_NAME}"):
                self._arm.delete(f"{self._nsg}/securityRules/{name}{suffix}")

    def _ports_open(self) -> bool:
        rules = self._arm.resources[self._nsg.lower()]["properties"]["securityRules"]
        # The names of the collection's rules end with that of the cluster.
        names = {rule["name"].removesuffix(f"-{openshift.INFRASTRUCTURE_NAME}") for rule in rules}
        return names.issuperset(name for name, *_ in RULES)


# -- Importing ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """The imports of a process: seconds, and MB at the end."""

    name: str
    seconds: float
    memory: float


# Collections are found as ansible finds them, without the time that its loader takes.
_TIMED = """
import resource, sys, time, types
import ansible.module_utils.basic
sys.modules["ansible_collections"] = collections = types.ModuleType("ansible_collections")
collections.__path__ = sys.argv[1:]
began = time.perf_counter()
{statements}
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def imports(runs: int) -> Iterator[Import]:
    """Measure each import in its own process, after a run that compiles and caches it."""
    python_of_azcollection = install_azcollection() / "python"
    search_path = [str(ROOT / "collections" / "ansible_collections"), str(AZCOLLECTION.parents[1])]
    azcollection = "import ansible_collections.azure.azcollection.plugins"
    for name, python, statements in (
        (
            f"{OURS}.nsg_rules and azure.identity",
            Path(sys.executable),
            "import ansible_collections.osc.peerpods.plugins.modules.nsg_rules, azure.identity",
        ),
        (
            "azure.mgmt.network and azure.identity",
            Path(sys.executable),
            "import azure.mgmt.network, azure.mgmt.network.models, azure.identity",
        ),
        (
            "azure.azcollection.azure_rm_securitygroup",
            python_of_azcollection,
            f"{azcollection}.modules.azure_rm_securitygroup",
        ),
    ):
        results = [
            tuple(
                map(
                    float,
                    subprocess.run(
                        [python, "-c", _TIMED.format(statements=statements), *search_path],
                        capture_output=True,
                        text=True,
                        check=True,
                    ).stdout.split(),
                )
            )
            for _ in range(1 + runs)
        ][1:]
        seconds, memory = zip(*results, strict=True)
        yield Import(name, round(statistics.median(seconds), 3), round(statistics.median(memory)))
