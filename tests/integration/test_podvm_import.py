"""The bucket and the role with which EC2 imports the image of the VMs of peer pods."""

from __future__ import annotations

import json
from collections.abc import Callable

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.cluster.aws import REGION, TRUST, Moto

Run = Callable[..., dict]

BUCKET = "podvm-demo-7x2kq-0f9f3c6e"


@pytest.fixture
def module(moto: Moto, run_module: Run) -> Run:
    def run(*, number: int = 1, check: bool = False, bucket: str = BUCKET, **arguments: object) -> dict:
        cluster = {"cluster_id": f"id-{number}", "cluster_name": f"demo-{number}"}
        given = {"region": REGION, "bucket": bucket, **cluster, **arguments}
        return run_module("ec2_podvm_import", given, env=moto.environment, check=check)

    return run


def buckets(moto: Moto) -> set[str]:
    return {bucket["Name"] for bucket in moto.client("s3").list_buckets()["Buckets"]} & {BUCKET, "podvm-2"}


def policies(moto: Moto) -> list[str]:
    return moto.client("iam").list_role_policies(RoleName="vmimport")["PolicyNames"]


def test_two_clusters_share_the_role(module: Run, moto: Moto):
    created = ["create bucket podvm-demo-7x2kq-0f9f3c6e", "create role vmimport", "put policy osc.peerpods-id-1"]
    assert module(check=True)["changes"] == created
    assert module(check=True)["changes"] == created
    assert module()["changes"] == created
    assert module()["changed"] is False
    assert module(number=2, bucket="podvm-2")["changes"] == ["create bucket podvm-2", "put policy osc.peerpods-id-2"]
    assert moto.client("s3").get_bucket_location(Bucket="podvm-2")["LocationConstraint"] == REGION
    role = moto.client("iam").get_role(RoleName="vmimport")["Role"]
    assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "vmie.amazonaws.com"}
    moto.client("s3").put_object(Bucket=BUCKET, Key="podvm.raw", Body=b"disk")
    # The bucket of another cluster stays.
    assert module(number=2, state="absent")["changes"] == ["delete policy osc.peerpods-id-2"]
    assert module(number=2, bucket="podvm-2", state="absent")["changes"] == ["delete bucket podvm-2"]
    assert policies(moto) == ["osc.peerpods-id-1"]
    assert module(state="absent")["changed"] is True
    assert module(state="absent")["changes"] == []
    assert buckets(moto) == set()
    with pytest.raises(ClientError, match="NoSuchEntity"):
        moto.client("iam").get_role(RoleName="vmimport")


def test_a_role_of_another_owner_is_not_changed(module: Run, moto: Moto):
    iam = moto.client("iam")
    iam.create_role(RoleName="vmimport", AssumeRolePolicyDocument=json.dumps(TRUST))
    failed = module()
    assert "osc.peerpods did not create it: it is not changed. Its policies do not allow" in failed["msg"]
    assert (failed["failed"], failed["changed"], buckets(moto)) == (True, False, set())
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    policy = iam.create_policy(PolicyName="p", PolicyDocument=json.dumps(allowed))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="vmimport", PolicyArn=policy)
    assert module()["changes"] == ["create bucket podvm-demo-7x2kq-0f9f3c6e"]
    assert module(state="absent")["changes"] == ["delete bucket podvm-demo-7x2kq-0f9f3c6e"]
    iam.detach_role_policy(RoleName="vmimport", PolicyArn=policy)
    iam.delete_policy(PolicyArn=policy)
    iam.delete_role(RoleName="vmimport")


def test_a_bucket_of_another_account_is_not_used(module: Run, moto: Moto):
    sts = moto.client("sts")
    role = sts.assume_role(RoleArn="arn:aws:iam::210987654321:role/a", RoleSessionName="other")["Credentials"]
    other = boto3.client(
        "s3",
        region_name=REGION,
        endpoint_url=moto.endpoint_url,
        aws_access_key_id=role["AccessKeyId"],
        aws_secret_access_key=role["SecretAccessKey"],
        aws_session_token=role["SessionToken"],
    )
    other.create_bucket(Bucket="taken", CreateBucketConfiguration={"LocationConstraint": REGION})
    failed = module(bucket="taken")
    other.delete_bucket(Bucket="taken")
    assert failed["msg"].startswith("The S3 bucket taken belongs to another AWS account, or")
    assert failed["msg"].endswith("Set operator_install_image_bucket to another name.")
