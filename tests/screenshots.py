"""`make screenshots`: take the pictures of the documentation again, from reports of a cluster on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from playwright.sync_api import ViewportSize, sync_playwright

from tests.cluster.clouds import Cloud, bare_cluster, exported, site_variables
from tests.cluster.images import why_no_podman
from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.demo.__main__ import NAMESPACE, WORKERS, peer_pods
from tests.support import ROOT, ansible_environment

BUILD = ROOT / "build" / "screenshots"
IMAGES = ROOT / "docs" / "docsite" / "rst" / "images"
SIZE: ViewportSize = {"width": 1000, "height": 800}

# Its emulator has quotas, which moto lacks.
CLOUD = "azure"

# More peer pods than the cloud has room for, so that the preflight has a finding about the limit.
LIMIT_TOO_LARGE = 3000
LIMIT = 10


def write_reports(cluster: Cluster, cloud: Cloud, runtime: str) -> None:
    """The reports of a preflight, and of a cluster with one peer pod more than its nodes have slots."""
    variables = {**site_variables(runtime), "report_directory": str(BUILD), "report_made_by": "admin"}

    def play(name: str, limit: int) -> None:
        extra = json.dumps({**variables, "peerpodconfig_rollout_limit": limit})
        environment = ansible_environment(exported(cluster, cloud))
        subprocess.run(
            ["ansible-playbook", f"playbooks/{name}.yml", "-e", extra], cwd=ROOT, env=environment, check=True
        )

    def count_placed() -> int:
        pods = cluster.get("pods", "-n", NAMESPACE)["items"]
        return sum("nodeName" in pod["spec"] for pod in pods)

    play("preflight", LIMIT_TOO_LARGE)
    play("site", LIMIT)
    slots = LIMIT * WORKERS
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *peer_pods(slots + 1))
    wait_for("the scheduler to place the peer pods", lambda: count_placed() == slots, seconds=60)
    play("report", LIMIT)


def take_screenshots(chromium: str) -> None:
    with sync_playwright() as playwright:
        # The sandbox of Chromium does not run as root, the user of containers.
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False)
        page = browser.new_page(viewport=SIZE)
        for name, full_page in (("preflight", False), ("report", True)):
            page.goto((BUILD / f"{name}.html").as_uri())
            page.screenshot(path=IMAGES / f"{name}.png", full_page=full_page)
            print(f"Wrote {(IMAGES / f'{name}.png').relative_to(ROOT)}")
        browser.close()


def main() -> int:
    chromium = shutil.which("chromium")
    if not chromium:
        print("A browser is required: sudo apt-get install chromium")
        return 2
    runtime = "process" if why_no_podman() else "podman"
    with bare_cluster(CLOUD, WORKERS, runtime) as (cluster, cloud):
        write_reports(cluster, cloud, runtime)
    take_screenshots(chromium)
    return 0


if __name__ == "__main__":
    sys.exit(main())
