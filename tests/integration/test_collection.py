"""The release: a tarball, installed into an empty directory, on the supported ansible-core versions.

The tests depend on their order: the oldest ansible-core installs, and all output and files of that run are searched for
the credentials; then newer versions change nothing.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sysconfig
import tarfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster import aws, openshift
from tests.cluster.clouds import site_variables
from tests.cluster.launcher import Cluster
from tests.environments import ansible_core
from tests.integration.site import NOTHING_CHANGED, Site, artifacts, as_texts
from tests.support import ROOT, ansible_environment, build_collection

OLDEST = "2.17"

# The versions between the oldest and the version that all other tests use, which test_site.py has.
BETWEEN = ["2.18"]

# The versions that require a newer Python than the oldest supported Python.
NEWER = ["2.20", "2.21"]


def programs(core: str) -> Path:
    programs_of_core = ansible_core(core)
    if programs_of_core is None:
        pytest.skip(f"ansible-core {core} takes a newer Python than this machine has")
    return programs_of_core


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_collection(tmp_path_factory.mktemp("tarball"))


def galaxy(*arguments: str, installed: str) -> None:
    completed = subprocess.run(
        ["ansible-galaxy", "collection", *arguments],
        env=ansible_environment({"ANSIBLE_COLLECTIONS_PATH": installed}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


@dataclass
class Installed(Site):
    """The site from the tarball, run with version `core` of ansible-core; None is the version of all other tests."""

    collections: Path
    core: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        environment = super().environment
        # The dependencies of the collection, as `ansible-galaxy` would install them.
        site_packages = sysconfig.get_path("purelib")
        environment["ANSIBLE_COLLECTIONS_PATH"] = f"{self.collections}{os.pathsep}{site_packages}"
        if self.core:
            environment["PATH"] = f"{programs(self.core)}{os.pathsep}{environment['PATH']}"
        return environment

    def command(self) -> list[str]:
        return ["ansible-playbook", "osc.peerpods.site", "-e", json.dumps(self.variables)]

    def _run(self, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """As its own process, of the installed programs."""
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
        )


@pytest.fixture(scope="module")
def installed(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    collections, empty = tmp_path_factory.mktemp("collections"), tmp_path_factory.mktemp("empty")
    galaxy("install", str(tarball), "--offline", "--no-deps", installed=str(collections))
    moto = aws.Moto(tmp_path_factory.mktemp("moto"))
    # The processes of other tests, which are searched as well, have the secret of moto.
    environment = {**moto.environment, "AWS_SECRET_ACCESS_KEY": f"only/here+{uuid.uuid4()}"}
    try:
        cloud = aws.create_cloud_side(moto, workers=2)
        with Cluster(definitions=openshift.definitions()) as cluster:
            openshift.fill(cluster, cloud.workers, aws.REGION)
            openshift.start_stand_ins(cluster, "process", cloud_environment=environment)
            yield Installed(
                cluster,
                cloud,
                environment,
                list,
                site_variables("process"),
                collections,
                directory=empty,
            )
    finally:
        moto.processes.stop()


def test_the_files_of_the_tarball(tarball: Path):
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
    tops = {name.partition("/")[0] for name in names}
    assert {"plugins", "roles", "playbooks", "containers", "meta", "LICENSE"} <= tops
    assert tops.isdisjoint({".git", ".venv", "build", "collections", ".ci"})
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    # OpenShift builds the images from these files.
    assert "containers/webhook/peerpods_webhook/application.py" in names


@pytest.fixture(scope="module")
def traces(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All traces of a first run that other users may read, by kind."""
    directory = tmp_path_factory.mktemp("left-behind")
    installed.core = OLDEST
    with arguments_of_processes() as arguments:
        completed = installed.run(
            "-vvv",
            "--diff",
            ANSIBLE_LOG_PATH=str(directory / "log"),
            ANSIBLE_CACHE_PLUGIN="ansible.builtin.jsonfile",
            ANSIBLE_CACHE_PLUGIN_CONNECTION=str(directory / "facts"),
            ANSIBLE_RETRY_FILES_ENABLED="True",
        )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    files = [path for path in [*directory.rglob("*"), *installed.directory.rglob("*")] if path.is_file()]
    return {
        "output": completed.stdout + completed.stderr,
        "arguments": "\n".join(arguments),
        **{str(path): path.read_text(errors="replace") for path in files},
        # The URL and user of each request, and the body of some.
        "audit log": installed.cluster.audit_log.read_text(),
    }


@contextmanager
def arguments_of_processes() -> Iterator[set[str]]:
    """The arguments of every process that runs during the block."""
    arguments_seen: set[str] = set()
    # A process has its arguments soon after its start, and is read twice: to read all processes all the time takes a
    # third of a core.
    reads: Counter[Path] = Counter()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                if reads[process] == 2:
                    continue
                try:
                    arguments_seen.add((process / "cmdline").read_text(errors="replace").replace("\0", " "))
                except OSError:
                    # The process has ended.
                    continue
                reads[process] += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield arguments_seen
    finally:
        done.set()
        thread.join()


class TestSecrets:
    def test_no_run_leaves_a_secret_behind(self, installed: Installed, traces: dict[str, str]):
        """The ID of the access key is not a secret, and amazon.aws prints it at -vvv."""
        secret = installed.cloud_environment["AWS_SECRET_ACCESS_KEY"]
        forms = {secret, base64.b64encode(secret.encode()).decode(), json.dumps(secret)[1:-1]}
        assert [origin for origin, text in traces.items() if any(f in text for f in forms)] == []

    def test_the_searched_output_is_complete(self, traces: dict[str, str]):
        assert "TASK [osc.peerpods.operator_install" in traces["output"]
        assert f"ansible-playbook [core {OLDEST}." in traces["output"]
        assert "-vvv --diff" in traces["arguments"]
        (log,) = (text for origin, text in traces.items() if origin.endswith("/log"))
        assert "TASK [osc.peerpods.operator_install" in log

    @pytest.mark.usefixtures("traces")
    def test_the_run_used_a_secret(self, installed: Installed):
        secret = installed.cluster.get("secret", "peer-pods-secret", "-n", "openshift-sandboxed-containers-operator")[
            "data"
        ]["AWS_SECRET_ACCESS_KEY"]
        assert base64.b64decode(secret).decode() == installed.cloud_environment["AWS_SECRET_ACCESS_KEY"]


@pytest.mark.usefixtures("traces")
@pytest.mark.parametrize("core", [*BETWEEN, *NEWER])
def test_another_ansible_core_changes_nothing(installed: Installed, core: str):
    installed.core = core
    # Nor do the same options as texts, which is what each of them is on a command line.
    completed = installed.run(*as_texts(installed.variables))
    assert NOTHING_CHANGED.search(completed.stdout), completed.stdout + completed.stderr
    assert list(installed.directory.iterdir()) == []
    # Numbers stay numbers.
    assert artifacts(completed.stdout)["peerpods_site"]["rollout"]["nodes"] == 2


def test_both_files_have_the_same_dependencies():
    """AWX reads one of the files, and ansible-galaxy reads the other file."""
    galaxy_yml = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    for_awx = yaml.safe_load((ROOT / "collections/requirements.yml").read_text())
    assert galaxy_yml["dependencies"] == {
        requirement["name"]: requirement["version"] for requirement in for_awx["collections"]
    }


@pytest.mark.parametrize("kind", ["module", "role", "filter"])
def test_all_plugins_and_roles_are_documented(installed: Installed, kind: str):
    completed = subprocess.run(
        ["ansible-doc", "-t", kind, "-l", "-j", "osc.peerpods"],
        env=installed.environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=installed.directory,
    )
    assert completed.returncode == 0, completed.stderr
    listed = set(json.loads(completed.stdout))
    folder = {"module": "plugins/modules", "role": "roles", "filter": "plugins/filter"}[kind]
    existing = {path.stem for path in (ROOT / folder).glob("[a-z]*")}
    assert listed == {f"osc.peerpods.{name}" for name in existing}
