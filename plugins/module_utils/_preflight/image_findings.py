# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the image of the pod VMs (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.credentials import (
    cannot_grant,
    image_job_needs_bucket,
    image_job_requests,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.image_uri import uri_problem
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.credential_findings import (
    chosen_credentials,
    csv_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import CLOUDS, MAY_BE_GRANTED, finding
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

WHY = "Every peer pod is a VM that is started from this image."
RESOURCES = "The job uploads a disk to an S3 bucket, and EC2 imports it as the IAM role vmimport."
CREATE_OTHERWISE = (
    "Or create both as in the guide for AWS, and set BUCKET_NAME in operator_install_image_config. Or let the cloud "
    "credential operator grant the credentials, with which the job creates both."
)
GRANT_OTHERWISE = (
    "Create the Secret peer-pods-image-creation-secret in the namespace of the operator, with aws_access_key_id and "
    "aws_secret_access_key of a user that may create the bucket and the role. Or set operator_install_podvm_ami_id to "
    "an image that exists, or install operator 1.13 or newer, whose job uses the credentials that are given."
)
CHECK = "pod-vm-image"
KEYS = {"AWS": "PODVM_AMI_ID", "Azure": "AZURE_IMAGE_ID"}
OPTIONS = {"AWS": "operator_install_podvm_ami_id", "Azure": "operator_install_azure_image_id"}


def image_findings(cluster: Mapping, settings: Mapping, readings: Mapping) -> Iterator[dict]:
    """Where the image comes from, and whether the cloud confirms one that exists.

    Of the readings, `image` is the result of ec2_podvm_image_info or azure_podvm_image_info, `image_import` that of
    ec2_podvm_import in check mode, and `image_bucket` that of the filter image_bucket_problem.
    """
    platform = cluster["platform"]
    if platform not in CLOUDS:
        return
    given, existing = settings["image_id"], next(iter(cluster["pod_vms"]["images"]), "")
    image_id = given or existing
    if not image_id:
        yield _created(cluster, settings, readings)
        return
    source = f"{OPTIONS[platform]} is {given}." if given else f"{KEYS[platform]} of peer-pods-cm is {existing}."
    result = readings.get("image") or {}
    if not result or result.get("skipped"):
        yield finding(CHECK, "unknown", f"{source} Not checked: the login to {platform} failed.")
    elif "problems" not in result:
        yield _unread(f"{source} {result['msg']}", settings)
    elif result["problems"]:
        yield finding(
            CHECK,
            "error" if settings["confirm_image"] else "warning",
            f"{source} {' '.join(result['problems'])}",
            WHY,
            f"Set {OPTIONS[platform]} to an image of this region, or {_otherwise(platform, given)}, so that the "
            "operator creates one.",
        )
    elif result.get("image"):
        facts = [result["image"].get(key) for key in ("name", "architecture", "boot_mode", "generation")]
        described = f" ({', '.join(filter(None, facts))})" if any(facts) else ""
        yield finding(CHECK, "ok", f"{source} {platform} confirms it{described}.")
    else:
        yield finding(CHECK, "ok", f"{source} It is in the gallery of another owner, and is not read.")


def _created(cluster: Mapping, settings: Mapping, readings: Mapping) -> dict:
    if problem := uri_problem(settings["image_uri"]):
        return finding(CHECK, "error", problem, WHY, "Correct operator_install_image_uri.")
    of = f" of {settings['image_uri']}" if settings["image_uri"] else ""
    found = f"The operator creates the image of the pod VMs{of} when peer pods are enabled."
    if cluster["platform"] != "AWS":
        return finding(CHECK, "ok", found)
    if bucket := readings.get("image_bucket"):
        is_error = settings["installs"] and settings["confirm_image"]
        return finding(CHECK, "error" if is_error else "warning", bucket["found"], RESOURCES, bucket["fix"])
    # Whether the Secret exists is not read.
    if ungranted := _ungranted(cluster, settings):
        return finding(CHECK, "warning", f"{found} {ungranted}", WHY, GRANT_OTHERWISE)
    if not image_job_needs_bucket(chosen_credentials(cluster, settings).way, csv_of(cluster, settings)):
        return finding(CHECK, "ok", found)
    needed = readings.get("image_import") or {}
    if not settings["image_resources"]:
        if "changes" not in needed and needed.get("msg"):
            found = f"{found} Whether its bucket and role exist was not checked. {needed['msg']}"
            return finding(CHECK, "unknown", found)
        return finding(CHECK, "ok", found)
    if needed.get("msg"):
        return finding(CHECK, "error", f"{found} {needed['msg']}", RESOURCES, CREATE_OTHERWISE)
    if "changes" not in needed:
        return finding(CHECK, "ok", found)
    if needed.get("denied"):
        return finding(
            CHECK,
            "warning",
            f"{found} This run does: {join_names(needed['changes'])}. Its credentials may lack permissions for that: "
            f"{join_names(needed['denied'])}.",
            RESOURCES,
            f"Grant them as in the guide for AWS. {MAY_BE_GRANTED}",
        )
    changes = f" This run does: {join_names(needed['changes'])}." if needed["changes"] else ""
    return finding(CHECK, "ok", f"{found}{changes}")


def _ungranted(cluster: Mapping, settings: Mapping) -> str:
    """Why the job would wait without end, as a sentence; empty if it would not, or if that is not known."""
    facts, csv = cluster["details"]["credentials"], csv_of(cluster, settings)
    if facts is None or facts["mode"] is None or not image_job_requests(chosen_credentials(cluster, settings).way, csv):
        return ""
    reason = cannot_grant(facts, cluster["platform"])
    if reason is None:
        return ""
    return (
        f"The job of {csv} waits for credentials of the cloud credential operator, whatever others are given. {reason}"
    )


def _otherwise(platform: str, given: str) -> str:
    if given:
        return "leave it out"
    return f"remove {KEYS[platform]} from peer-pods-cm and run the role operator_install"


def _unread(found: str, settings: Mapping) -> dict:
    if not settings["confirm_image"]:
        return finding(CHECK, "unknown", found, WHY, "Check the image in the console of the cloud.")
    return finding(
        CHECK,
        "error",
        found,
        WHY,
        "Grant these credentials the permission to read images, or set operator_install_confirm_image to false to "
        "install without this check.",
    )
