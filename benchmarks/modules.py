"""`python -m benchmarks.modules`: calls and time of our modules, of their peers and of the chapter.

All contenders run as a user runs them, in turns, against one API server and one
EC2 (moto); what they have done is looked at afterwards. README.md has how to
read the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import openshift
from tests.cluster.aws import REGION, Moto
from tests.cluster.binaries import CACHE
from tests.cluster.launcher import Cluster
from tests.ec2_proxy import Ec2Proxy, ec2_proxy
from tests.support import OPERATOR_NAMESPACE, ROOT, ansible_environment

BUILD = ROOT / "build" / "bench"

# AWS CLI v1, the one that PyPI has. It pins botocore, so it gets an environment of its own.
AWSCLI = "awscli==1.46.3"

OURS = "osc.peerpods"
IDLE = "an empty play"
CHAPTER = "the chapter"
FIRST, AGAIN = "first", "no change"

WORKER = "node-role.kubernetes.io/worker"
PORTS = (9000, 15150)
CONFIG = ("peerpodconfig", "peerpodconfig-openshift", "-n", OPERATOR_NAMESPACE)
LIMIT_BEFORE, LIMIT = "10", "20"
WEBHOOK_NAMESPACE = WEBHOOK = "peerpods-webhook"
CONFIGURATION = ("mutatingwebhookconfiguration", WEBHOOK)


@dataclass(frozen=True)
class Contender:
    """A way to do a job: the tasks of a play, or a shell script."""

    name: str
    tasks: list[dict] | None = None
    script: str | None = None


@dataclass(frozen=True)
class Job:
    """What contenders do. `reset` undoes it, `done` looks whether it is done; None for reading."""

    name: str
    contenders: tuple[Contender, ...]
    reset: Callable[[], object] | None = None
    done: Callable[[], bool] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        return (FIRST, AGAIN) if self.reset else (FIRST,)


@dataclass(frozen=True)
class Figure:
    """One run, or the medians of several and all of their outcomes."""

    job: str
    contender: str
    kind: str
    workers: int
    ec2_calls: float
    kubernetes_calls: float
    seconds: float
    cpu_seconds: float
    outcome: str

    @property
    def calls(self) -> float:
        return self.ec2_calls + self.kubernetes_calls

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.job, self.contender, self.kind, self.workers


class World:
    """The servers, and on them a cluster that can be given more workers."""

    def __init__(self, cluster: Cluster, moto: Moto, proxy: Ec2Proxy, aws_cli: Path, scratch: Path):
        self.cluster = cluster
        self.moto = moto
        self.proxy = proxy
        self.aws_cli = aws_cli
        self.scratch = scratch
        self.workers: list[openshift.Worker] = []
        self.ec2 = moto.client("ec2")
        vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self._subnet = self.ec2.create_subnet(
            VpcId=vpc, CidrBlock="10.0.0.0/19", AvailabilityZone=f"{REGION}a"
        )["Subnet"]["SubnetId"]
        self.group, *self._others = [
            self.ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
            for name in ("node", "lb", "storage")
        ]
        openshift.fill(cluster, (), REGION)
        cluster.apply(
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
              for name in (OPERATOR_NAMESPACE, WEBHOOK_NAMESPACE)),
            peer_pod_config(),
            endpoint_slice(),
        )  # fmt: skip

    def grow(self, count: int) -> None:
        """Have `count` workers; as machines make them, each is a reservation of its own in EC2.

        The first worker is in one group, the only case that the chapter's commands work for,
        the others are in further ones.
        """
        new = []
        for number in range(len(self.workers), count):
            groups = [self.group, *(self._others[: 1 + number % 2] if number else ())]
            instance = self.ec2.run_instances(
                ImageId="ami-12c6146b", MinCount=1, MaxCount=1, SubnetId=self._subnet,
                SecurityGroupIds=groups,
            )["Instances"][0]  # fmt: skip
            new.append(
                openshift.Worker(
                    # The chapter takes .items[0], the first by name.
                    name=f"worker-{number:03}.{REGION}.compute.internal",
                    provider_id=f"aws:///{REGION}a/{instance['InstanceId']}",
                    zone=f"{REGION}a",
                    instance_type="m6i.2xlarge",
                    internal_ip=instance["PrivateIpAddress"],
                )
            )
        if new:
            self.cluster.apply(*(openshift.node(worker, REGION) for worker in new))
        self.workers += new

    def run(self, contender: Contender) -> tuple[int, int, float, float, str]:
        """EC2 calls, Kubernetes calls, seconds, seconds of CPU and outcome of one run.

        The outcome is what the contender says itself: "changed" or "ok" (it said that nothing
        changed, or is no playbook and says nothing), or "refused" where EC2 did not take a
        rule that is there already.
        """
        user = f"bench-{contender.name.replace(' ', '-')}"
        kubeconfig = self.cluster.directory / f"{user}.kubeconfig"
        if not kubeconfig.exists():
            self.cluster.user_kubeconfig(user, "system:masters")
        environment = ansible_environment(
            {
                **self.moto.environment,
                "AWS_ENDPOINT_URL": self.proxy.url,
                "AWS_REGION": REGION,
                "AWS_EC2_METADATA_DISABLED": "true",
                "KUBECONFIG": str(kubeconfig),
                # What kubernetes.core and kubectl remember of the API server.
                "TMPDIR": str(self.scratch),
                "KUBECACHEDIR": str(self.scratch / "kubectl"),
            }
        )
        if contender.script is not None:
            environment["PATH"] = (
                f"{self.aws_cli}{os.pathsep}{self.cluster.bin}{os.pathsep}{environment['PATH']}"
            )
            command = ["bash", "-c", contender.script]
        else:
            command = ["ansible-playbook", "-i", "localhost,", str(self._playbook(contender))]
        logged = self.cluster.audit_log.stat().st_size
        self.proxy.take_calls()
        cpu_before, began = cpu_seconds_of_children(), time.perf_counter()
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        cpu_seconds = cpu_seconds_of_children() - cpu_before
        time.sleep(0.1)  # The audit log has a request soon after its answer.
        ec2_calls = len(self.proxy.take_calls())
        with self.cluster.audit_log.open() as log:
            log.seek(logged)
            kubernetes_calls = sum(
                event["user"].get("username") == user and event["stage"] == "ResponseComplete"
                for event in map(json.loads, log)
            )
        outcome = _outcome_of_script(ran) if contender.script else _outcome_of_play(ran)
        return ec2_calls, kubernetes_calls, seconds, cpu_seconds, outcome

    def _playbook(self, contender: Contender) -> Path:
        """A play of the contender's tasks. JSON is YAML."""
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "connection": "local",
            "vars": {
                "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                "instance_ids": [w.provider_id.rpartition("/")[2] for w in self.workers],
            },
            "tasks": contender.tasks,
        }
        path = self.scratch / "play.yml"
        path.write_text(json.dumps([play]))
        return path


def cpu_seconds_of_children() -> float:
    """Of those that have ended, and of theirs. A busy machine does not change these."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _outcome_of_play(ran: subprocess.CompletedProcess) -> str:
    if ran.returncode == 0:
        return "changed" if re.search(r"changed=[1-9]", ran.stdout) else "ok"
    sys.exit(f"A contender failed:\n{ran.stdout}\n{ran.stderr}")


def _outcome_of_script(ran: subprocess.CompletedProcess) -> str:
    if "InvalidPermission.Duplicate" in ran.stderr:
        return "refused"
    if ran.returncode or ran.stderr:
        sys.exit(f"A contender failed:\n{ran.stdout}\n{ran.stderr}")
    return "ok"


# -- The jobs ----------------------------------------------------------------------------------


def k8s_info(register: str, api_version: str, kind: str, **options: object) -> dict:
    return {
        "kubernetes.core.k8s_info": {"api_version": api_version, "kind": kind, **options},
        "register": register,
    }


# What a node's status holds is of no use here, and most of what a task would print.
NODES = k8s_info("nodes", "v1", "Node", label_selectors=[WORKER], hidden_fields=["status"])

SHARED_GROUPS = (
    "{%- set all = namespace(groups=workers.instances[0].security_groups) -%}"
    "{%- for instance in workers.instances -%}"
    "{%- set all.groups = all.groups | intersect(instance.security_groups) -%}"
    "{%- endfor -%}{{ all.groups }}"
)


def amazon_aws(instance_ids: str) -> list[dict]:
    """Two tasks of amazon.aws that do what security_group_ports does."""
    return [
        {
            "amazon.aws.ec2_instance_info": {"instance_ids": instance_ids},
            "register": "workers",
        },
        {
            "amazon.aws.ec2_security_group": {
                "group_id": "{{ item.group_id }}",
                # It insists on both; the world's groups are described by their names.
                "name": "{{ item.group_name }}",
                "description": "{{ item.group_name }}",
                "purge_rules": False,
                "purge_rules_egress": False,
                "rules": [
                    {"proto": "tcp", "ports": list(PORTS), "group_id": "{{ item.group_id }}"}
                ],
            },
            "loop": SHARED_GROUPS,
        },
    ]


# The chapter's commands, with kubectl for oc.
CHAPTER_FACTS = """
oc() { kubectl "$@"; }
INSTANCE_ID=$(oc get nodes -l 'node-role.kubernetes.io/worker' -o jsonpath='{.items[0].spec.providerID}' | sed 's#[^ ]*/##g')
AWS_REGION=$(oc get infrastructure/cluster -o jsonpath='{.status.platformStatus.aws.region}')
"""
CHAPTER_PORTS = CHAPTER_FACTS + """
SG=$(aws ec2 describe-instances --instance-ids ${INSTANCE_ID} \\
  --query 'Reservations[*].Instances[*].SecurityGroups[*].GroupId' --output text --region ${AWS_REGION})
aws ec2 authorize-security-group-ingress --group-id ${SG} --protocol tcp --port 15150 --source-group ${SG} --region ${AWS_REGION}
aws ec2 authorize-security-group-ingress --group-id ${SG} --protocol tcp --port 9000 --source-group ${SG} --region ${AWS_REGION}
"""  # fmt: skip
CHAPTER_LIMIT = f"""
oc() {{ kubectl "$@"; }}
oc get peerpodconfig peerpodconfig-openshift -n openshift-sandboxed-containers-operator \
-o jsonpath='{{.spec.limit}}{{"\\n"}}'
oc patch peerpodconfig peerpodconfig-openshift -n openshift-sandboxed-containers-operator \
--type merge --patch '{{"spec":{{"limit":"{LIMIT}"}}}}'
"""


def peer_pod_config(limit: str = LIMIT_BEFORE) -> dict:
    return {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPodConfig",
        "metadata": {"name": "peerpodconfig-openshift", "namespace": OPERATOR_NAMESPACE},
        "spec": {
            "cloudSecretName": "peer-pods-secret",
            "configMapName": "peer-pods-cm",
            "limit": limit,
            "nodeSelector": {WORKER: ""},
        },
    }


def endpoint_slice() -> dict:
    """The ready endpoint that a webhook's Service has to have before it is registered."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": WEBHOOK,
            "namespace": WEBHOOK_NAMESPACE,
            "labels": {"kubernetes.io/service-name": WEBHOOK},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.10"], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": 9443}],
    }


def patched_limit() -> dict:
    definition = peer_pod_config(LIMIT)
    return {
        "kubernetes.core.k8s": {
            "state": "patched",
            "definition": {**definition, "spec": {"limit": LIMIT}},
        }
    }


def registered_webhook() -> dict:
    service = {"namespace": WEBHOOK_NAMESPACE, "name": WEBHOOK, "path": "/mutate-v1-pod"}
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    not_in = {
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": ["kube-system", WEBHOOK_NAMESPACE],
    }
    only_peer_pods = "has(object.spec.runtimeClassName) && object.spec.runtimeClassName in {}"
    return {
        "kubernetes.core.k8s": {
            "definition": {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": WEBHOOK},
                "webhooks": [
                    {
                        "name": "mwebhook.peerpods.io",
                        "clientConfig": {"service": {**service, "port": 443}},
                        "rules": [{**rule, "scope": "*"}],
                        "namespaceSelector": {"matchExpressions": [not_in]},
                        "matchConditions": [
                            {
                                "name": "peer-pods-only",
                                "expression": only_peer_pods.format('["kata-remote"]'),
                            }
                        ],
                        "failurePolicy": "Fail",
                        "reinvocationPolicy": "IfNeeded",
                        "timeoutSeconds": 10,
                        "sideEffects": "None",
                        "admissionReviewVersions": ["v1"],
                    }
                ],
            }
        }
    }


def jobs(world: World) -> tuple[Job, ...]:
    def close_ports() -> None:
        rules = [rule["SecurityGroupRuleId"] for rule in ingress()]
        if rules:
            world.ec2.revoke_security_group_ingress(GroupId=world.group, SecurityGroupRuleIds=rules)

    def ingress() -> list[dict]:
        rules = world.ec2.describe_security_group_rules(
            Filters=[{"Name": "group-id", "Values": [world.group]}]
        )["SecurityGroupRules"]
        return [rule for rule in rules if not rule["IsEgress"]]

    def ports_open() -> bool:
        return sorted(rule["FromPort"] for rule in ingress()) == sorted(PORTS)

    config = f"{OURS}.peerpod_limit"
    return (
        Job(
            "open the ports, given the instances",
            (
                Contender(
                    OURS, [{f"{OURS}.security_group_ports": {"instance_ids": "{{ instance_ids }}"}}]
                ),
                Contender("amazon.aws", amazon_aws("{{ instance_ids }}")),
            ),
            close_ports,
            ports_open,
        ),
        Job(
            "open the ports, given the cluster",
            (
                Contender(OURS, [{f"{OURS}.security_group_ports": {"nodes": {}}}]),
                Contender(
                    "kubernetes.core + amazon.aws",
                    [
                        NODES,
                        *amazon_aws(
                            "{{ nodes.resources | map(attribute='spec.providerID')"
                            " | map('split', '/') | map('last') | list }}"
                        ),
                    ],
                ),
                Contender(CHAPTER, script=CHAPTER_PORTS),
            ),
            close_ports,
            ports_open,
        ),
        Job(
            "read the cluster",
            (
                Contender(OURS, [{f"{OURS}.cluster_info": {}}]),
                Contender(
                    "kubernetes.core",
                    [
                        k8s_info(
                            "i", "config.openshift.io/v1", "Infrastructure", name="cluster"
                        ),
                        k8s_info("v", "config.openshift.io/v1", "ClusterVersion", name="version"),
                        NODES,
                    ],
                ),
                Contender(CHAPTER, script=CHAPTER_FACTS),
            ),
        ),
        Job(
            "set the limit",
            (
                Contender(OURS, [{config: {"limit": LIMIT}}]),
                Contender(
                    "kubernetes.core",
                    [
                        k8s_info("c", "confidentialcontainers.org/v1alpha1", "PeerPodConfig"),
                        NODES,
                        patched_limit(),
                    ],
                ),
                Contender("kubernetes.core, patch only", [patched_limit()]),
                Contender(CHAPTER, script=CHAPTER_LIMIT),
            ),
            lambda: world.cluster.kubectl(
                "patch", *CONFIG, "--type=merge", "-p",
                json.dumps({"spec": {"limit": LIMIT_BEFORE}}),
            ),
            lambda: world.cluster.get(*CONFIG)["spec"]["limit"] == LIMIT,
        ),
        Job(
            "register the webhook",
            (
                Contender(
                    OURS,
                    [
                        {
                            f"{OURS}.mutating_webhook": {
                                "service": {"namespace": WEBHOOK_NAMESPACE, "name": WEBHOOK}
                            }
                        }
                    ],
                ),
                Contender(
                    "kubernetes.core",
                    [
                        k8s_info(
                            "e", "discovery.k8s.io/v1", "EndpointSlice",
                            namespace=WEBHOOK_NAMESPACE,
                            label_selectors=[f"kubernetes.io/service-name={WEBHOOK}"],
                        ),
                        registered_webhook(),
                    ],
                ),
                Contender("kubernetes.core, write only", [registered_webhook()]),
            ),
            lambda: world.cluster.kubectl("delete", *CONFIGURATION, "--ignore-not-found"),
            lambda: len(world.cluster.get(*CONFIGURATION)["webhooks"]) == 1,
        ),
        Job(
            IDLE,
            (Contender("ansible-playbook", [{"ansible.builtin.meta": "noop"}]),),
        ),
    )  # fmt: skip


# -- Running them ------------------------------------------------------------------------------


def measure(world: World, job: Job, contender: Contender) -> Iterator[Figure]:
    """The contender's first run and, where it changes something, a run when that is done."""
    if job.reset:
        job.reset()
    for kind in job.kinds:
        figure = Figure(job.name, contender.name, kind, len(world.workers), *world.run(contender))
        if job.done and not job.done():
            sys.exit(f"{contender.name} did not {job.name}.")
        yield figure


def rounds(world: World, counts: list[int], runs: int) -> Iterator[Figure]:
    began = time.monotonic()
    for count in counts:
        say(f"{count} workers")
        world.grow(count)
        all_jobs = jobs(world)
        if count == counts[0]:
            say("  once unmeasured, to compile and to discover the API")
            for job in all_jobs:
                for contender in job.contenders:
                    next(measure(world, job, contender))
        for number in range(runs):
            say(f"  round {number + 1} of {runs}, {time.monotonic() - began:.0f} s in")
            for job in all_jobs:
                # None always runs on a machine that the same other one has just left.
                for contender in job.contenders[:: -1 if number % 2 else 1]:
                    yield from measure(world, job, contender)


def medians(figures: list[Figure]) -> list[Figure]:
    runs: dict[tuple, list[Figure]] = {}
    for figure in figures:
        runs.setdefault(figure.key, []).append(figure)
    return [
        dataclasses.replace(
            some[0],
            ec2_calls=statistics.median(figure.ec2_calls for figure in some),
            kubernetes_calls=statistics.median(figure.kubernetes_calls for figure in some),
            seconds=round(statistics.median(figure.seconds for figure in some), 3),
            cpu_seconds=round(statistics.median(figure.cpu_seconds for figure in some), 3),
            outcome="/".join(sorted({figure.outcome for figure in some})),
        )
        for some in runs.values()
    ]


def ratios(found: list[Figure]) -> list[dict]:
    """Ours to each other contender: calls, time and CPU time, also above those of an empty play."""
    by_key = {figure.key: figure for figure in found}
    idle = {figure.workers: figure for figure in found if figure.job == IDLE}

    def shares(ours: Figure, other: Figure) -> Iterator[tuple[str, float]]:
        yield "calls", ours.calls / other.calls
        yield "seconds", ours.seconds / other.seconds
        yield "cpu_seconds", ours.cpu_seconds / other.cpu_seconds
        if other.contender != CHAPTER:
            for what in ("seconds", "cpu_seconds"):
                mine, theirs, empty = (
                    getattr(figure, what) for figure in (ours, other, idle[other.workers])
                )
                yield f"{what}_above_empty", (mine - empty) / (theirs - empty)

    return [
        {
            "job": other.job,
            "peer": other.contender,
            "run": other.kind,
            "workers": other.workers,
            **{what: round(share, 2) for what, share in shares(ours, other)},
        }
        for other in found
        if other.contender != OURS
        and (ours := by_key.get((other.job, OURS, other.kind, other.workers)))
    ]


# -- Telling -----------------------------------------------------------------------------------


def table(found: list[Figure], counts: list[int]) -> Iterator[str]:
    by_key = {figure.key: figure for figure in found}
    head = "".join(f"{f'{count} workers':>22}" for count in counts)
    yield f"{'':<42}{'':<11}{head}"
    yield f"{'':<42}{'':<11}" + f"{'EC2  k8s  seconds':>22}" * len(counts)
    rows = dict.fromkeys((f.job, f.contender, f.kind) for f in found)
    job_before = None
    for job, contender, kind in rows:
        if job != job_before:
            yield job
            job_before = job
        line = f"  {contender:<40}{kind:<11}"
        outcomes = set()
        for count in counts:
            figure = by_key[job, contender, kind, count]
            calls = f"{figure.ec2_calls:.0f}  {figure.kubernetes_calls:>3.0f}"
            line += f"{calls:>13}  {figure.seconds:>7.2f}"
            outcomes.add(figure.outcome)
        yield f"{line}  {', '.join(sorted(outcomes))}"


def compared(shares: list[dict], count: int) -> Iterator[str]:
    columns = ("calls", "seconds", "cpu_seconds", "seconds_above_empty", "cpu_seconds_above_empty")
    yield f"{'':<70}above an empty play"
    yield f"{f'Ours to theirs at {count} workers':<50}calls   time    CPU   time    CPU"
    for share in shares:
        if share["workers"] == count:
            numbers = (
                f"{share[column]:>5.2f}" if column in share else f"{'':<5}" for column in columns
            )
            what = f"{share['job']}, {share['run']}"
            yield f"  {what:<48}{'  '.join(numbers)}  to {share['peer']}"


def bars(found: list[Figure]) -> str:
    """An SVG: calls to the left, seconds to the right, a bar for each number of workers."""
    shown = [figure for figure in found if figure.job != IDLE]
    most = [max(getattr(figure, what) for figure in shown) for what in ("calls", "seconds")]
    parts, y = [], 34
    rows: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in shown:
        rows.setdefault((figure.job, figure.kind, figure.contender), []).append(figure)
    heading = None
    for (job, kind, contender), figures in sorted(rows.items(), key=lambda row: row[0][:2]):
        if heading != (job, kind):
            heading = (job, kind)
            y += 26
            parts.append(f'<text x="10" y="{y - 6}" class="job">{job}, {kind}</text>')
        parts.append(f'<text x="20" y="{y + 4 + 4 * len(figures)}">{contender}</text>')
        for figure in figures:
            for x, value, top, text in (
                (230, figure.calls, most[0], f"{figure.calls:.0f}"),
                (560, figure.seconds, most[1], f"{figure.seconds:.1f}"),
            ):
                width = 280 * value / top
                color = "#c00" if figure.contender == OURS else "#888"
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{width:.1f}" height="7" fill="{color}"/>'
                    f'<text x="{x + width + 4:.1f}" y="{y + 7}" class="value">{text}</text>'
                )
            y += 9
        y += 4
    counts = ", ".join(str(count) for count in dict.fromkeys(f.workers for f in shown))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="880" height="{y + 10}">'
        "<style>text{font:11px sans-serif}.job{font-weight:bold}.value{font-size:8px}</style>"
        '<rect width="100%" height="100%" fill="white"/>'
        f'<text x="10" y="18">Bars from top to bottom: {counts} workers</text>'
        '<text x="230" y="36" class="job">API calls</text>'
        f'<text x="560" y="36" class="job">seconds</text>{"".join(parts)}</svg>\n'
    )


def machine() -> dict:
    model = "unknown"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    packages = ("ansible-core", "ansible", "boto3", "kubernetes", "moto")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "awscli": AWSCLI.partition("==")[2],
    }


def install_aws_cli() -> Path:
    """The bin directory of the AWS CLI's own virtual environment."""
    directory = CACHE / AWSCLI.replace("==", "-")
    if not (directory / "installed").exists():
        say(f"Installing {AWSCLI} from PyPI into {directory}")
        uv = [sys.executable, "-m", "uv"]
        subprocess.run(
            [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, directory], check=True
        )
        subprocess.run(
            [*uv, "pip", "install", "--quiet", "--python", directory, AWSCLI], check=True
        )
        (directory / "installed").touch()
    return directory / "bin"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--workers",
        type=lambda text: sorted({int(count) for count in text.split(",")}),
        default=[1, 10, 200],
        help="how many workers, separated by commas (default: 1,10,200)",
    )
    parser.add_argument("--runs", type=int, default=2, help="runs of each (default: 2)")
    arguments = parser.parse_args()

    # SIGTERM unwinds as Ctrl-C does, so that every server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    about = machine()
    aws_cli = install_aws_cli()
    with (
        tempfile.TemporaryDirectory(prefix="osc-peerpods-bench-") as scratch,
        contextlib.ExitStack() as servers,
    ):
        moto = Moto(Path(scratch) / "moto")
        servers.callback(moto.processes.stop)
        proxy = servers.enter_context(ec2_proxy(moto.endpoint_url))
        cluster = servers.enter_context(Cluster())
        world = World(cluster, moto, proxy, aws_cli, Path(scratch))
        figures = list(rounds(world, arguments.workers, arguments.runs))
    found = medians(figures)
    shares = ratios(found)
    BUILD.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": about,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "runs": [dataclasses.asdict(figure) for figure in figures],
        "medians": [dataclasses.asdict(figure) for figure in found],
        "ratios": shares,
    }
    (BUILD / "modules.json").write_text(json.dumps(report, indent=2) + "\n")
    (BUILD / "modules.svg").write_text(bars(found))
    print("\n".join(table(found, arguments.workers)), end="\n\n")
    print("\n".join(compared(shares, arguments.workers[-1])), end="\n\n")
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{report['minutes']} minutes; {BUILD.relative_to(ROOT)}/modules.json, modules.svg")


if __name__ == "__main__":
    main()
