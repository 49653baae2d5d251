# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The IAM policies of cloud-api-adaptor and of the jobs for its image (private to this collection; no I/O here).

`docs/policies` has them as files. Sources: openshift/sandboxed-containers-operator (SCO) and
confidential-containers/cloud-api-adaptor (CAA).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.image_names import BUCKET_PREFIX

# The audience of the tokens that the operator projects into cloud-api-adaptor and the jobs, and their service account
# (config/peerpods/podvm/osc-podvm-create-job.yaml and docs/credentials-handling.md of SCO).
AUDIENCE = "openshift"
SERVICE_ACCOUNT = "default"

# The calls of src/cloud-providers/aws/provider.go of CAA: a VM with its tags, a further network interface with a public
# address, and volumes.
_VM_ACTIONS = (
    "ec2:AllocateAddress",
    "ec2:AssociateAddress",
    "ec2:AttachNetworkInterface",
    "ec2:AttachVolume",
    "ec2:CreateNetworkInterface",
    "ec2:CreateTags",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeAddresses",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeVolumes",
    "ec2:DisassociateAddress",
    "ec2:ModifyNetworkInterfaceAttribute",
    "ec2:ReleaseAddress",
    "ec2:RunInstances",
    "ec2:TerminateInstances",
)

# delete_ami_using_id in config/peerpods/podvm/aws-podvm-image-handler.sh of SCO: the job that deletes the image runs
# when the KataConfig is deleted, long after the permissions to create an image were removed.
_IMAGE_REMOVAL_ACTIONS = ("ec2:DeleteSnapshot", "ec2:DeregisterImage", "ec2:DescribeSnapshots")

# config/peerpods/podvm/aws-podvm-image-handler.sh of SCO (import_snapshot_n_wait and register_ami).
_IMPORT_ACTIONS = ("ec2:DescribeImportSnapshotTasks", "ec2:ImportSnapshot", "ec2:RegisterImage")

# The bucket that the job creates and removes again is named after AMI_BASE_NAME of aws-podvm-image-cm. The actions are
# those of config/peerpods/credentials-requests/ccoctl/credentials_request_aws_sts.yaml of SCO, and iam:PassRole of
# docs/credentials-handling.md.
_BUCKET = f"arn:{{partition}}:s3:::{BUCKET_PREFIX}*"
_IMPORT_ROLE = "arn:{partition}:iam::{account}:role/vmimport"
_IMPORT_ROLE_ACTIONS = (
    "iam:CreateRole",
    "iam:DeleteRole",
    "iam:DeleteRolePolicy",
    "iam:GetRole",
    "iam:ListRolePolicies",
    "iam:PassRole",
    "iam:PutRolePolicy",
)
_BUCKET_ACTIONS = (
    "s3:CreateBucket",
    "s3:DeleteBucket",
    "s3:GetBucketAcl",
    "s3:GetBucketLocation",
    "s3:ListBucket",
)
_EXISTING_BUCKET_ACTIONS = ("s3:GetBucketAcl", "s3:GetBucketLocation", "s3:ListBucket")
_OBJECT_ACTIONS = ("s3:DeleteObject", "s3:GetObject", "s3:PutObject")


def vm_policy() -> dict:
    """What cloud-api-adaptor needs as long as peer pods run, and the job that deletes the image."""
    return _document(
        _allow("PeerPodVirtualMachines", _VM_ACTIONS, "*"),
        _allow("RemovePodVMImage", _IMAGE_REMOVAL_ACTIONS, "*"),
    )


def image_policy(partition: str, account: str) -> dict:
    """What the job needs that creates the image of the VMs; it can be removed when the image exists."""
    return _document(
        _allow("ImportPodVMImage", _IMPORT_ACTIONS, "*"),
        _allow("ImportRole", _IMPORT_ROLE_ACTIONS, _IMPORT_ROLE.format(partition=partition, account=account)),
        _allow("ImageBucket", _BUCKET_ACTIONS, _BUCKET.format(partition=partition)),
        _allow("ImageObjects", _OBJECT_ACTIONS, f"{_BUCKET.format(partition=partition)}/*"),
        _allow("ListBuckets", ("s3:ListAllMyBuckets",), "*"),
    )


def import_policy(partition: str, bucket: str) -> dict:
    """What that job needs with credentials that are given, for which the bucket and the role exist
    (prepare_for_prebuilt_artifact in aws-podvm-image-handler.sh, and the operational credentials of ami-helper.sh, in
    config/peerpods/podvm of SCO)."""
    arn = f"arn:{partition}:s3:::{bucket}"
    return _document(
        _allow("ImportPodVMImage", _IMPORT_ACTIONS, "*"),
        _allow("ImageBucket", _EXISTING_BUCKET_ACTIONS, arn),
        _allow("ImageObjects", _OBJECT_ACTIONS, f"{arn}/*"),
    )


def trust_policy(provider_arn: str, issuer: str, subjects: Iterable[str]) -> dict:
    """Who may assume the role: the service accounts of the cluster.

    ccoctl (createRolePolicyDocument in pkg/cmd/provisioning/aws/create-iam-roles.go of
    openshift/cloud-credential-operator) writes the same without the condition of the audience.
    """
    host = issuer.removeprefix("https://")
    condition = {f"{host}:sub": sorted(subjects), f"{host}:aud": AUDIENCE}
    return _document(
        {
            "Effect": "Allow",
            "Principal": {"Federated": provider_arn},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringEquals": condition},
        }
    )


def actions_of(policy: Mapping[str, Any]) -> dict[str, list[str]]:
    """The actions of a policy of this file, by their resource."""
    actions: dict[str, list[str]] = {}
    for statement in policy["Statement"]:
        actions.setdefault(statement["Resource"], []).extend(statement["Action"])
    return actions


def is_same_policy(one: Any, other: Any) -> bool:
    """Whether two policy documents mean the same: IAM may return a list with one element as that element, and the
    elements of a list in another order."""
    return _canonical(one) == _canonical(other)


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _canonical(each) for key, each in value.items()}
    if isinstance(value, list):
        elements = sorted((_canonical(each) for each in value), key=str)
        return elements[0] if len(elements) == 1 else elements
    return value


def _document(*statements: Mapping[str, Any]) -> dict:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(sid: str, actions: Iterable[str], resource: str) -> dict:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}
