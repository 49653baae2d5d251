"""Helpers for the tests of the roles that run a container of this collection."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cluster import openshift
from tests.cluster.images import CONTAINERS, build_image, build_images, export_sbom
from tests.cluster.launcher import Cluster


def readme_settings(container: str) -> set[str]:
    """The environment variables in the table of the container's README."""
    text = (CONTAINERS / container / "README.md").read_text()
    rows = re.findall(r"^\| `[A-Z].*?\|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}


def listed_and_pinned(container: str, directory: Path) -> tuple[list[str], list[str]]:
    """The packages in the image's bill of materials and the packages that are pinned by hash, each as name==version."""
    export_sbom(build_images()[container], directory / "sbom.json")
    listed = json.loads((directory / "sbom.json").read_text())["components"]
    text = (CONTAINERS / container / "requirements.txt").read_text()
    pins = [Requirement(line) for line in re.findall(r"^\w.*?(?= \\$)", text, re.MULTILINE)]
    return (
        [f"{canonicalize_name(part['name'])}=={part['version']}" for part in listed],
        [f"{p.name}{p.specifier}" for p in pins if p.marker is None or p.marker.evaluate()],
    )


def assert_probed_and_spread(pod: dict) -> None:
    """The endpoints of the probes exist, and replicas are spread over nodes if possible."""
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    for http_get in probes.values():
        url = f"http://{pod['status']['podIP']}:{ports[http_get['port']]}{http_get['path']}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.status == 200
    # A container that is not ready is not restarted for that.
    assert probes["readiness"]["path"] != probes["liveness"]["path"]
    spread = {constraint["topologyKey"]: constraint for constraint in pod["spec"]["topologySpreadConstraints"]}
    assert spread.keys() == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    for constraint in spread.values():
        selected = constraint["labelSelector"]["matchLabels"]
        assert selected.items() <= pod["metadata"]["labels"].items()


@contextmanager
def actor(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` repeatedly, as a controller does. A failed call, for example after a conflicting write, is
    repeated; an error of the last call is raised."""
    failed, done = False, threading.Event()

    def run() -> None:
        nonlocal failed
        while not done.wait(0.3):
            try:
                act()
            except Exception:  # noqa: BLE001
                failed = True
            else:
                failed = False

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        act()


@contextmanager
def openshift_builds(cluster: Cluster, repository: str) -> Iterator[None]:
    """OpenShift's build API, with a stand-in for its controller that builds with podman.

    An image is named `repository`/NAME@sha256:… in the cluster, and NAME in the store of podman.
    """
    openshift.custom_resource(cluster, "image.openshift.io", "ImageStream")
    openshift.custom_resource(cluster, "build.openshift.io", "BuildConfig")
    openshift.custom_resource(cluster, "build.openshift.io", "Build")
    with actor(lambda: _run_builds(cluster, repository)):
        yield


def _run_builds(cluster: Cluster, repository: str) -> None:
    """BuildConfig → Build, once; its source → image; → the ImageStream's tag."""
    for config in cluster.get("buildconfigs.build.openshift.io", "-A")["items"]:
        namespace, name = config["metadata"]["namespace"], config["metadata"]["name"]
        builds = cluster.get("builds.build.openshift.io", "-n", namespace)["items"]
        if builds or config["spec"]["triggers"] != [{"type": "ConfigChange"}]:
            continue
        tag = config["spec"]["output"]["to"]["name"].partition(":")[2]
        try:
            digest = _build(cluster, config, tag)
        except subprocess.CalledProcessError as error:
            status = {
                "phase": "Failed",
                "reason": "DockerBuildFailed",
                "message": "Dockerfile build strategy has failed.",
                "logSnippet": error.stderr[-500:],
            }
        else:
            status = {"phase": "Complete"}
            reference = f"{repository}/{name}@{digest}"
            tags = [{"tag": tag, "items": [{"dockerImageReference": reference}]}]
            openshift.set_status(cluster, f"imagestream/{name}", {"tags": tags}, namespace)
        cluster.apply(
            {
                "apiVersion": "build.openshift.io/v1",
                "kind": "Build",
                "metadata": {
                    "name": f"{name}-1",
                    "namespace": namespace,
                    "labels": {"openshift.io/build-config.name": name},
                    "ownerReferences": [
                        {
                            "apiVersion": "build.openshift.io/v1",
                            "kind": "BuildConfig",
                            "name": name,
                            "uid": config["metadata"]["uid"],
                            "controller": True,
                            "blockOwnerDeletion": True,
                        }
                    ],
                },
            }
        )
        openshift.set_status(cluster, f"build/{name}-1", status, namespace)


def _build(cluster: Cluster, config: dict, tag: str) -> str:
    """Lay out a BuildConfig's source as the build's pod does, and build it."""
    source, metadata = config["spec"]["source"], config["metadata"]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "Dockerfile").write_text(source["dockerfile"])
        for part in source["configMaps"]:
            folder = Path(directory, part["destinationDir"])
            folder.mkdir(exist_ok=True)
            config_map = cluster.get("configmap", part["configMap"]["name"], "-n", metadata["namespace"])
            for name, content in config_map["data"].items():
                (folder / name).write_text(content)
        return build_image(Path(directory), f"localhost/osc-peerpods/{metadata['name']}:{tag}")
