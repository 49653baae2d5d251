"""The policies of the guide and of docs/policies are enough for the modules: moto evaluates them for each request.

moto evaluates a request to EC2 and IAM for all resources, so that statements about some of them apply to all here. It
requires no permission for tags in a request that creates something, and evaluates DeleteObjects for the bucket in place
of the objects, so that no bucket here has any.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from tests.cluster import aws
from tests.cluster.image_builder import TRUST, vmimport_policy
from tests.support import ROOT, json_blocks

ISSUER = "https://demo-oidc.s3.eu-central-1.amazonaws.com"
CLUSTER = {"cluster_name": "demo", "cluster_id": "id-1"}
BUCKET = "podvm-demo-id-1"
ROLE = {**CLUSTER, "issuer": ISSUER}
IMAGE = "ami-12c6146b"
DENIED = ("AccessDenied", "UnauthorizedOperation")


class Account:
    """An AWS whose identities have only the permissions of their policies."""

    def __init__(self, moto: aws.Moto):
        self._moto = moto
        self.cloud = aws.create_cloud_side(moto, workers=2)
        self._iam = moto.client("iam")
        self._iam.create_open_id_connect_provider(Url=ISSUER, ClientIDList=["openshift"], ThumbprintList=[])
        network, role, image = json_blocks("guide_aws.rst")[:3]
        files = ("aws-pod-vms.json", "aws-pod-vm-image.json")
        vms, job = (json.loads((ROOT / "docs/policies" / name).read_text()) for name in files)
        policies = {"network": network, "role": role, "image": image, "vms": vms, "job": job, "nothing": {}}
        self._keys = {name: self._user(name, policy) for name, policy in policies.items()}
        # How many requests are not authorized.
        request = urllib.request.Request(
            f"{moto.endpoint_url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(request).close()

    def _user(self, name: str, policy: dict) -> dict[str, str]:
        self._iam.create_user(UserName=name)
        if policy:
            for statement in policy["Statement"]:
                if not statement["Action"][0].startswith("s3:"):
                    statement["Resource"] = "*"
            self._iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
        key = self._iam.create_access_key(UserName=name)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def environment(self, user: str) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": self._moto.endpoint_url, **self._keys[user]}

    def client(self, user: str, service: str) -> Any:
        key = self._keys[user]
        return boto3.client(
            service,
            region_name=aws.REGION,
            endpoint_url=self._moto.endpoint_url,
            aws_access_key_id=key["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=key["AWS_SECRET_ACCESS_KEY"],
        )


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    moto = aws.Moto(tmp_path_factory.mktemp("moto"))
    try:
        yield Account(moto)
    finally:
        moto.processes.stop()


def modules(cloud: aws.CloudSide) -> dict[str, list[tuple[str, dict]]]:
    """The modules that each policy is for, with arguments that make them send all their requests."""
    worker, *_others = cloud.workers
    workers = [each.provider_id for each in cloud.workers]
    ports = {**CLUSTER, "instance_ids": workers}
    types = {"instance_types": [aws.INSTANCE_TYPE]}
    return {
        "network": [
            ("security_group_ports", {**ports, "dry_run": True}),
            ("security_group_ports", ports),
            ("security_group_ports", {**ports, "tags": {"team": "a"}}),
            ("security_group_ports", {**ports, "state": "absent"}),
            ("ec2_subnet_usage_info", {**types, "instance_ids": workers, "security_groups": [cloud.worker_group_id]}),
            ("ec2_vcpu_quota_info", types),
            ("ec2_podvm_image_info", {**types, "image_id": IMAGE}),
            ("ec2_instance_console_info", {"instance_ids": [worker.provider_id.rpartition("/")[2]]}),
            ("ec2_podvm_cleanup", {"name": "podvm-image-1.0.1", "cluster_id": "00000001"}),
        ],
        "role": [("iam_token_role", {**ROLE, "image": True}), ("iam_token_role", {**ROLE, "state": "absent"})],
        "image": [
            ("ec2_podvm_import", {**CLUSTER, "bucket": BUCKET}),
            ("ec2_podvm_import", {**CLUSTER, "bucket": BUCKET, "state": "absent"}),
        ],
    }


@pytest.mark.parametrize("policy", ["network", "role", "image"])
def test_the_policies_of_the_guide_are_enough_for_the_modules(
    account: Account, run_module: Callable[..., dict], policy: str
):
    for name, arguments in modules(account.cloud)[policy]:
        result = run_module(name, {"region": aws.REGION, **arguments}, env=account.environment(policy))
        assert not any(code in result.get("msg", "") for code in DENIED), (name, result["msg"])
        if name in ("iam_token_role", "ec2_podvm_import"):
            assert result["changed"], result


@pytest.mark.parametrize("policy", ["network", "role", "image"])
def test_without_a_policy_they_are_denied(account: Account, run_module: Callable[..., dict], policy: str):
    name, arguments = modules(account.cloud)[policy][0]
    result = run_module(name, {"region": aws.REGION, **arguments}, env=account.environment("nothing"))
    assert any(code in result["msg"] for code in (*DENIED, "403")), result


def test_the_policy_of_the_vms_is_enough_to_create_and_delete_one(account: Account):
    ec2 = account.client("vms", "ec2")
    ec2.describe_instance_types(InstanceTypes=[aws.INSTANCE_TYPE])
    ec2.describe_images(ImageIds=[IMAGE])
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "podvm"}]}]
    created = ec2.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, TagSpecifications=tags)["Instances"]
    ids = [instance["InstanceId"] for instance in created]
    assert ec2.describe_instances(InstanceIds=ids)["Reservations"]
    ec2.terminate_instances(InstanceIds=ids)


def test_the_policy_of_the_image_job_is_enough_for_its_bucket_and_role(account: Account):
    s3, iam = account.client("job", "s3"), account.client("job", "iam")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": aws.REGION})
    s3.head_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key="podvm.raw", Body=b"disk")
    iam.create_role(RoleName="vmimport", AssumeRolePolicyDocument=json.dumps(TRUST))
    document = json.dumps(vmimport_policy(BUCKET))
    iam.put_role_policy(RoleName="vmimport", PolicyName="vmimport", PolicyDocument=document)
    assert iam.list_role_policies(RoleName="vmimport")["PolicyNames"] == ["vmimport"]
    iam.delete_role_policy(RoleName="vmimport", PolicyName="vmimport")
    iam.delete_role(RoleName="vmimport")
    s3.delete_object(Bucket=BUCKET, Key="podvm.raw")
    s3.delete_bucket(Bucket=BUCKET)
