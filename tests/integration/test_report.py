"""`ansible-playbook osc.peerpods.report` on a cluster with running and pending peer pods."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cluster.openshift import VERSION, remove_pods, set_status, wait_for_scheduler
from tests.integration.apiserver import requests_of
from tests.integration.site import RoleAlone, artifacts, failure_message, play_of
from tests.support import OPERATOR_NAMESPACE

NAMESPACE = "report-test"
NODES = ("report-a", "report-b", "report-c")
RUNTIME_CLASS = "kata-report-test"
RESOURCE = "kata.peerpods.io/vm"
SECRET = "wJalrXUtnFEMI-never-in-a-report"
CSV = "sandboxed-containers-operator.v1.8.1"

# A user who may run pods controls the names of images, and so the messages of the kubelet about them.
MESSAGE = "no <script>alert('pod')</script> & {{ 7 * 7 }} \x1b[31m"

VARIABLES = {
    "report_runtime_classes": [RUNTIME_CLASS],
    "report_cloud_capacity_namespace": NAMESPACE,
    "report_made_by": "alice & bob",
}


def pod(name: str, node: str | None) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "runtimeClassName": RUNTIME_CLASS,
            **({"nodeName": node} if node else {"nodeSelector": {"pool": "nowhere"}}),
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "i", "resources": {"limits": {RESOURCE: "1"}}}],
        },
    }


def manifest(kind: str, name: str, version: str = "v1", **fields: object) -> dict:
    metadata = {"name": name, "namespace": NAMESPACE, **fields.pop("metadata", {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def create_nodes_with_peer_pods(cluster) -> None:
    """Three nodes with room for two peer pods each, since the cloud has no room for three each."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.apply(
        manifest("RuntimeClass", RUNTIME_CLASS, "node.k8s.io/v1", handler="kata-remote"),
        *(manifest("Node", name, metadata={"labels": {"pool": "report"}}) for name in NODES),
        manifest("ConfigMap", "peerpods-cloud-capacity", data={"instance-quota": "7"}),
        manifest("Secret", "peer-pods-secret", stringData={"AWS_SECRET_ACCESS_KEY": SECRET}),
        manifest(
            "PeerPodConfig",
            "pool",
            "confidentialcontainers.org/v1alpha1",
            spec={
                "cloudSecretName": "peer-pods-secret",
                "configMapName": "peer-pods-cm",
                "limit": "3",
                "nodeSelector": {"pool": "report"},
            },
        ),
        {
            "apiVersion": "operators.coreos.com/v1alpha1",
            "kind": "ClusterServiceVersion",
            "metadata": {"name": CSV, "namespace": OPERATOR_NAMESPACE},
            "spec": {
                "version": "1.8.1",
                "displayName": "OpenShift sandboxed containers",
                "install": {"strategy": "deployment"},
            },
        },
    )
    set_status(cluster, f"csv/{CSV}", {"phase": "Succeeded"}, OPERATOR_NAMESPACE)
    for name in NODES:
        set_status(cluster, f"node/{name}", {key: {RESOURCE: "2"} for key in ("capacity", "allocatable")})
    cluster.apply(
        *(pod(name, "report-a") for name in ("one", "two")),
        pod("starts", "report-b"),
        pod("waits", None),
    )
    for name in ("one", "two"):
        set_status(cluster, f"pod/{name}", {"phase": "Running"}, NAMESPACE)
    container = {"name": "c", "ready": False, "restartCount": 0, "image": "i", "imageID": ""}
    waiting = {"waiting": {"reason": "InvalidImageName", "message": MESSAGE}}
    statuses = {"containerStatuses": [{**container, "state": waiting}]}
    set_status(cluster, "pod/starts", statuses, NAMESPACE)
    wait_for_scheduler(cluster, "waits", NAMESPACE)


@pytest.fixture(scope="module")
def nodes_with_peer_pods(cluster) -> Iterator[None]:
    try:
        create_nodes_with_peer_pods(cluster)
        yield
    finally:
        remove_pods(cluster, NAMESPACE)
        cluster.delete("namespace", NAMESPACE, "--wait=false")
        cluster.delete("csv", CSV, "-n", OPERATOR_NAMESPACE)
        cluster.delete("runtimeclass", RUNTIME_CLASS)
        cluster.delete("node", *NODES)


@pytest.fixture
def report(cluster, nodes_with_peer_pods, tmp_path: Path) -> RoleAlone:
    """The playbook, for a user without credentials of the cloud."""
    missing_kubeconfig = str(tmp_path / "none")
    environment = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": missing_kubeconfig,
        "AWS_SHARED_CREDENTIALS_FILE": missing_kubeconfig,
    }
    playbook = Path("osc.peerpods.report")
    return RoleAlone(cluster, None, environment, list, VARIABLES, playbook, directory=tmp_path)


def test_the_report_of_a_cluster(cluster, report: RoleAlone, tmp_path: Path):
    kubeconfig = str(cluster.user_kubeconfig("reporter", "system:masters"))
    with report.unchanged():
        completed = report.run("-vvv", K8S_AUTH_KUBECONFIG=kubeconfig)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    files = {path.name: path for path in (tmp_path / "peerpods-report").iterdir()}
    assert files.keys() == {"report.html", "report.json", "report.junit.xml"}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o644}

    document = json.loads(files["report.json"].read_text())
    assert (document["made_by"], document["not_known"], document["ports"]) == ("alice & bob", [], None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["made_at"])
    assert (document["cluster"]["platform"], document["cluster"]["openshift_version"]) == ("AWS", VERSION)
    assert document["operators"] == [{"name": CSV, "version": "1.8.1", "phase": "Succeeded"}]
    capacity = document["capacity"]
    nodes_of_test = [node for node in capacity["nodes"] if node["name"] in NODES]
    assert [(n["name"], n["state"], n["used"], n["free"]) for n in nodes_of_test] == [
        ("report-a", "full", 2, 0),
        ("report-b", "in_use", 1, 1),
        ("report-c", "unused", 0, 2),
    ]
    (config,) = [pool for pool in capacity["pools"] if pool["namespace"] == NAMESPACE]
    assert (config["limit"], config["slots"], config["cloud_bound"]) == (3, 2, "instance-quota")
    assert config["store"]["kind"] == "PeerPodConfig"
    assert capacity["operator"]["advertiser"] == "peerpodconfig-ctrl"
    assert (config["advertised_nodes"], config["allocatable"], config["used"]) == (3, 6, 3)
    reasons = {
        pending_pod["name"]: (group["reason"], group["message"])
        for group in capacity["pending"]
        for pending_pod in group["pods"]
    }
    assert reasons["waits"][0] == "Unschedulable"
    assert reasons["starts"] == ("InvalidImageName", MESSAGE.replace("\x1b", "\ufffd"))

    assert artifacts(completed.stdout) == {
        "peerpods_report": {
            "report": [str(files[f"report.{extension}"]) for extension in ("html", "json", "junit.xml")],
            "totals": capacity["totals"],
        }
    }

    html = files["report.html"].read_text()
    assert "<script" not in html
    assert "no &lt;script&gt;alert(&#39;pod&#39;)&lt;/script&gt; &amp; {{ 7 * 7 }} \ufffd[31m" in html
    assert "by alice &amp; bob" in html

    statuses = {finding["check"]: finding["status"] for finding in document["findings"]}
    assert statuses["version"] == "ok"
    assert "cloud-credentials" not in statuses
    assert statuses["quota"] == "unknown"
    cases = {
        case.get("name"): {child.tag for child in case}
        for case in ElementTree.parse(files["report.junit.xml"]).iter("testcase")
    }
    assert cases.keys() == statuses.keys()
    assert (cases["version"], cases["quota"]) == (set(), {"skipped"})

    # No Secret was read, and the report has no part of the credentials.
    assert not [path for _verb, path in requests_of(cluster, "reporter") if "/secrets" in path]
    key = Path(kubeconfig).with_suffix(".key").read_text().splitlines()[1]
    for text in (completed.stdout, completed.stderr, *(path.read_text() for path in files.values())):
        assert SECRET not in text
        assert key not in text


def test_data_without_read_permission_are_reported(cluster, report: RoleAlone, tmp_path: Path):
    for verb, resource in (("list", "nodes"), ("get", "*.config.openshift.io")):
        cluster.kubectl("create", "clusterrole", f"report-{verb}", f"--verb={verb}", f"--resource={resource}")
        cluster.kubectl(
            "create", "clusterrolebinding", f"report-{verb}", f"--clusterrole=report-{verb}", "--user=report-looker"
        )
    completed = report.run(K8S_AUTH_KUBECONFIG=str(cluster.user_kubeconfig("report-looker")))
    assert "peerpodconfigs was rejected by the API server with 403" in failure_message(completed).replace("'", "")
    document = json.loads((tmp_path / "peerpods-report/report.json").read_text())
    assert {missing_data["what"] for missing_data in document["not_known"]} == {"operator", "capacity"}
    assert "403 Forbidden" in str(document["not_known"])
    assert document["capacity"] is artifacts(completed.stdout)["peerpods_report"]["totals"] is None
    assert document["cluster"]["openshift_version"] == VERSION
    assert "Not readable: capacity." in (tmp_path / "peerpods-report/report.html").read_text()
    cluster.delete("clusterrole,clusterrolebinding", "report-list", "report-get")


def test_a_report_of_findings_alone_needs_no_cluster_and_a_dry_run_writes_no_file(report: RoleAlone, tmp_path: Path):
    finding = {
        "check": "ports",
        "title": "Ports",
        "status": "error",
        "found": 'Closed: "9000/tcp"',
        "why": "It is <needed>.",
        "fix": "Open 'it'.",
    }
    report.playbook = play_of("report", tmp_path)
    report.variables = {
        "report_capacity": False,
        "report_findings": [finding],
        "report_directory": str(tmp_path / "deep/down"),
        "report_name": "preflight",
        "report_formats": ["html", "junit"],
    }
    missing_kubeconfig = str(tmp_path / "none")
    completed = report.run("--check", "--diff", K8S_AUTH_KUBECONFIG=missing_kubeconfig, KUBECONFIG=missing_kubeconfig)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert (
        f"Would write {tmp_path}/deep/down/preflight.html, {tmp_path}/deep/down/preflight.junit.xml."
        in completed.stdout
    )
    assert not (tmp_path / "deep").exists()

    completed = report.run(K8S_AUTH_KUBECONFIG=missing_kubeconfig, KUBECONFIG=missing_kubeconfig)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    files = {path.name: path for path in (tmp_path / "deep/down").iterdir()}
    assert files.keys() == {"preflight.html", "preflight.junit.xml"}
    html = files["preflight.html"].read_text()
    assert "Closed: &#34;9000/tcp&#34;" in html
    assert "It is &lt;needed&gt;." in html
    assert "The JSON file next to" not in html
    (case,) = ElementTree.parse(files["preflight.junit.xml"]).iter("testcase")
    assert case.get("classname") == "osc.peerpods.preflight"
    assert case[0].get("message") == finding["found"]

    report.variables["report_findings"] = [{**finding, "status": "bad"}]
    assert "must be one of: ok, warning, error, unknown" in failure_message(report.run())
