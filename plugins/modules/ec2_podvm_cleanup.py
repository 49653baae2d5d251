#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ec2_podvm_cleanup
version_added: "0.1.0"
short_description: Remove the AMIs of peer pods' VMs that the operator made for a cluster
description:
  - >-
    Deregisters the AMIs of this account that a job of the operator has created with the given name, and deletes their
    snapshots. AMIs that do not look like those of the job are not removed.
  - >-
    Before an AMI is deregistered, its snapshots get the tag C(osc.peerpods/cluster/ID), so that a later run finds and
    deletes a snapshot whose deletion failed. A snapshot that another AMI of this account has is neither tagged nor
    deleted.
  - >-
    The name ends with a number that the operator computes from the ID of the cluster. With another C(AMI_VERSION), an
    AMI may be that of another cluster: it is returned and not removed.
  - >-
    The operator itself deletes the AMI that C(peer-pods-cm) names when the KataConfig is deleted. An AMI is left if
    that failed, or if C(peer-pods-cm) named another image.
options:
  name:
    description:
      - The name of the AMIs, C(AMI_BASE_NAME) and C(AMI_VERSION) of C(aws-podvm-image-cm).
      - Required unless O(bucket) is set. Without it, no AMI is removed.
    type: str
  cluster_id:
    description:
      - The ID of the cluster, as M(osc.peerpods.cluster_info) returns it. Required with O(name).
    type: str
  bucket:
    description:
      - >-
        The S3 bucket that the jobs of the cluster use. The module returns whether it exists, and does not remove it: a
        job leaves its bucket if it fails, but a user may have created the bucket as well.
    type: str
  ignore:
    description:
      - >-
        The ID of an AMI that is neither removed nor returned, nor are its snapshots. For a dry run of a teardown, in
        which the operator has not yet deleted the AMI that C(peer-pods-cm) names.
    type: str
    default: ""
notes:
  - >-
    The credentials need C(ec2:DescribeImages), and to remove AMIs C(ec2:DeregisterImage) and C(ec2:DeleteSnapshot).
    With O(bucket), they need C(s3:ListBucket); without it, RV(bucket) is null. With O(name) as well, they need
    C(ec2:DescribeImportSnapshotTasks) and C(ec2:DescribeSnapshots), without which no such snapshots are returned.
  - >-
    Without C(ec2:CreateTags) or C(ec2:DescribeSnapshots), a snapshot whose deletion fails is not found again by a later
    run: delete those of RV(left) by hand.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Can run in check mode and return what it would remove.
    support: full
  diff_mode:
    description: Returns what it removes.
    support: full
seealso:
  - module: osc.peerpods.azure_podvm_cleanup
  - module: osc.peerpods.ec2_podvm_image_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Remove the images of the cluster
  osc.peerpods.ec2_podvm_cleanup:
    region: us-east-2
    name: podvm-image-262093934.0.1
    cluster_id: 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11
"""

RETURN = r"""
removed:
  description: The IDs of the AMIs and of their snapshots, in the order in which they are removed.
  returned: success, or failure after the AMIs were read
  type: list
  elements: str
  sample: [ami-0f3a5b1c2d4e6f708, snap-0123456789abcdef0]
kept:
  description: >-
    The IDs of the AMIs and of their snapshots that stay, because O(name) does not end with the number of the cluster.
  returned: success
  type: list
  elements: str
  sample: []
shared:
  description: The IDs of snapshots of the removed AMIs that stay, because other AMIs of this account have them, too.
  returned: success, or failure after the AMIs were read
  type: list
  elements: str
  sample: []
left:
  description: The IDs of the AMIs and of their snapshots that were not removed.
  returned: failure after the AMIs were read
  type: list
  elements: str
  sample: [snap-0123456789abcdef0]
snapshots:
  description: >-
    The IDs of snapshots that VM Import has made from objects in O(bucket) and that no AMI has, as a job leaves them if
    it fails after the import. They are not removed. EC2 lists the imports of some days only; see RV(unclear).
  returned: success
  type: list
  elements: str
  sample: []
imports:
  description: >-
    The IDs of imports from objects in O(bucket) that still run. Each will make a snapshot.
  returned: success
  type: list
  elements: str
  sample: []
unclear:
  description: >-
    The IDs of snapshots that VM Import has made, that no AMI has, and whose import EC2 no longer lists, so that their
    bucket is unknown. They may be of image jobs, which do not tag them. They are not removed.
  returned: success
  type: list
  elements: str
  sample: []
bucket:
  description: O(bucket) if it exists and these credentials may read it, else null.
  returned: success
  type: str
  sample: podvm-image-262093934.0.1
bucket_region:
  description: The region of O(bucket) if it exists, also if these credentials may not read it, else empty.
  returned: success
  type: str
  sample: us-east-2
unreadable:
  description: >-
    Whether O(bucket) exists, and these credentials may not read it: it belongs to another account, or they lack
    C(s3:ListBucket).
  returned: success
  type: bool
  sample: false
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.api import Api
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.image import image_of, made_by_job
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import LEAVING, MANAGED_TAG, REFERENCE_TAG
from ansible_collections.osc.peerpods.plugins.module_utils._aws.vm_import import (
    IMPORTED,
    imports_from,
    of_forgotten_imports,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.image_names import image_version
from ansible_collections.osc.peerpods.plugins.module_utils._text import failed_after

# The codes of HeadBucket, whose responses have no body, for a bucket that does not exist or that may not be read. The
# header is that of a bucket that exists, whatever the permissions on it are (HeadBucket in the API reference of S3).
ABSENT = ("404", "NoSuchBucket")
FORBIDDEN = "403"
REGION_HEADER = "x-amz-bucket-region"


def read_bucket(module: AnsibleAWSModule) -> dict[str, Any]:
    """The values `bucket`, `bucket_region` and `unreadable` of this module."""
    bucket = module.params["bucket"]
    try:
        answer = Api(module, "s3", "S3").find("HeadBucket", *ABSENT, Bucket=bucket) if bucket else None
    except Ec2Error as error:
        if error.code != FORBIDDEN:
            raise
        region = region_in(getattr(error.__cause__, "response", {}))
        return {"bucket": None, "bucket_region": region, "unreadable": bool(region)}
    return {
        "bucket": bucket if answer else None,
        "bucket_region": region_in(answer) if answer else "",
        "unreadable": False,
    }


def region_in(answer: Mapping[str, Any]) -> str:
    return answer["ResponseMetadata"]["HTTPHeaders"].get(REGION_HEADER, "")


def permitted(read: Callable[[], Any], otherwise: Any) -> Any:
    """What `read` returns, or `otherwise` without the permission to read it."""
    try:
        return read()
    except Ec2Error as error:
        if error.code != "UnauthorizedOperation":
            raise
        return otherwise


def left_by_jobs(ec2: Ec2, bucket: str) -> dict[str, list[str]]:
    """The values `snapshots`, `imports` and `unclear` of this module."""
    tasks = ec2.import_tasks()
    imports = imports_from(bucket, tasks)
    forgotten = of_forgotten_imports(ec2.snapshots_described(f"{IMPORTED}*"), tasks)
    unused = ec2.unused_snapshots([*imports.snapshots, *forgotten])
    return {
        "snapshots": [each for each in unused if each in imports.snapshots],
        "imports": [*imports.running],
        "unclear": [each for each in unused if each in forgotten],
    }


def made_for_cluster(name: str, cluster_id: str) -> bool:
    return name.endswith(f"-{image_version(cluster_id)}")


@dataclass(frozen=True)
class Plan:
    """What removes the AMIs and snapshots of the cluster, by their IDs in order; the IDs of those that may be of
    another cluster, and of snapshots that other AMIs have."""

    removals: Mapping[str, Callable[[str], None]]
    kept: Sequence[str] = ()
    shared: Sequence[str] = ()


def plan_removals(ec2: Ec2, params: Mapping[str, Any]) -> Plan:
    removals: dict[str, Callable[[str], None]] = {}
    for image in map(image_of, made_by_job(ec2.own_images(params["name"]))):
        if image["id"] != params["ignore"]:
            removals[image["id"]] = ec2.deregister
            removals |= dict.fromkeys(image["snapshots"], ec2.delete_snapshot)
    kept = [] if made_for_cluster(params["name"], params["cluster_id"]) else [*removals]
    removals = {} if kept else removals
    used = ec2.used_snapshots(except_images=removals) if removals else set()
    shared = [each for each in removals if each in used]
    marked = permitted(lambda: ec2.unused_snapshots_tagged(f"{REFERENCE_TAG}{params['cluster_id']}"), [])
    own = {each: remove for each, remove in removals.items() if each not in used}
    return Plan({**own, **dict.fromkeys(marked, ec2.delete_snapshot)}, kept, shared)


def mark(ec2: Ec2, params: Mapping[str, Any], planned: Mapping[str, Callable[[str], None]]) -> None:
    """Tag the snapshots of AMIs before these are deregistered, after which nothing else names the snapshots."""
    snapshots = [each for each, remove in planned.items() if remove == ec2.delete_snapshot]
    tags = {MANAGED_TAG: "true", f"{REFERENCE_TAG}{params['cluster_id']}": f"{LEAVING}{params['name']}"}
    if 0 < len(snapshots) < len(planned):
        permitted(lambda: ec2.tag_snapshots(snapshots, tags), None)


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "name": {"type": "str"},
            "cluster_id": {"type": "str"},
            "bucket": {"type": "str"},
            "ignore": {"type": "str", "default": ""},
        },
        required_one_of=[("name", "bucket")],
        required_by={"name": ["cluster_id"]},
        supports_check_mode=True,
    )
    params = module.params
    removed: list[str] = []
    plan: Plan | None = None
    by_jobs: dict[str, list[str]] = {"snapshots": [], "imports": [], "unclear": []}
    try:
        bucket = read_bucket(module)
        if params["name"]:
            ec2 = Ec2(module)
            plan = plan_removals(ec2, params)
            if params["bucket"]:
                by_jobs = permitted(lambda: left_by_jobs(ec2, params["bucket"]), by_jobs)
                by_jobs = {key: [each for each in ids if each not in plan.removals] for key, ids in by_jobs.items()}
            if not module.check_mode:
                mark(ec2, params, plan.removals)
        for each, remove in (plan.removals if plan else {}).items():
            if not module.check_mode:
                remove(each)
            removed.append(each)
    except Ec2Error as error:
        known = {}
        if plan:
            known = {"removed": removed, "left": [*plan.removals][len(removed) :], "shared": plan.shared}
        module.fail_json(**failed_after(error, removed, "removed"), **known)
    module.exit_json(
        changed=bool(removed),
        removed=removed,
        kept=plan.kept if plan else [],
        shared=plan.shared if plan else [],
        **by_jobs,
        diff={"prepared": "".join(f"delete {each}\n" for each in removed)},
        **bucket,
    )


if __name__ == "__main__":
    main()
