"""`python -m benchmarks.admission`: the cost of mutating peer pods at their creation.

Pods are created in server-side dry runs through a real API server on this machine, over persistent connections. The
modes alternate, so that other load of the machine affects all modes alike. The modes for peer pods are:

- `none`: no mutation;
- `policy`: the admission policy of the collection;
- `least`: the least that a policy can do, which is one patch of one container, without sizes;
- `webhook`: the webhook of the collection;
- `peer`: another webhook, registered as in its own manifest.

The modes for other pods, which are not changed, are:

- `others`: nothing is registered;
- `others, filtered`: the webhook as the module mutating_webhook registers it, which the API server never calls because
  of matchConditions;
- `others, webhook` and `others, peer`: each webhook registered as in the manifest of the peer, called for every pod.

The cost of `least` is the cost of any policy that patches: the API server encodes, patches, decodes and admits the pod
once more.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.cluster.launcher import Cluster
from tests.cluster.processes import unwind_on_signals, wait_for
from tests.support import ROOT, ansible_environment

from .load import Stream, listener, measure, version
from .webhook import Server, start

REPORT = ROOT / "build" / "bench" / "admission.json"
NAME = "admission-benchmark"
RUNTIME_CLASS = "kata-remote"
RESOURCE = "kata.peerpods.io/vm"
PATH = "/api/v1/namespaces/default/pods?dryRun=All"

# Two containers, sizes to add up, no annotation: what a Deployment with a sidecar creates.
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "benchmark-", "labels": {"app": "benchmark"}},
    "spec": {
        "runtimeClassName": RUNTIME_CLASS,
        "containers": [
            {
                "name": "app",
                "image": "registry.example.com/app:1",
                "ports": [{"containerPort": 8080}],
                "env": [{"name": "MODE", "value": "production"}],
                "resources": {
                    "requests": {"cpu": "500m", "memory": "256Mi"},
                    "limits": {"cpu": "1", "memory": "512Mi"},
                },
            },
            {
                "name": "sidecar",
                "image": "registry.example.com/sidecar:1",
                "resources": {
                    "requests": {"cpu": "100m", "memory": "64Mi"},
                    "limits": {"memory": "64Mi"},
                },
            },
        ],
    },
}

ORDINARY_POD = {
    **POD,
    "spec": {key: value for key, value in POD["spec"].items() if key != "runtimeClassName"},
}

LEAST_POLICY = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingAdmissionPolicy",
    "metadata": {"name": NAME},
    "spec": {
        "reinvocationPolicy": "Never",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["pods"],
                }
            ]
        },
        "mutations": [
            {
                "patchType": "JSONPatch",
                "jsonPatch": {
                    "expression": '[JSONPatch{op: "add", path: "/spec/containers/0/resources", '
                    f'value: {{"limits": {{"{RESOURCE}": "1"}}}}}}]'
                },
            }
        ],
    },
}
LEAST_BINDING = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingAdmissionPolicyBinding",
    "metadata": {"name": NAME},
    "spec": {"policyName": NAME},
}


@dataclass(frozen=True)
class Mode:
    """The registration while pods are created: by the collection's module, or as given objects."""

    name: str
    module: str | None = None
    options: dict = field(default_factory=dict)
    objects: tuple[dict, ...] = ()
    peer_pods: bool = True
    """Whether the pods that are created are peer pods."""

    baseline: str = "none"
    """The mode with which it is compared: the same pods, and nothing registered."""


def manifest(url: str, ca: Path) -> dict:
    """A registration as in upstream's manifest, for a webhook outside of the cluster."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [
            {
                "name": "mwebhook.peerpods.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {
                    "url": url,
                    "caBundle": base64.b64encode(ca.read_bytes()).decode(),
                },
                "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded",
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                        "scope": "Namespaced",
                    }
                ],
                "sideEffects": "None",
                "namespaceSelector": {
                    "matchExpressions": [
                        {
                            "key": "kubernetes.io/metadata.name",
                            "operator": "NotIn",
                            "values": ["peer-pods-webhook-system", "kube-system"],
                        }
                    ]
                },
            }
        ],
    }


def all_modes(own_url: str, own_ca: Path, peer_url: str | None, peer_ca: Path | None) -> list[Mode]:
    by_module = {"url": own_url, "ca_bundle_file": str(own_ca)}
    other_pods = {"peer_pods": False, "baseline": "others"}
    modes = [
        Mode("none"),
        Mode("policy", "mutating_policy"),
        Mode("least", objects=(LEAST_POLICY, LEAST_BINDING)),
        Mode("webhook", "mutating_webhook", by_module),
        Mode("others", **other_pods),
        Mode("others, filtered", "mutating_webhook", by_module, **other_pods),
        Mode("others, webhook", objects=(manifest(own_url, own_ca),), **other_pods),
    ]
    if peer_url and peer_ca:
        registration = (manifest(peer_url, peer_ca),)
        modes.insert(4, Mode("peer", objects=registration))
        modes.append(Mode("others, peer", objects=registration, **other_pods))
    return modes


@contextlib.contextmanager
def registered(cluster: Cluster, mode: Mode) -> Iterator[None]:
    """Register the mode during the block."""
    if not mode.module and not mode.objects:
        yield
        return
    if mode.module:
        run_module(cluster, mode.module, {**mode.options, "state": "present", "verify": True})
    else:
        cluster.apply(*mode.objects)
    wait_for(f"the start of mode {mode.name}", lambda: changes(cluster), seconds=30)
    yield
    if mode.module:
        run_module(cluster, mode.module, {"state": "absent"})
    else:
        for item in reversed(mode.objects):
            cluster.delete(item["kind"], NAME)
    wait_for(f"the end of mode {mode.name}", lambda: not changes(cluster), seconds=30)


def run_module(cluster: Cluster, module: str, options: dict) -> None:
    arguments = {"name": NAME, "kubeconfig": str(cluster.kubeconfig), **options}
    ran = subprocess.run(
        ["ansible", "localhost", "-m", f"osc.peerpods.{module}", "-a", json.dumps(arguments)],
        env=ansible_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{module} failed: {ran.stdout}{ran.stderr}")


def changes(cluster: Cluster) -> bool:
    """Whether a peer pod is changed at the moment."""
    created = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(POD))
    resources = json.loads(created)["spec"]["containers"][0]["resources"]
    return RESOURCE in resources.get("limits", {})


@dataclass(frozen=True)
class Figures:
    """The result of a round in a mode; latencies and CPU time for each creation in ms.

    `webhook_cpu_ms` is that of all webhooks that run here: webhooks that are not called use no CPU.
    """

    creations_per_second: float
    p50: float
    p99: float
    api_server_cpu_ms: float
    webhook_cpu_ms: float


# By the name of the mode.
Rounds = dict[str, list[Figures]]


@dataclass(frozen=True)
class Client:
    """Creates pods with h2load, on `connections` connections."""

    cluster: Cluster
    webhooks: list[Server]
    connections: int
    token: str

    def measure(self, mode: Mode, seconds: float) -> Figures:
        pod = POD if mode.peer_pods else ORDINARY_POD
        stream = Stream(
            self.cluster.server + PATH,
            json.dumps(pod).encode(),
            self.connections,
            # The token is valid only for this cluster, which ends with the benchmark, so other users may read it.
            headers=("content-type: application/json", f"authorization: Bearer {self.token}"),
        )
        processes = [listener(self.cluster.server), *(webhook.process for webhook in self.webhooks)]
        window = measure([stream], processes, seconds)
        api_server, *webhooks = window.cpu_ms
        return Figures(
            window.per_second,
            window.p50,
            window.p99,
            api_server,
            sum(filter(None, webhooks)),
        )


def token(cluster: Cluster) -> str:
    """The token of a service account with all permissions, since h2load presents no client certificate."""
    cluster.kubectl("create", "serviceaccount", NAME)
    cluster.kubectl(
        "create",
        "clusterrolebinding",
        NAME,
        "--clusterrole=cluster-admin",
        f"--serviceaccount=default:{NAME}",
    )
    return cluster.kubectl("create", "token", NAME, "--duration=24h").strip()


def run_rounds(client: Client, modes: list[Mode], rounds: int, seconds: float) -> Rounds:
    """Measure each mode once a round, in rotating order; a mode leaves no registration to the next."""
    measured: Rounds = {mode.name: [] for mode in modes}
    order = modes
    for turn in range(rounds):
        load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
        print(f"Round {turn + 1} of {rounds}; load average {load}", file=sys.stderr, flush=True)
        for mode in order:
            with registered(client.cluster, mode):
                measured[mode.name].append(client.measure(mode, seconds))
        order = [*order[1:], order[0]]
    return measured


def medians(rounds: list[Figures]) -> dict[str, float]:
    return {
        metric: statistics.median(getattr(figures, metric) for figures in rounds)
        for metric in Figures.__dataclass_fields__
    }


def ratio(metric: str, figures: list[Figures], baseline: list[Figures]) -> float:
    """The median of each round's ratio."""
    return statistics.median(
        getattr(first, metric) / getattr(second, metric) for first, second in zip(figures, baseline, strict=True)
    )


def summary(modes: list[Mode], measured: Rounds) -> dict:
    return {
        mode.name: {
            **medians(measured[mode.name]),
            "of": mode.baseline,
            "ratio_of_creations": ratio("creations_per_second", measured[mode.name], measured[mode.baseline]),
            "ratio_of_cpu": ratio("api_server_cpu_ms", measured[mode.name], measured[mode.baseline]),
            "rounds": [asdict(figures) for figures in measured[mode.name]],
        }
        for mode in modes
    }


def ratios_to_peer(measured: Rounds) -> dict[str, dict[str, float]]:
    """Of peer pods, and of other pods as each is registered by its own means."""
    return {
        pods: {
            metric: ratio(metric, measured[own_mode], measured[peer_mode]) for metric in ("creations_per_second", "p99")
        }
        for pods, own_mode, peer_mode in (
            ("peer pods", "webhook", "peer"),
            ("other pods", "others, filtered", "others, peer"),
        )
        if peer_mode in measured
    }


def table(modes: list[Mode], results: dict) -> Iterator[str]:
    yield f"{'':18}{'created/s':>10}{'p50 ms':>8}{'p99 ms':>8}{'CPU ms':>8}{'webhook':>9}"
    for mode in modes:
        row = results[mode.name]
        yield (
            f"{mode.name:18}{row['creations_per_second']:>10.0f}{row['p50']:>8.1f}"
            f"{row['p99']:>8.1f}{row['api_server_cpu_ms']:>8.2f}{row['webhook_cpu_ms']:>9.2f}"
            f"   {row['ratio_of_creations']:.2f} of the creations of {mode.baseline}"
            f" at {row['ratio_of_cpu']:.2f} of its CPU"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="per mode and round (default: 5)")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--peer", help="https:// URL, path included, of a running webhook")
    parser.add_argument("--peer-ca", type=Path, help="the file with the CA certificate of --peer")
    arguments = parser.parse_args()
    if bool(arguments.peer) != bool(arguments.peer_ca):
        parser.error("--peer and --peer-ca go together: the API server trusts no webhook unseen")
    unwind_on_signals()

    about = {
        "cores": os.cpu_count(),
        "load_average_at_start": os.getloadavg(),
        "load_generator": version(),
        "connections": arguments.connections,
        "seconds": arguments.seconds,
    }
    with start("osc") as (server, ca), Cluster() as cluster:
        cluster.apply(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": RUNTIME_CLASS},
                "handler": RUNTIME_CLASS,
            }
        )
        webhooks = [server]
        if arguments.peer:
            webhooks.append(Server("peer", arguments.peer, listener(arguments.peer)))
        modes = all_modes(server.url, ca, arguments.peer, arguments.peer_ca)
        client = Client(cluster, webhooks, arguments.connections, token(cluster))
        measured = run_rounds(client, modes, arguments.rounds, arguments.seconds)
    about["load_average_at_end"] = os.getloadavg()
    results = summary(modes, measured)
    compared = ratios_to_peer(measured)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({**about, "modes": results, "ratios_to_peer": compared}, indent=2) + "\n")
    print("\n".join(table(modes, results)), end="\n\n")
    for pods, ratios in compared.items():
        print(
            f"The collection's webhook to the peer, {pods}: {ratios['creations_per_second']:.2f} of the creations/s, "
            f"{ratios['p99']:.2f} of the p99"
        )
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{REPORT.relative_to(ROOT)} has all rounds.")


if __name__ == "__main__":
    main()
