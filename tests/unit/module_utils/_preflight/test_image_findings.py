from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.image_findings import image_findings

IMAGE = {"name": "podvm-image-1.0.1", "architecture": "x86_64", "boot_mode": "uefi"}
CONFIRMED = {"image": IMAGE, "problems": []}
WRONG = {
    "image": IMAGE,
    "problems": ["AMI ami-1 has the architecture arm64, and instance type t3.medium supports x86_64."],
}


def found(
    platform: str = "AWS",
    *,
    given: str = "",
    existing: str = "",
    uri: str = "",
    image: dict | None = None,
    confirm: bool = True,
    way: str = "given",
    release: str = "1.13.0",
    creates: bool = False,
    needed: dict | None = None,
    problem: dict | None = None,
    installs: bool = True,
    facts: dict | None = None,
) -> dict:
    subscription = {"installed_csv": f"sandboxed-containers-operator.v{release}"}
    cluster = {
        "platform": platform,
        "pod_vms": {"images": [existing] if existing else []},
        "details": {"credentials": facts, "subscription": subscription},
    }
    settings = {
        "image_id": given,
        "image_uri": uri,
        "image_resources": creates,
        "confirm_image": confirm,
        "installs": installs,
        "credentials": {"requested": way, "given": [], "token": []},
    }
    readings = {"image": image or {}, "image_import": needed or {}, "image_bucket": problem or {}}
    (entry,) = image_findings(cluster, settings, readings)
    return entry


MANUAL = {"mode": "Manual", "issuer": "https://o.example", "root": None, "secret": "given", "secret_is_outdated": False}
MISSING = {"changes": ["create bucket b", "create role vmimport", "put policy osc.peerpods-1"]}
EXIST: dict = {"changes": []}
NO_BUCKET = {"found": "The job fails without what does not exist: S3 bucket b.", "fix": "Create it."}
REJECTED = {"failed": True, "msg": "IAM rejected GetRole."}


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        ({"needed": EXIST}, "ok", "when peer pods are enabled."),
        ({"problem": NO_BUCKET}, "error", "The job fails without what does not exist: S3 bucket b."),
        ({"problem": NO_BUCKET, "way": "token"}, "error", "The job fails"),
        ({"problem": NO_BUCKET, "confirm": False}, "warning", "The job fails"),
        ({"problem": NO_BUCKET, "installs": False}, "warning", "The job fails"),
        ({"needed": REJECTED}, "unknown", "Whether its bucket and role exist was not checked. IAM rejected GetRole."),
        ({}, "ok", "when peer pods are enabled."),
        ({"creates": True, "needed": MISSING}, "ok", "This run does: create bucket b, create role vmimport, put"),
        ({"creates": True, "needed": EXIST}, "ok", "when peer pods are enabled."),
        (
            {"creates": True, "needed": {**MISSING, "denied": ["s3:CreateBucket"]}},
            "warning",
            "Its credentials may lack permissions for that: s3:CreateBucket.",
        ),
        ({"creates": True, "needed": REJECTED}, "error", "IAM rejected GetRole."),
        ({"way": "token", "needed": MISSING}, "ok", "when peer pods are enabled."),
        ({"release": "1.12.0", "needed": MISSING}, "ok", "when peer pods are enabled."),
        # It would wait for credentials that nothing grants.
        (
            {"release": "1.12.0", "facts": MANUAL},
            "warning",
            "The job of sandboxed-containers-operator.v1.12.0 waits for",
        ),
        ({"release": "1.10.1", "facts": MANUAL}, "warning", "Manual, in which it grants no cred"),
        ({"release": "1.12.0", "facts": MANUAL, "problem": NO_BUCKET}, "error", "The job fails"),
        ({"release": "1.12.0", "facts": {**MANUAL, "mode": "", "root": "mint"}}, "ok", "when peer pods are enabled."),
        ({"release": "1.12.0", "facts": {**MANUAL, "mode": None}}, "ok", "when peer pods are enabled."),
        ({"release": "1.12.0", "facts": MANUAL, "platform": "Azure"}, "ok", "when peer pods are enabled."),
        ({"release": "1.8.1", "facts": MANUAL}, "ok", "when peer pods are enabled."),
        ({"facts": MANUAL, "needed": EXIST}, "ok", "when peer pods are enabled."),
        ({"platform": "Azure"}, "ok", "when peer pods are enabled."),
    ],
)
def test_what_the_job_for_the_image_needs(arguments: dict, status: str, expected: str):
    entry = found(**arguments)
    assert entry["status"] == status
    assert expected in entry["found"]


def test_without_an_id_the_operator_creates_the_image():
    assert "The operator creates the image" in found("Azure")["found"]
    assert "creates the image of the pod VMs of oci::q.io/a:1 when" in found("Azure", uri="oci::q.io/a:1")["found"]
    assert found(uri="quay.io/a:1")["status"] == "error"


def test_other_platforms_have_no_image():
    assert list(image_findings({"platform": "None"}, {}, {})) == []


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (
            {"given": "ami-1", "image": CONFIRMED},
            "ok",
            "operator_install_podvm_ami_id is ami-1. AWS confirms it (podvm-image-1.0.1, x86_64, uefi).",
        ),
        ({"existing": "ami-1", "image": CONFIRMED}, "ok", "PODVM_AMI_ID of peer-pods-cm is ami-1. AWS confirms it"),
        (
            {
                "platform": "Azure",
                "given": "/i",
                "image": {"image": {"architecture": "x64", "generation": "V2"}, "problems": []},
            },
            "ok",
            "operator_install_azure_image_id is /i. Azure confirms it (x64, V2).",
        ),
        (
            {"platform": "Azure", "given": "/communityGalleries/g/images/d", "image": {"image": None, "problems": []}},
            "ok",
            "It is in the gallery of another owner, and is not read.",
        ),
        ({"given": "ami-1", "image": WRONG}, "error", "is ami-1. AMI ami-1 has the architecture arm64"),
        ({"given": "ami-1", "image": WRONG, "confirm": False}, "warning", "has the architecture arm64"),
        ({"given": "ami-1", "image": {"msg": "EC2 rejected DescribeImages."}}, "error", "EC2 rejected DescribeImages."),
        ({"given": "ami-1", "image": {"msg": "Rejected."}, "confirm": False}, "unknown", "Rejected."),
        ({"given": "ami-1", "image": {"skipped": True}}, "unknown", "Not checked: the login to AWS failed."),
        ({"given": "ami-1"}, "unknown", "Not checked: the login to AWS failed."),
    ],
)
def test_an_image_that_exists(arguments: dict, status: str, expected: str):
    entry = found(**arguments)
    assert (entry["check"], entry["status"]) == ("pod-vm-image", status)
    assert expected in entry["found"]


def test_what_to_do_about_a_wrong_image():
    assert "leave it out, so that the operator creates one" in found(given="ami-1", image=WRONG)["fix"]
    assert "remove PODVM_AMI_ID from peer-pods-cm" in found(existing="ami-1", image=WRONG)["fix"]
    unread = found(given="ami-1", image={"msg": "Rejected."})
    assert "operator_install_confirm_image to false" in unread["fix"]
