"""moto's server, with what it lacks of EC2, IAM and S3: `python -m tests.cluster.moto_server` has its options."""

from __future__ import annotations

from typing import Any

import xmltodict  # type: ignore[import-untyped]
from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.iam.exceptions import NotFoundException
from moto.iam.models import Role
from moto.iam.responses import IamResponse
from moto.s3.responses import ACTION_MAP, S3Response
from moto.server import main

# EvalDecision of SimulatePrincipalPolicy in the API reference of IAM.
DECISIONS = {
    PermissionResult.PERMITTED: "allowed",
    PermissionResult.DENIED: "explicitDeny",
    PermissionResult.NEUTRAL: "implicitDeny",
}


def simulate_principal_policy(self: IamResponse) -> ActionResult:
    """Evaluate the policies of a role for each action and resource, as moto itself does to authorize requests."""
    arn = self._get_param("PolicySourceArn")
    if arn.split(":")[5].partition("/")[0] != "role":
        raise NotFoundException(f"ARN {arn} cannot be found.")
    role = self.backend.get_role(arn.rpartition("/")[2])
    policies = [IAMPolicy(document) for document in _documents(role)]
    return ActionResult(
        {
            "EvaluationResults": [
                {
                    "EvalActionName": action,
                    "EvalResourceName": resource,
                    "EvalDecision": DECISIONS[_verdict(policies, action, resource)],
                }
                for action in self._get_param("ActionNames", [])
                for resource in self._get_param("ResourceArns", ["*"])
            ],
            "IsTruncated": False,
        }
    )


def _documents(role: Role) -> list[str]:
    attached = [
        version.document
        for policy in role.managed_policies.values()
        for version in policy.versions
        if version.is_default
    ]
    return [*role.policies.values(), *attached]


def _verdict(policies: list[IAMPolicy], action: str, resource: str) -> PermissionResult:
    verdicts = {policy.is_action_permitted(action, resource) for policy in policies}
    for verdict in (PermissionResult.DENIED, PermissionResult.PERMITTED):
        if verdict in verdicts:
            return verdict
    return PermissionResult.NEUTRAL


IamResponse.simulate_principal_policy = simulate_principal_policy  # type: ignore[attr-defined]

_TASKS: dict[str, list[dict[str, Any]]] = {}


def import_snapshot(self: EC2Response) -> ActionResult:
    """A task that is completed when it is created; the snapshot has no link to it ("Importing a disk as a snapshot
    using VM Import/Export" in the VM Import user guide)."""
    volume = self.ec2_backend.create_volume(size=1, zone_name=f"{self.region}a")
    task = f"import-snap-{len(_TASKS)}{volume.id.removeprefix('vol-')}"
    snapshot = self.ec2_backend.create_snapshot(volume.id, f"Created by AWS-VMImport service for {task}")
    self.ec2_backend.delete_volume(volume.id)
    bucket = self._get_param("DiskContainer", {})["UserBucket"]
    details = {"SnapshotId": snapshot.id, "Status": "completed", "UserBucket": bucket}
    described = {"ImportTaskId": task, "SnapshotTaskDetail": details}
    _TASKS.setdefault(self.region, []).append(described)
    return ActionResult(described)


def describe_import_snapshot_tasks(self: EC2Response) -> ActionResult:
    return ActionResult({"ImportSnapshotTasks": _TASKS.get(self.region, [])})


EC2Response.import_snapshot = import_snapshot  # type: ignore[attr-defined]
EC2Response.describe_import_snapshot_tasks = describe_import_snapshot_tasks  # type: ignore[attr-defined]

# HeadBucket has no action of its own ("Actions defined by Amazon S3" in the Service Authorization Reference).
ACTION_MAP["BUCKET"]["HEAD"]["DEFAULT"] = "ListBucket"

_put_bucket = S3Response._bucket_response_put


def create_bucket_with_tags(self: S3Response, request: Any, bucket_name: str, querystring: dict[str, Any]) -> Any:
    """Tags in CreateBucketConfiguration, in the API reference of S3."""
    answer = _put_bucket(self, request, bucket_name, querystring)
    if b"<CreateBucketConfiguration" in self.body:
        configuration = xmltodict.parse(self.body, force_list={"Tag": True})["CreateBucketConfiguration"]
        tags = (configuration.get("Tags") or {}).get("Tag", [])
        if tags:
            self.backend.put_bucket_tagging(bucket_name, {tag["Key"]: tag["Value"] for tag in tags})
    return answer


S3Response._bucket_response_put = create_bucket_with_tags  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
