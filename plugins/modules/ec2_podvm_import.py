#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ec2_podvm_import
version_added: "0.1.0"
short_description: Manage the S3 bucket and the role with which EC2 imports the image of peer pods' VMs
description:
  - >-
    The job of the operator that creates the image of the VMs uploads a disk to an S3 bucket, and EC2 imports it as the
    IAM role C(vmimport). With credentials that are given to the operator, the job creates neither.
  - >-
    The bucket has the tags C(osc.peerpods/managed=true) and C(osc.peerpods/cluster/ID=NAME). An account has one role
    C(vmimport): each cluster has an inline policy of its own in it, C(osc.peerpods-ID), which allows only what VM
    Import does with this bucket and with snapshots.
  - >-
    A bucket of this account and a role C(vmimport) that exist are used, and are neither changed nor removed if this
    collection did not create them. The module fails before any change if the bucket belongs to another account or to
    another region, or if the role may not read it.
  - >-
    If the installed botocore cannot create a bucket with tags, a run that is interrupted may leave a bucket without
    them. A bucket that has neither tags nor content, and whose name ends with a hyphen and the first eight digits of
    O(cluster_id), therefore counts as created by this collection, and gets the tags.
options:
  bucket:
    description:
      - The name of the bucket. The names of all buckets in AWS are different.
    type: str
    required: true
  cluster_name:
    description:
      - The infrastructure name of the cluster, as M(osc.peerpods.cluster_info) returns it.
    type: str
    required: true
  cluster_id:
    description:
      - The ID of the cluster, as M(osc.peerpods.cluster_info) returns it.
    type: str
    required: true
  state:
    description:
      - >-
        Whether the bucket and the role exist. With V(absent), the bucket is removed with the disks of image jobs in it,
        and the role unless it has a policy of another cluster. A bucket with any other object stays with all of its
        content, also if only an old version of that object exists: RV(kept) has its key.
    type: str
    choices: [present, absent]
    default: present
  image_uri:
    description:
      - >-
        With O(state=absent), the C(PODVM_IMAGE_URI) of the image job, if its disk has another path in the OCI image
        than C(/image/podvm.qcow2). The job uploads the disk with its name.
    type: str
    default: ""
  dry_run:
    description:
      - >-
        With O(state=present), change nothing, but check by a simulation of IAM whether the credentials have the
        permissions for the changes, and return RV(denied). Needs C(iam:SimulatePrincipalPolicy), and with credentials
        of a role C(iam:GetRole).
    type: bool
    default: false
notes:
  - >-
    The credentials need C(s3:ListBucket), C(s3:GetBucketTagging), C(s3:CreateBucket), C(s3:TagResource),
    C(s3:PutBucketTagging) (if botocore cannot create a bucket with tags), C(iam:GetRole), C(iam:ListRolePolicies),
    C(iam:ListAttachedRolePolicies), C(iam:GetRolePolicy), C(iam:CreateRole), C(iam:TagRole) and C(iam:PutRolePolicy);
    for O(state=absent) C(iam:DeleteRolePolicy), C(iam:DeleteRole), C(s3:ListBucketVersions), C(s3:DeleteObjectVersion)
    and C(s3:DeleteBucket) as well, and C(iam:ListInstanceProfilesForRole) to find out why IAM keeps the role.
    To read the policies that another owner has attached to the role, C(iam:GetPolicy) and C(iam:GetPolicyVersion).
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Can run in check mode and return the changes that it would make.
    support: full
  diff_mode:
    description: Returns what it creates or removes.
    support: full
seealso:
  - module: osc.peerpods.ec2_podvm_image_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Create the bucket and the role
  osc.peerpods.ec2_podvm_import:
    region: us-east-2
    bucket: podvm-demo-7x2kq-0f9f3c6e
    cluster_name: demo-7x2kq
    cluster_id: 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11

- name: Remove them
  osc.peerpods.ec2_podvm_import:
    region: us-east-2
    bucket: podvm-demo-7x2kq-0f9f3c6e
    cluster_name: demo-7x2kq
    cluster_id: 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11
    state: absent
"""

RETURN = r"""
changes:
  description: The changes, in order.
  returned: success
  type: list
  elements: str
  sample:
    - create bucket podvm-demo-7x2kq-0f9f3c6e
    - create role vmimport
    - put policy osc.peerpods-0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11
kept:
  description: >-
    The keys of objects in the bucket of this collection that no image job has written, and for which the bucket stays;
    those that S3 returns first.
  returned: with O(state=absent)
  type: list
  elements: str
  sample: []
attached:
  description: >-
    What others attached to the role C(vmimport) while this module ran, or an instance profile with the role. IAM keeps
    the role for it.
  returned: with O(state=absent)
  type: list
  elements: str
  sample: []
denied:
  description: >-
    The actions that the changes need and the policies of the credentials do not allow; null if that could not be
    simulated, for which RV(unknown) has the reason. The simulation does not know the conditions of requests.
  returned: with O(dry_run=true)
  type: list
  elements: str
  sample: []
unusable:
  description: >-
    Whether the module failed because the bucket or the role exists and cannot be used, not because it could not be
    read.
  returned: failure
  type: bool
  sample: false
unknown:
  description: Why it could not be simulated, as a sentence, else empty.
  returned: with O(dry_run=true)
  type: str
  sample: ""
"""

import re
from dataclasses import asdict
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.import_client import UnusableError, VmImport
from ansible_collections.osc.peerpods.plugins.module_utils._aws.simulation import simulate_caller
from ansible_collections.osc.peerpods.plugins.module_utils._aws.vm_import import (
    Target,
    import_problems,
    is_ours,
    plan_import,
    plan_removal,
    required_actions,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import failed_after

BUCKET_NAME = "[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"


def run(module: AnsibleAWSModule, client: VmImport) -> dict[str, Any]:
    params = module.params
    if not re.fullmatch(BUCKET_NAME, params["bucket"]):
        raise Ec2Error(
            f"bucket must be the name of an S3 bucket: 3 to 63 of a-z, 0-9, . and -; got '{params['bucket']}'."
        )
    target = Target(params["cluster_id"], params["cluster_name"], params["bucket"], module.region, client.partition)
    read: dict[str, Any] = {}
    bucket, role = client.bucket(target), client.role(target.policy)
    if params["state"] == "present":
        if problems := list(import_problems(target, bucket, role)):
            raise UnusableError(" ".join(problems))
        changes = plan_import(target, bucket, role)
    else:
        kept = client.kept(target) if is_ours(target, bucket) else []
        changes = plan_removal(target, bucket, role, kept=kept)
        read = {"kept": kept}
    is_dry_run = params["state"] == "present" and params["dry_run"]
    simulated: dict[str, Any] = {}
    if is_dry_run:
        required = required_actions(changes, target, client.account)
        simulated = asdict(simulate_caller(module, client.caller, required))
    elif not module.check_mode:
        for change in changes:
            client.apply(change, target)
        if client.attached:
            changes = [change for change in changes if str(change) in client.changes]
    if params["state"] == "absent":
        read["attached"] = client.attached
    return {
        **read,
        **simulated,
        "changed": bool(changes) and (module.check_mode or not is_dry_run),
        "changes": [str(change) for change in changes],
        "diff": {"prepared": "".join(f"{change}\n" for change in changes)},
    }


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "bucket": {"type": "str", "required": True},
            "cluster_name": {"type": "str", "required": True},
            "cluster_id": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "image_uri": {"type": "str", "default": ""},
            "dry_run": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    client = None
    try:
        client = VmImport(module)
        result = run(module, client)
    except Ec2Error as error:
        unusable = isinstance(error, UnusableError)
        module.fail_json(**failed_after(error, client.changes if client else []), unusable=unusable)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
