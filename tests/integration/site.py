"""The whole of site.yml on a bare cluster, for the tests of each cloud.

Here the webhook and the agent run as processes; `make demo` runs them as containers.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.permissions import needed

from tests.azure_arm import AzureArm, faults
from tests.cluster import aws, azure
from tests.cluster.adaptor import OWNER
from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.ec2_proxy import bad_weather as bad_weather_of_ec2
from tests.ec2_proxy import ec2_proxy
from tests.integration.apiserver import bad_weather as bad_weather_of_kubernetes
from tests.playbook_runs import run_playbook
from tests.support import KUBERNETES_CLIENT, ROOT, ansible_environment, local_play, role_options

NOTHING_CHANGED = re.compile(r"changed=0 +unreachable=0 +failed=0")

# Objects that the control plane creates and deletes by itself, such as Leases and Events.
FLEETING = ("componentstatuses", "events", "events.events.k8s.io", "leases.coordination.k8s.io")
# The history of writes is not part of the state.
BOOKKEEPING = ("generation", "managedFields", "resourceVersion")

Key = tuple[str, str | None, str]


@dataclass
class Site:
    """A bare cluster, a cloud for it, and `ansible-playbook site.yml` to run against both."""

    cluster: Cluster
    cloud: aws.CloudSide | azure.CloudSide
    # The environment variables for this cloud.
    cloud_environment: dict[str, str]
    # Reads all security rules of the cloud.
    rules: Callable[[], list[dict]]
    variables: dict
    # The working directory of the user.
    directory: Path = field(default=ROOT, kw_only=True)
    # The user's kubeconfig; None: that of the cluster's administrator.
    kubeconfig: Path | None = field(default=None, kw_only=True)
    # The cloud, if it is Azure.
    arm: AzureArm | None = field(default=None, kw_only=True)

    @property
    def environment(self) -> dict[str, str]:
        return ansible_environment(
            {
                **self.cloud_environment,
                "K8S_AUTH_KUBECONFIG": str(self.kubeconfig or self.cluster.kubeconfig),
                "ANSIBLE_SHOW_CUSTOM_STATS": "True",
            }
        )

    def command(self) -> list[str]:
        return ["ansible-playbook", str(ROOT / "site.yml"), "-e", json.dumps(self.variables)]

    def run(self, *arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
        """Run to the end; `environment` replaces variables, None removes one."""
        changed = {**self.environment, **environment}
        remaining = {name: value for name, value in changed.items() if value is not None}
        return self._run([*self.command(), *arguments], remaining)

    def _run(self, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return run_playbook(command, environment, self.directory)

    def run_and_kill(self, task: str, *arguments: str) -> None:
        """Run until `task` has begun, then kill -9 the playbook and all that it started."""
        with subprocess.Popen(
            [*self.command(), *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            output_lines = []
            for line in process.stdout:
                output_lines.append(line)
                if f": {task}]" in line:
                    break
            else:
                pytest.fail(f"{task} never began:\n{''.join(output_lines)}")
            os.killpg(process.pid, signal.SIGKILL)

    def written(self, since: int = 0) -> list[str]:
        """The writes of the playbook to the API server, without dry runs, since the audit log had that size."""
        with self.cluster.audit_log.open("rb") as log:
            log.seek(since)
            events = [json.loads(line) for line in log]
        return [
            f"{event['verb']} {event['requestURI']}"
            for event in events
            if event["verb"] in ("create", "update", "patch", "delete")
            # The user agent is optional, and clients of other tests do not set it.
            and event.get("userAgent", "").startswith(KUBERNETES_CLIENT)
            and "dryRun=All" not in event["requestURI"]
            # A review is not stored.
            and event.get("objectRef", {}).get("resource") != "selfsubjectaccessreviews"
        ]

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        logged, rules = self.cluster.audit_log.stat().st_size, self.rules()
        yield
        written = self.written(since=logged)
        assert not written, written
        assert self.rules() == rules


@dataclass
class RoleAlone(Site):
    """A site with a play of one role instead of site.yml."""

    playbook: Path

    def command(self) -> list[str]:
        return ["ansible-playbook", str(self.playbook), "-e", json.dumps(self.variables)]


@dataclass
class Reporting(RoleAlone):
    """A playbook that changes nothing and writes its findings into a report, such as preflight.yml."""

    @property
    def report(self) -> Path:
        return self.directory / "peerpods-report"

    def findings(self) -> dict[str, dict]:
        """What the last run wrote into its report, by check."""
        document = json.loads((self.report / f"{self.playbook.stem}.json").read_text())
        return {finding["check"]: finding for finding in document["findings"]}


def report_on(site: Site, playbook: str, directory: Path, *formats: str) -> tuple[Reporting, str]:
    """Run `preflight` or `report` on a site, with the report in that directory; returns it and the output."""
    path = ROOT / "playbooks" / f"{playbook}.yml"
    variables = {**site.variables, "report_formats": ["json", *formats]}
    reporting = Reporting(**{**vars(site), "playbook": path, "directory": directory, "variables": variables})
    with site.unchanged(), bad_weather(reporting) as troubled:
        completed = troubled.run()
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return reporting, completed.stdout


def teardown_of(site: Site) -> RoleAlone:
    """teardown.yml for a site, run by a user with exactly the permissions that the playbook checks first."""
    user = user_of(site.cluster, "teardown")
    return RoleAlone(**{**vars(site), "kubeconfig": user}, playbook=ROOT / "playbooks" / "teardown.yml")


def served_groups(cluster: Cluster) -> set[str]:
    return {group["name"] for group in json.loads(cluster.kubectl("get", "--raw", "/apis"))["groups"]}


def user_of(cluster: Cluster, playbook: str) -> Path:
    """The kubeconfig of a user with exactly the permissions that `playbook` checks first."""
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": playbook},
            "rules": [
                {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
                for (group, resource), verbs in needed(playbook, ["all"], served_groups(cluster)).items()
            ],
        }
    )
    cluster.kubectl("create", "clusterrolebinding", playbook, f"--clusterrole={playbook}", f"--user={playbook}")
    return cluster.user_kubeconfig(playbook)


def as_texts(variables: dict) -> tuple[str, str]:
    """The arguments that give the site's roles the same options as text, as a survey or a command line does."""
    options = role_options()
    values = {name: option["default"] for name, option in options.items() if "default" in option} | variables
    texts = {
        name: _as_text(value)
        for name, value in values.items()
        # Ansible's validation rejects the text of a list of dictionaries.
        if options[name].get("elements") != "dict"
    }
    return "-e", json.dumps(texts)


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "y" if value else "n"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def play_of(role: str, directory: Path) -> Path:
    """A playbook in `directory` that runs that role of the collection and nothing else."""
    path = directory / f"{role}.yml"
    path.write_text(json.dumps(local_play(roles=[f"osc.peerpods.{role}"])))
    return path


def artifacts(message: str) -> dict:
    """The result that the playbook published for the next job of a workflow."""
    (stats,) = re.findall(r"^\tRUN: (.*)$", message, re.MULTILINE)
    return json.loads(stats)


def stays(message: str) -> dict:
    """What teardown.yml published for the next job of a workflow."""
    return artifacts(message)["peerpods_teardown"]["stays"]


AnySite = TypeVar("AnySite", bound=Site)


def succeed(run: Callable[..., subprocess.CompletedProcess[str]], *arguments: str) -> str:
    completed = run(*arguments)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


@contextmanager
def bad_weather(site: AnySite) -> Iterator[AnySite]:
    """The site for a user whose requests to the API server and the cloud fail every so often, in a way that passes."""
    cluster = site.cluster
    kubeconfig = site.kubeconfig or cluster.user_kubeconfig("bad-weather", "system:masters")
    with ExitStack() as proxies:
        proxied = proxies.enter_context(bad_weather_of_kubernetes(cluster, kubeconfig, every=13))
        environment = site.cloud_environment
        if "AWS_ENDPOINT_URL" in environment:
            proxy = proxies.enter_context(ec2_proxy(environment["AWS_ENDPOINT_URL"]))
            proxy.weather = bad_weather_of_ec2(every=3)
            environment = {**environment, "AWS_ENDPOINT_URL": proxy.url}
        if site.arm:
            proxies.enter_context(bad_weather_of_azure(site.arm))
        yield replace(site, kubeconfig=proxied, cloud_environment=environment)


@contextmanager
def bad_weather_of_azure(arm: AzureArm) -> Iterator[None]:
    busy = faults.throttled(0.01), faults.refuse(503, "ServerTimeout", after=0.01)
    faults.every_third(arm.faults, *busy, faults.hang_up, faults.lose_the_answer)
    try:
        yield
    finally:
        arm.faults.clear()


def failure_message(completed: subprocess.CompletedProcess[str]) -> str:
    """The message of the task that failed the play, decoded from the JSON of the output."""
    assert completed.returncode != 0, completed.stdout
    output = completed.stdout + completed.stderr
    errors = re.findall(r"^\[ERROR\]: (.*)$", output, re.MULTILINE)
    messages = re.findall(r'"msg": ("(?:[^"\\]|\\.)*")', output)
    return " ".join([*errors, *map(json.loads, messages)])


def wait_for_machine_config_operator(cluster: Cluster) -> None:
    """Wait until the operator has written its first status, which belongs to the state before site.yml."""
    wait_for(
        "the status of the pool worker",
        lambda: "conditions" in cluster.get("machineconfigpool", "worker")["status"],
        seconds=30,
    )


def dump(cluster: Cluster) -> dict[Key, dict]:
    """Every object that the API server lists, except pods of a DaemonSet, whose names change."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    items = cluster.get(",".join(kind for kind in kinds if kind not in FLEETING), "-A")["items"]
    return {
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): _lasting(item)
        for item in items
        if "DaemonSet" not in {owner["kind"] for owner in item["metadata"].get("ownerReferences", ())}
    }


def _lasting(item: dict) -> dict:
    for name in BOOKKEEPING:
        item["metadata"].pop(name, None)
    # cloud-api-adaptor leaves it behind (pkg/adaptor/k8sops/node.go).
    item["metadata"].get("annotations", {}).pop(OWNER, None)
    for condition in item.get("status", {}).get("conditions", ()):
        condition.pop("lastHeartbeatTime", None)
        condition.pop("lastTransitionTime", None)
    return item


def differing(before: dict[Key, dict], after: dict[Key, dict]) -> dict[Key, str | set[str]]:
    """For each changed object: "came" if it is new, "gone" if it was deleted, otherwise the fields that differ."""

    def describe_difference(key: Key) -> str | set[str]:
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            return "gone" if old else "came"
        return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}

    return {key: describe_difference(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
