"""Fixtures of all tests: a cluster and a cloud. The modules are importable as the collection.

The cluster and the cloud are real programs. They start when the first test uses them and are shared by the whole run:
tests use different names.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from ansible.plugins.loader import init_plugin_loader
from hypothesis import HealthCheck, settings

from tests import module_runs
from tests.azure_arm import AzureArm
from tests.cluster import aws, openshift
from tests.cluster.launcher import Cluster
from tests.support import OPERATOR_NAMESPACE, ROOT, ansible_environment

init_plugin_loader([str(ROOT / "collections")])

# The time of an example depends on the load of the machine.
settings.register_profile("osc.peerpods", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("osc.peerpods")
# Without its own frames, a failure of Hypothesis itself has no origin.
os.environ["HYPOTHESIS_NO_TRACEBACK_TRIM"] = "1"

# The files that take minutes, the slowest first. If one started last, the other workers would wait for it.
SLOW = (
    "containers/webhook/tests/test_certificate.py",
    "containers/node_capacity/tests/test_api_answers.py",
    "containers/webhook/tests/test_connections.py",
    "containers/webhook/tests/test_server.py",
    "containers/webhook/tests/test_tls.py",
    "tests/integration/test_site.py",
    "tests/integration/test_installations.py",
    "tests/integration/test_webhook_role.py",
    "tests/integration/test_webhook_faults.py",
    "tests/integration/test_rollout.py",
    "tests/integration/test_awx.py",
    "tests/integration/test_site_azure.py",
    "tests/integration/test_collection.py",
    "tests/integration/test_verify.py",
    "tests/integration/test_upgrade.py",
    "tests/integration/test_adaptor_config.py",
    "tests/integration/test_policy.py",
    "tests/integration/test_cloud_capacity.py",
    "tests/integration/test_stand_ins.py",
    "tests/integration/test_node_capacity_role.py",
    "tests/integration/test_preflight.py",
    "tests/integration/test_cluster.py",
    "tests/integration/test_kubernetes_faults.py",
    "tests/integration/test_operator_install.py",
    "containers/node_capacity/tests/test_generations_cluster.py",
    "containers/node_capacity/tests/test_faults_cluster.py",
    "tests/integration/test_documented_procedure.py",
    "tests/integration/test_teardown.py",
    "tests/integration/test_upgrade_by_olm.py",
    "tests/integration/test_security_group_ports.py",
    "containers/node_capacity/tests/test_leader_cluster.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests an empty directory for temporary files.

    kubernetes.core keeps there what it has discovered of an API server, by its URL, which a cluster of an earlier run
    may have had.
    """
    if hasattr(config, "workerinput"):
        return  # It has the environment of the process that started it.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    directory = tempfile.mkdtemp(prefix="osc-")
    os.chmod(directory, 0o1777)
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    os.environ["TMPDIR"] = directory
    tempfile.tempdir = None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shard", type=parse_shard, default="1/1", help="run a part of the files: 1/2 or 2/2")


def parse_shard(text: str) -> tuple[int, int]:
    """(1, 2) of `1/2`. Any other text would select a wrong part of the files, and the run would succeed."""
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    number, of = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= of:
        raise pytest.UsageError(f"--shard must be a number and a count, such as 1/2 or 2/2; got '{text}'.")
    return number, of


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark integration tests: those of that directory, and of a container those with a cluster. Sort the files.

    The files that share a cluster come last, since it runs until the end. Of the others and of these, slow ones come
    first.
    """
    for item in items:
        if _file(item).startswith("tests/integration/") or "cluster" in item.fixturenames:
            item.add_marker("integration")
    sharing = {_file(item) for item in items if _shares_cluster(item)}
    items.sort(key=lambda item: (_file(item) in sharing, _position(item)))
    files = shard(map(_file, items), *config.getoption("shard"))
    config.hook.pytest_deselected(items=[item for item in items if _file(item) not in files])
    items[:] = [item for item in items if _file(item) in files]


def shard(files: Iterable[str], number: int, of: int) -> set[str]:
    """Every `of`-th file of those of the tests, in the order in which they run."""
    return set(list(dict.fromkeys(files))[number - 1 :: of])


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _shares_cluster(item: pytest.Item) -> bool:
    """Whether the fixture `cluster` of the item is that of this file."""
    return "cluster" in item.fixturenames and not hasattr(item.module, "cluster")


def _position(item: pytest.Item) -> int:
    file = _file(item)
    return SLOW.index(file) if file in SLOW else len(SLOW)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[aws.Moto]:
    server = aws.Moto(tmp_path_factory.mktemp("moto"))
    yield server
    server.processes.stop()


@pytest.fixture(scope="session")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureArm]:
    """An empty Azure. Tests restore its state."""
    with AzureArm(tmp_path_factory.mktemp("arm")) as running:
        yield running


@pytest.fixture(scope="session")
def cloud_side(moto: aws.Moto) -> aws.CloudSide:
    """A VPC with security groups and the instances of the cluster's workers."""
    return aws.create_cloud_side(moto, workers=3)


@pytest.fixture(scope="session")
def cluster(cloud_side: aws.CloudSide) -> Iterator[Cluster]:
    """A cluster that looks like OpenShift on AWS, with an empty namespace of the operator."""
    with Cluster(definitions=openshift.definitions()) as running:
        openshift.fill(running, cloud_side.workers, aws.REGION)
        running.kubectl("create", "namespace", OPERATOR_NAMESPACE)
        yield running


@pytest.fixture
def run_module(tmp_path: Path) -> Callable[..., dict]:
    """Run a module in the environment of a user without settings; returns its result."""

    def run(
        name: str,
        args: dict,
        *,
        check: bool = False,
        diff: bool = False,
        env: dict[str, str] | None = None,
    ) -> dict:
        modes = {"_ansible_check_mode": check, "_ansible_diff": diff}
        return module_runs.run(name, {**args, **modes}, ansible_environment(env), tmp_path)

    return run
