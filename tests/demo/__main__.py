"""`make demo`: set up peer pods on a bare cluster on this machine, and report the result.

The demo does not depend on the internals of the collection: it starts the programs, runs `ansible-playbook site.yml` as
a user does, creates pods, and reads all results from the API servers.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.adaptor import lost
from tests.cluster.clouds import CLOUDS, Cloud, bare_cluster, exported, site_variables
from tests.cluster.images import why_no_podman
from tests.cluster.launcher import Cluster
from tests.cluster.processes import StartError, unwind_on_signals, wait_for
from tests.cluster.releases import NEWEST, release_of
from tests.support import JSON_OUTPUT, OPERATOR_NAMESPACE, ROOT, ansible_environment

from .summary import Check, render

BUILD = ROOT / "build" / "demo"
NAMESPACE = "peer-pods-demo"
RESOURCE = "kata.peerpods.io/vm"
WORKERS = 3
ORDINARY_PODS = 3

# The checks of a verification with a target for egress.
VERIFIED = 9

# The increase of the default limit, 10, at the end.
RAISED_BY = 5

# The releases of the operator that the demo supports: one of the first generation, and the newest.
OPERATORS = ("1.8", NEWEST)

# How cloud-api-adaptor gets its credentials, in the terms of operator_install_credentials: those of the environment, or
# a role or managed identity that the collection creates, which only the newest operator takes on both clouds.
GIVEN, TOKEN = "given", "token"


class Demo:
    def __init__(self, cluster: Cluster, cloud: Cloud, runtime: str, operator: str, credentials: str):
        self.cluster = cluster
        self.cloud = cloud
        self.operator = operator
        self.credentials = credentials
        self._variables = site_variables(runtime)
        if credentials == TOKEN:
            self._variables["operator_install_create_identity"] = True
        self.seconds: dict[str, float] = {}

    def run(self) -> dict:
        """Run the demo; returns the report, whose values are read from an API server."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        self.cluster.apply(namespace)
        untouched = [self._dry_run(pod) for pod in ordinary_pods()]
        with self._timed("first_run"):
            self._site()
        with self._timed("second_run"):
            second_run_changed = self._site()
        with self._timed("pods"):
            limit, nodes = self._limit(), self._nodes()
            expected = limit * len(nodes)
            self.cluster.apply(*ordinary_pods(), *peer_pods(expected + 1))
            wait_for(
                "the scheduler to place the peer pods",
                lambda: self._placed() == expected and self._pending(),
                seconds=120,
            )
            pending = self._pending()
        report = {
            "cloud": self.cloud.name,
            "nodes": len(nodes),
            "limit": limit,
            "advertised_nodes": self._advertised(limit),
            "peer_pods_created": expected + 1,
            "peer_pods_scheduled": self._placed(),
            "peer_pods_pending": len(pending),
            "pending_reason": pending[0],
            "peer_pods_mutated": sum(is_mutated(pod) for pod in self._peer_pods()),
            "ordinary_pods_unchanged": [self._stored(pod) for pod in ordinary_pods()] == untouched,
            "second_run_changed": second_run_changed,
            "ports_opened": self.cloud.ports_opened(),
            "operator": self.operator,
            "credentials": self.credentials,
            "credential_keys": self._credential_keys(),
            "webhook": self._webhook(),
            "agent": self._pods_of("osc-peerpods", "peerpods-node-capacity"),
        }
        adaptors = self._adaptors()
        with self._timed("raise_limit"):
            self._ansible(
                "ansible",
                "localhost",
                "-m",
                "osc.peerpods.peerpod_limit",
                "-a",
                json.dumps({"limit": limit + RAISED_BY, "wait": True}),
            )
            wait_for("the pending peer pod to be scheduled", lambda: not self._pending(), seconds=60)
        report["raised_limit"] = self._limit()
        report["adaptor_restarts"] = len(adaptors - self._adaptors())
        report["peer_pods_lost"] = sum(lost(pod) for pod in self._peer_pods())
        report["peer_pods_scheduled_after_raise"] = self._placed()
        with self._timed("verify"):
            report["verified"] = self._verify()
        with self._timed("report_page"):
            report["report_page"] = self._write_report_page()
        report["seconds"] = self.seconds
        return report

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[step] = round(time.monotonic() - started, 1)

    def _site(self) -> int:
        """Run site.yml; returns the number of changed tasks."""
        output = self._ansible("ansible-playbook", "site.yml", "-e", json.dumps(self._variables))
        (changed,) = re.findall(r"^localhost\s+:.* changed=(\d+)", output, re.MULTILINE)
        return int(changed)

    def _write_report_page(self) -> str:
        """Run report.yml; returns the page that it wrote, as a path in the checkout."""
        directory = BUILD / self.cloud.name / "peerpods-report"
        variables = {**self._variables, "report_directory": str(directory)}
        self._ansible("ansible-playbook", "playbooks/report.yml", "-e", json.dumps(variables))
        return str((directory / "report.html").relative_to(ROOT))

    def _verify(self) -> dict[str, str]:
        """Run verify.yml, which runs a peer pod in a VM of the cloud; returns the status of each check."""
        directory = BUILD / self.cloud.name / "peerpods-report"
        variables = {**self._variables, "report_directory": str(directory)}
        self._ansible("ansible-playbook", "playbooks/verify.yml", "-e", json.dumps(variables))
        findings = json.loads((directory / "verify.json").read_text())["findings"]
        return {finding["check"]: finding["status"] for finding in findings}

    def _ansible(self, *command: str) -> str:
        """Run an ansible command as in a user's shell, and show its output."""
        print(f"\n$ {shlex.join(command[:2])} …", flush=True)
        with subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            lines = []
            for line in process.stdout or ():
                lines.append(line)
                print(f"  {line}", end="", flush=True)
        if process.returncode:
            raise StartError(f"`{shlex.join(command[:2])}` ended with status {process.returncode}.")
        return "".join(lines)

    @property
    def environment(self) -> dict[str, str]:
        return ansible_environment(exported(self.cluster, self.cloud))

    def _dry_run(self, pod: dict) -> dict:
        """The pod that the API server would store, by a dry run."""
        return comparable(
            json.loads(
                self.cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(pod))
            )
        )

    def _stored(self, pod: dict) -> dict:
        stored = self.cluster.get("pod", "-n", NAMESPACE, pod["metadata"]["name"])
        return comparable(stored)

    def _peer_pods(self) -> list[dict]:
        return self.cluster.get("pods", "-n", NAMESPACE, "-l", "kind=peer")["items"]

    def _placed(self) -> int:
        return sum("nodeName" in pod["spec"] for pod in self._peer_pods())

    def _pending(self) -> list[str]:
        """The scheduler's messages about the peer pods that it could not schedule."""
        return [
            condition["message"]
            for pod in self._peer_pods()
            for condition in pod["status"].get("conditions", [])
            if condition["type"] == "PodScheduled" and condition["status"] == "False"
        ]

    def _limit(self) -> int:
        """The limit, as a user reads it, wherever the operator stores it."""
        completed = subprocess.run(
            ["ansible", "localhost", "-m", "osc.peerpods.peerpod_limit"],
            cwd=ROOT,
            env={**self.environment, **JSON_OUTPUT},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(completed.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]["after"]

    def _webhook(self) -> dict:
        """The owner and the runtime of the webhook that mutates the pods."""
        collection_pods = self._pods_of("osc-peerpods", "peerpods-webhook")
        if collection_pods:
            return {"of": "osc.peerpods", **collection_pods}
        operator_pods = self._pods_of(OPERATOR_NAMESPACE, "peer-pods-webhook")
        return {"of": "the operator", **(operator_pods or {"ready": 0, "runtime": "nothing"})}

    def _credential_keys(self) -> list[str]:
        """What the Secret of cloud-api-adaptor has."""
        return sorted(self.cluster.get("secret", "peer-pods-secret", "-n", OPERATOR_NAMESPACE)["data"])

    def _adaptors(self) -> set[str]:
        """The cloud-api-adaptor pods."""
        label = f"name={release_of(self.operator).daemon_set}"
        pods = self.cluster.get("pods", "-n", OPERATOR_NAMESPACE, "-l", label)["items"]
        return {pod["metadata"]["uid"] for pod in pods}

    def _nodes(self) -> list[dict]:
        return self.cluster.get("nodes", "-l", "node-role.kubernetes.io/kata-oc")["items"]

    def _advertised(self, limit: int) -> int:
        return sum(node["status"]["allocatable"].get(RESOURCE) == str(limit) for node in self._nodes())

    def _pods_of(self, namespace: str, name: str) -> dict | None:
        """The ready pods of a Deployment, and the runtime that their nodes report; None if it does not exist."""
        deployments = self.cluster.get("deployments", "-n", namespace)["items"]
        named = [deployment for deployment in deployments if deployment["metadata"]["name"] == name]
        if not named:
            return None
        labels = named[0]["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        pods = self.cluster.get("pods", "-n", namespace, "-l", selector)["items"]
        runtimes = {
            self.cluster.get("node", node)["status"]["nodeInfo"]["containerRuntimeVersion"]
            for node in {pod["spec"]["nodeName"] for pod in pods}
        }
        return {
            "ready": named[0]["status"].get("readyReplicas", 0),
            "runtime": ", ".join(sorted(runtime.partition("://")[0] for runtime in runtimes)),
        }


def ordinary_pods() -> list[dict]:
    return [
        _pod(f"ordinary-{index}", "ordinary", {"requests": {"cpu": "100m", "memory": "64Mi"}})
        for index in range(ORDINARY_PODS)
    ]


def peer_pods(count: int) -> list[dict]:
    resources = {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"cpu": "2"}}
    return [_pod(f"peer-{index:03}", "peer", resources, runtimeClassName="kata-remote") for index in range(count)]


def _pod(name: str, kind: str, resources: dict, **spec: object) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kind": kind}},
        "spec": {
            # Without the volume of the token, whose name is random, so that two pods can be compared.
            "automountServiceAccountToken": False,
            "initContainers": [{"name": "prepare", "image": "tool", "resources": resources}],
            "containers": [
                {"name": "main", "image": "app", "resources": resources},
                {"name": "side", "image": "log", "resources": resources},
            ],
            **spec,
        },
    }


def comparable(pod: dict) -> dict:
    """The spec after admission, without the fields that every pod gets when it is bound to a node."""
    labels = {
        key: value for key, value in pod["metadata"]["labels"].items() if not key.startswith("topology.kubernetes.io/")
    }
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    return {"labels": labels, "annotations": pod["metadata"].get("annotations"), "spec": spec}


def is_mutated(pod: dict) -> bool:
    """Whether a peer pod has no resources except one VM."""
    first, *other_containers = pod["spec"]["containers"] + pod["spec"]["initContainers"]
    one_vm = {RESOURCE: "1"}
    return first["resources"] == {"requests": one_vm, "limits": one_vm} and all(
        not container.get("resources") for container in other_containers
    )


# The keys of peer-pods-secret: with a token, none of them is a secret.
CREDENTIAL_KEYS = {
    (GIVEN, "aws"): ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    (GIVEN, "azure"): ["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_SUBSCRIPTION_ID", "AZURE_TENANT_ID"],
    (TOKEN, "aws"): ["AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"],
    (TOKEN, "azure"): ["AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_SUBSCRIPTION_ID", "AZURE_TENANT_ID"],
}


def checks(report: dict) -> list[Check]:
    """The conditions for a successful demo."""
    slots = report["limit"] * report["nodes"]
    return [
        Check(
            "the second run changed nothing",
            report["second_run_changed"] == 0,
            f"changed={report['second_run_changed']}",
        ),
        Check(
            "the ports are open",
            report["ports_opened"] == ["15150/tcp", "9000/tcp", "9000/udp"],
            ", ".join(report["ports_opened"]),
        ),
        Check(
            "cloud-api-adaptor has the credentials of the chosen way",
            report["credential_keys"] == CREDENTIAL_KEYS[report["credentials"], report["cloud"]],
            ", ".join(report["credential_keys"]),
        ),
        Check(
            "every node advertises the limit",
            report["advertised_nodes"] == report["nodes"] > 0,
            f"{report['advertised_nodes']} of {report['nodes']} nodes, {report['limit']} each",
        ),
        Check(
            "ordinary pods are unchanged",
            report["ordinary_pods_unchanged"] is True,
            f"{ORDINARY_PODS} compared field by field",
        ),
        Check(
            "peer pods have no resources except one VM each",
            report["peer_pods_mutated"] == report["peer_pods_created"],
            f"{report['peer_pods_mutated']} of {report['peer_pods_created']}",
        ),
        Check(
            "the scheduler placed limit × nodes",
            report["peer_pods_scheduled"] == slots,
            f"{report['peer_pods_scheduled']} of {slots} slots taken",
        ),
        Check(
            "the next peer pod waits for a slot",
            report["peer_pods_pending"] == 1 and f"Insufficient {RESOURCE}" in report["pending_reason"],
            report["pending_reason"],
        ),
        Check(
            "a raised limit schedules it",
            report["peer_pods_scheduled_after_raise"] == report["peer_pods_created"],
            f"limit {report['limit']} → {report['raised_limit']}",
        ),
        Check(
            "the raised limit lost no running peer pod",
            report["adaptor_restarts"] == report["peer_pods_lost"] == 0,
            f"{report['adaptor_restarts']} cloud-api-adaptor restarts, {report['peer_pods_lost']} peer pods lost",
        ),
        Check(
            "a peer pod answered from its VM, which is deleted",
            set(report["verified"].values()) == {"ok"} and len(report["verified"]) == VERIFIED,
            ", ".join(f"{check} {status}" for check, status in report["verified"].items() if status != "ok")
            or f"{len(report['verified'])} checks of verify.yml",
        ),
    ]


def main() -> int:
    name = os.environ.get("CLOUD", "aws")
    if name not in CLOUDS:
        print(f"CLOUD={name} does not exist; the demo runs in CLOUD={' or CLOUD='.join(CLOUDS)}.")
        return 2
    operator = os.environ.get("OPERATOR") or NEWEST
    if operator not in OPERATORS:
        print(f"OPERATOR={operator} is not known; choose OPERATOR={' or OPERATOR='.join(OPERATORS)}.")
        return 2
    credentials = os.environ.get("CREDENTIALS") or GIVEN
    if credentials not in (GIVEN, TOKEN):
        print(f"CREDENTIALS={credentials} is not known; choose CREDENTIALS={GIVEN} or CREDENTIALS={TOKEN}.")
        return 2
    if credentials == TOKEN and operator != NEWEST:
        print(f"OPERATOR={operator} takes no tokens; choose CREDENTIALS={GIVEN} or OPERATOR={NEWEST}.")
        return 2
    started = time.monotonic()
    unwind_on_signals()
    reason = why_no_podman()
    runtime = "process" if reason else "podman"
    has_tokens = credentials == TOKEN
    if reason:
        print(f"{reason}\nThe webhook and the agent run as processes instead.")
    print("Starting a cloud, etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok.")
    with bare_cluster(name, WORKERS, runtime, operator, has_tokens=has_tokens) as (cluster, cloud):
        demo = Demo(cluster, cloud, runtime, operator, credentials)
        demo.seconds["start"] = round(time.monotonic() - started, 1)
        report = demo.run()
        demo.seconds["total"] = round(time.monotonic() - started, 1)
        (BUILD / name).mkdir(parents=True, exist_ok=True)
        (BUILD / name / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        outcome = checks(report)
        print(render(report, outcome))
        if os.environ.get("KEEP") == "1":
            keep(demo)
    return 0 if all(check.passed for check in outcome) else 1


def keep(demo: Demo) -> None:
    print("\nStill running. To look around, use another shell:\n")
    for name, value in exported(demo.cluster, demo.cloud).items():
        print(f"  export {name}={value}")
    if demo.cloud.name == "aws":
        print(f"  export AWS_REGION={demo.cloud.region}")
    print(f"  export PATH={demo.cluster.bin}:$PATH")
    print(f"  kubectl get pods -n {NAMESPACE} -o wide")
    print("  ansible-playbook playbooks/limit.yml")
    print("\nCtrl-C stops everything.")
    signal.pause()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except StartError as failure:
        print(f"\n{failure}", file=sys.stderr)
        sys.exit(1)
