from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._aws.vm_import import (
    TRUST,
    Bucket,
    Imports,
    Role,
    Target,
    import_problems,
    imports_from,
    is_disk_of_job,
    of_forgotten_imports,
    plan_import,
    plan_removal,
    required_actions,
)

TARGET = Target("id-1", "demo", "podvm-demo", "eu-central-1")
OWN = {"osc.peerpods/managed": "true"}
OUR_BUCKET = Bucket("eu-central-1", {**OWN, "osc.peerpods/cluster/id-1": "demo", "team": "a"})
THEIR_BUCKET = Bucket("eu-central-1", {"team": "a"})
OF_ANOTHER_CLUSTER = Bucket("eu-central-1", {**OWN, "osc.peerpods/cluster/id-2": "other"})
POLICY = {"osc.peerpods-id-1": TARGET.document}
OTHER_POLICY: dict[str, dict] = {"osc.peerpods-id-2": {}}
OUR_ROLE = Role(TRUST, OWN, POLICY)

NAMED_AFTER_US = Target("0f9f3c6e-6d1c", "demo", "podvm-demo-0f9f3c6e", "eu-central-1")
EMPTY = Bucket("eu-central-1", is_empty=True)

CREATE_BUCKET, CREATE_ROLE, PUT = "create bucket podvm-demo", "create role vmimport", "put policy osc.peerpods-id-1"
DELETE_BUCKET, DELETE_ROLE = "delete bucket podvm-demo", "delete role vmimport"
DELETE_POLICY = "delete policy osc.peerpods-id-1"


def allowing(*actions: str, resource: str | list[str] = "*") -> dict:
    return {"Statement": {"Effect": "Allow", "Action": list(actions), "Resource": resource}}


@pytest.mark.parametrize(
    ("bucket", "role", "changes"),
    [
        (None, None, [CREATE_BUCKET, CREATE_ROLE, PUT]),
        (OUR_BUCKET, OUR_ROLE, []),
        (OUR_BUCKET, Role(TRUST, OWN), [PUT]),
        (OUR_BUCKET, Role(TRUST, OWN, {"osc.peerpods-id-1": allowing("s3:*")}), [PUT]),
        (THEIR_BUCKET, Role(TRUST, OWN, OTHER_POLICY), [PUT]),
        (None, Role(TRUST, {}, {"x": allowing("s3:*")}), [CREATE_BUCKET]),
    ],
)
def test_what_is_created(bucket: Bucket | None, role: Role | None, changes: list[str]):
    assert list(map(str, plan_import(TARGET, bucket, role))) == changes
    assert list(import_problems(TARGET, bucket, role)) == []


def test_the_policy_allows_no_more_than_vm_import_does():
    bucket = "arn:aws-us-gov:s3:::podvm-demo"
    statements = Target("id-1", "demo", "podvm-demo", "us-gov-west-1", "aws-us-gov").document["Statement"]
    assert [statement["Resource"] for statement in statements] == [[bucket], [f"{bucket}/*"], ["*"]]
    assert all(action.startswith("ec2:") for action in statements[2]["Action"])


def test_the_actions_that_the_changes_need():
    assert required_actions(plan_import(TARGET, None, None), TARGET, "1") == {
        "arn:aws:s3:::podvm-demo": ["s3:CreateBucket", "s3:TagResource"],
        "arn:aws:iam::1:role/vmimport": ["iam:CreateRole", "iam:TagRole", "iam:GetRolePolicy", "iam:PutRolePolicy"],
    }
    assert required_actions(plan_import(TARGET, OUR_BUCKET, OUR_ROLE), TARGET, "1") == {}


def denying(fields: dict) -> dict:
    return {"Statement": [{"Effect": "Deny", "Action": "s3:*", **fields}]}


def test_a_denial_with_a_condition_is_not_counted():
    insecure = {"Resource": "*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    role = Role(TRUST, {}, {"x": allowing("*"), "y": denying(insecure)})
    assert list(import_problems(TARGET, None, role)) == []


@pytest.mark.parametrize(
    ("bucket", "role", "problem"),
    [
        (Bucket("us-east-1"), OUR_ROLE, "podvm-demo is in us-east-1, and EC2 in eu-central-1 imports images only from"),
        (None, Role({"Statement": []}, OWN), "The trust policy of the IAM role vmimport does not admit vmie.amazonaws"),
        (
            None,
            Role(TRUST, {}, {"x": allowing("s3:Get*", resource="arn:aws:s3:::other/*")}),
            "do not allow s3:GetBucketLocation, s3:ListBucket, s3:GetObject on arn:aws:s3:::podvm-demo. Allow it, or",
        ),
        (None, Role(TRUST, {}, {"x": allowing("s3:Get*")}), "do not allow s3:ListBucket on"),
        (None, Role(TRUST, {}, {}, {"x": allowing("s3:List*", "s3:Getb*")}), "do not allow s3:GetObject on"),
        (
            None,
            Role(TRUST, {}, {"x": {"Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}}),
            "do not allow s3:GetBucketLocation",
        ),
        (
            None,
            Role(TRUST, {}, {"x": allowing("*"), "y": denying({"NotResource": "arn:aws:s3:::podvm-demo"})}),
            "do not allow s3:GetObject on",
        ),
    ],
)
def test_what_cannot_be_used(bucket: Bucket | None, role: Role, problem: str):
    (found,) = import_problems(TARGET, bucket, role)
    assert problem in found


@pytest.mark.parametrize(
    ("bucket", "role", "changes"),
    [
        (None, None, []),
        (OUR_BUCKET, OUR_ROLE, [DELETE_POLICY, DELETE_ROLE, DELETE_BUCKET]),
        # An interrupted removal.
        (OUR_BUCKET, Role(TRUST, OWN), [DELETE_ROLE, DELETE_BUCKET]),
        (THEIR_BUCKET, Role(TRUST, OWN, {**POLICY, **OTHER_POLICY}), [DELETE_POLICY]),
        (OF_ANOTHER_CLUSTER, Role(TRUST, OWN, OTHER_POLICY), []),
        (OUR_BUCKET, Role(TRUST, OWN, POLICY, {"attached": {}}), [DELETE_POLICY, DELETE_BUCKET]),
        (None, Role(TRUST, {}, {"x": {}}), []),
    ],
)
def test_only_what_is_ours_is_removed(bucket: Bucket | None, role: Role | None, changes: list[str]):
    assert list(map(str, plan_removal(TARGET, bucket, role))) == changes


def test_a_bucket_with_objects_of_others_stays():
    changes = plan_removal(TARGET, OUR_BUCKET, OUR_ROLE, kept=["notes.txt"])
    assert list(map(str, changes)) == [DELETE_POLICY, DELETE_ROLE]


def task(name: str, bucket: str | None = "podvm-demo", status: str = "completed", snapshot: str | None = None) -> dict:
    """As in DescribeImportSnapshotTasks of the API reference of EC2."""
    detail = {"Status": status, **({"SnapshotId": snapshot} if snapshot else {})}
    return {
        "ImportTaskId": f"import-snap-{name}",
        "SnapshotTaskDetail": {**detail, **({"UserBucket": {"S3Bucket": bucket}} if bucket else {})},
    }


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([], Imports()),
        ([task("1", snapshot="snap-1")], Imports(("snap-1",))),
        # One that runs will make a snapshot.
        ([task("1", status="active")], Imports((), ("import-snap-1",))),
        ([task("1", status="active", snapshot="snap-1")], Imports(("snap-1",))),
        ([task("1", status="deleting"), task("2", status="deleted"), task("3", status="error")], Imports()),
        ([task("1", "other", snapshot="snap-1"), task("2", "other", "active"), task("3", None, "active")], Imports()),
    ],
)
def test_what_vm_import_makes_of_a_bucket(tasks: list[dict], expected: Imports):
    assert imports_from("podvm-demo", tasks) == expected


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("Created by AWS-VMImport service for import-snap-1", []),
        ("Created by AWS-VMImport service for import-snap-2", ["snap-1"]),
        ("Created by CreateImage(i-1) for ami-1", []),
        (None, []),
    ],
)
def test_snapshots_of_imports_that_ec2_no_longer_lists(description: str | None, expected: list[str]):
    snapshot = {"SnapshotId": "snap-1", "Description": description}
    assert of_forgotten_imports([snapshot], [task("1", "other")]) == expected


URI = "oci::quay.io/a/b:1.0"


@pytest.mark.parametrize(
    ("key", "image_uri", "expected"),
    [
        ("podvm.raw", "", True),
        ("podvm.raw", URI, True),
        ("mine.raw", f"{URI}::/disks/mine.qcow2", True),
        # A disk that is not qcow2 keeps its name.
        ("mine.img", f"{URI}::/disks/mine.img", True),
        ("mine.raw", URI, False),
        ("disks/podvm.raw", "", False),
        ("podvm.raw.bak", "", False),
        ("5c3f3a43-0d39-4d6f-b6e6-4f5c1f3f7d10-disk.raw", "bootc::quay.io/a/b:1.0", True),
        ("mine-disk.raw", "", False),
        ("disk.raw", "", False),
    ],
)
def test_the_disks_of_image_jobs(key: str, image_uri: str, expected: bool):
    assert is_disk_of_job(key, image_uri) is expected


@pytest.mark.parametrize(
    ("target", "bucket", "is_unfinished"),
    [
        (NAMED_AFTER_US, EMPTY, True),
        (NAMED_AFTER_US, Bucket("eu-central-1", {"team": "a"}, is_empty=True), False),
        (NAMED_AFTER_US, Bucket("eu-central-1"), False),
        (TARGET, EMPTY, False),
    ],
)
def test_an_unfinished_bucket_gets_the_tags_or_is_removed(target: Target, bucket: Bucket, is_unfinished: bool):
    tagged = [f"tag bucket {target.bucket}"] if is_unfinished else []
    removed = [f"delete bucket {target.bucket}"] if is_unfinished else []
    other_role = Role(TRUST, {}, {"x": allowing("s3:*")})
    assert list(map(str, plan_import(target, bucket, other_role))) == tagged
    assert list(map(str, plan_removal(target, bucket, other_role))) == removed
