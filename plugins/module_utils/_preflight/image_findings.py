# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the image of the pod VMs (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.image_uri import uri_problem
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import CLOUDS, finding

WHY = "Every peer pod is a VM that is started from this image."
KEYS = {"AWS": "PODVM_AMI_ID", "Azure": "AZURE_IMAGE_ID"}
OPTIONS = {"AWS": "operator_install_podvm_ami_id", "Azure": "operator_install_azure_image_id"}


def image_findings(cluster: Mapping, settings: Mapping, readings: Mapping) -> Iterator[dict]:
    """Where the image comes from, and whether the cloud confirms one that exists.

    `image` of the readings is the result of ec2_podvm_image_info or azure_podvm_image_info.
    """
    platform = cluster["platform"]
    if platform not in CLOUDS:
        return
    given, existing = settings["image_id"], next(iter(cluster["pod_vms"]["images"]), "")
    image_id = given or existing
    if not image_id:
        yield _created(settings["image_uri"])
        return
    source = f"{OPTIONS[platform]} is {given}." if given else f"{KEYS[platform]} of peer-pods-cm is {existing}."
    result = readings.get("image") or {}
    if not result or result.get("skipped"):
        yield finding("pod-vm-image", "unknown", f"{source} Not checked: the login to {platform} failed.")
    elif "problems" not in result:
        yield _unread(f"{source} {result['msg']}", settings)
    elif result["problems"]:
        yield finding(
            "pod-vm-image",
            "error" if settings["confirm_image"] else "warning",
            f"{source} {' '.join(result['problems'])}",
            WHY,
            f"Set {OPTIONS[platform]} to an image of this region, or {_otherwise(platform, given)}, so that the "
            "operator creates one.",
        )
    elif result.get("image"):
        facts = [result["image"].get(key) for key in ("name", "architecture", "boot_mode", "generation")]
        described = f" ({', '.join(filter(None, facts))})" if any(facts) else ""
        yield finding("pod-vm-image", "ok", f"{source} {platform} confirms it{described}.")
    else:
        yield finding("pod-vm-image", "ok", f"{source} It is in the gallery of another owner, and is not read.")


def _created(uri: str) -> dict:
    if problem := uri_problem(uri):
        return finding("pod-vm-image", "error", problem, WHY, "Correct operator_install_image_uri.")
    of = f" of {uri}" if uri else ""
    return finding(
        "pod-vm-image", "ok", f"The operator creates the image of the pod VMs{of} when peer pods are enabled."
    )


def _otherwise(platform: str, given: str) -> str:
    if given:
        return "leave it out"
    return f"remove {KEYS[platform]} from peer-pods-cm and run the role operator_install"


def _unread(found: str, settings: Mapping) -> dict:
    if not settings["confirm_image"]:
        return finding("pod-vm-image", "unknown", found, WHY, "Check the image in the console of the cloud.")
    return finding(
        "pod-vm-image",
        "error",
        found,
        WHY,
        "Grant these credentials the permission to read images, or set operator_install_confirm_image to false to "
        "install without this check.",
    )
