"""The bucket and the role with which EC2 imports the image of the VMs of peer pods."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import boto3
import botocore.session
import pytest
from botocore.exceptions import ClientError

from tests.cluster.aws import REGION, TRUST, Moto
from tests.cluster.image_builder import MOTO_IMAGE
from tests.ec2_proxy import ec2_proxy, lose_the_answer, refuse
from tests.integration.site import succeed
from tests.playbook_runs import run_playbook
from tests.support import ROOT, ansible_environment, local_play

Run = Callable[..., dict]

BUCKET = "podvm-demo-7x2kq-0f9f3c6e"


@pytest.fixture
def module(moto: Moto, run_module: Run) -> Run:
    def run(
        *,
        number: int = 1,
        check: bool = False,
        bucket: str = BUCKET,
        env: dict[str, str] | None = None,
        **arguments: object,
    ) -> dict:
        cluster = {"cluster_id": f"id-{number}", "cluster_name": f"demo-{number}"}
        given = {"region": REGION, "bucket": bucket, **cluster, **arguments}
        return run_module("ec2_podvm_import", given, env={**moto.environment, **(env or {})}, check=check)

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
    assert failed["msg"].endswith("as BUCKET_NAME in operator_install_image_config.")
    assert failed["unusable"] is True


def test_a_bucket_that_may_not_be_read_exists_if_s3_returns_its_region(moto: Moto, run_module: Run):
    """As S3 does for buckets of other accounts; moto does not."""
    s3 = moto.client("s3")
    s3.create_bucket(Bucket="closed", CreateBucketConfiguration={"LocationConstraint": REGION})
    with ec2_proxy(moto.endpoint_url) as proxy:
        proxy.faults["HEAD"] = [lambda pass_on: (pass_on() and 403, b""), lambda _pass_on: (403, b"")]
        environment = {**moto.environment, "AWS_ENDPOINT_URL_S3": proxy.url}
        cleanup = {"region": REGION, "bucket": "closed"}
        closed, unknown = [run_module("ec2_podvm_cleanup", cleanup, env=environment) for _fault in range(2)]
    s3.delete_bucket(Bucket="closed")
    assert (closed["bucket"], closed["unreadable"]) == (None, True)
    assert (unknown["bucket"], unknown["unreadable"]) == (None, False)


@pytest.fixture
def botocore_without_tags(tmp_path: Path) -> dict[str, str]:
    """The environment of a botocore that is older than the tags of CreateBucket."""
    version = botocore.session.get_session().get_service_model("s3").api_version
    model = botocore.session.get_session().get_component("data_loader").load_service_model("s3", "service-2", version)
    del model["shapes"]["CreateBucketConfiguration"]["members"]["Tags"]
    directory = tmp_path / "models" / "s3" / version
    directory.mkdir(parents=True)
    (directory / "service-2.json").write_text(json.dumps(model))
    return {"AWS_DATA_PATH": str(tmp_path / "models")}


def test_an_interrupted_run_leaves_no_bucket_of_unknown_owner(
    module: Run, moto: Moto, botocore_without_tags: dict[str, str]
):
    """S3 gets the tags with the bucket, or a bucket without them is known by its name and because it is empty."""
    tags = {"osc.peerpods/managed": "true", "osc.peerpods/cluster/id-1": "demo-1"}
    with_tags, without_tags = "podvm-demo-1-id-1", "podvm-demo-2-id-1"

    def tags_of(bucket: str) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in moto.client("s3").get_bucket_tagging(Bucket=bucket)["TagSet"]}

    with ec2_proxy(moto.endpoint_url) as proxy:
        through_proxy = {"AWS_ENDPOINT_URL_S3": proxy.url}
        proxy.faults["PUT"] = [lose_the_answer]
        proxy.faults["PUT ?tagging"] = [lambda pass_on: (403, b"<Error><Code>AccessDenied</Code></Error>")]
        assert module(bucket=with_tags, env=through_proxy)["changes"][0] == f"create bucket {with_tags}"
        assert tags_of(with_tags) == tags
        failed = module(bucket=without_tags, env={**through_proxy, **botocore_without_tags})
        assert "rejected PutBucketTagging with AccessDenied" in failed["msg"]
    assert module(bucket=without_tags, check=True)["changes"][0] == f"tag bucket {without_tags}"
    assert module(bucket=without_tags, env=botocore_without_tags)["changes"][0] == f"tag bucket {without_tags}"
    assert tags_of(without_tags) == tags
    assert f"delete bucket {with_tags}" in module(bucket=with_tags, state="absent")["changes"]
    assert f"delete bucket {without_tags}" in module(bucket=without_tags, state="absent")["changes"]


def test_a_new_role_is_waited_for(module: Run, moto: Moto):
    """IAM is eventually consistent, and botocore repeats a request whose answer was lost."""
    absent, removal = refuse(404, "NoSuchEntity"), ["delete policy osc.peerpods-id-1", "delete role vmimport"]
    with ec2_proxy(moto.endpoint_url) as proxy:
        through_proxy = {"AWS_ENDPOINT_URL_IAM": proxy.url}
        proxy.faults["CreateRole"] = [lose_the_answer]
        proxy.faults["PutRolePolicy"] = [absent]
        proxy.faults["GetRolePolicy"] = [absent]
        assert module(env=through_proxy)["changes"][1:] == ["create role vmimport", "put policy osc.peerpods-id-1"]
        repeated = ["CreateRole", "CreateRole", "GetRole", *["PutRolePolicy"] * 2, *["GetRolePolicy"] * 2]
        assert proxy.take_calls()[-len(repeated) :] == repeated
        proxy.faults["DeleteRole"] = [refuse(409, "DeleteConflict")]
        removed = module(env=through_proxy, state="absent")
        assert (removed["changes"][:2], removed["attached"]) == (removal, [])


def test_a_role_that_gets_a_policy_of_another_cluster_meanwhile_stays(module: Run, moto: Moto):
    """IAM deletes no role with policies or instance profiles."""
    iam = moto.client("iam")
    document = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}}
    assert module()["changed"]

    def begins_to_use_it(pass_on: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        iam.put_role_policy(RoleName="vmimport", PolicyName="osc.peerpods-id-2", PolicyDocument=json.dumps(document))
        return pass_on()

    with ec2_proxy(moto.endpoint_url) as proxy:
        proxy.faults["DeleteRole"] = [begins_to_use_it]
        result = module(env={"AWS_ENDPOINT_URL_IAM": proxy.url}, state="absent")
    assert result["attached"] == ["the inline policy osc.peerpods-id-2"]
    assert result["changes"] == ["delete policy osc.peerpods-id-1", f"delete bucket {BUCKET}"]
    assert policies(moto) == ["osc.peerpods-id-2"]
    iam.delete_role_policy(RoleName="vmimport", PolicyName="osc.peerpods-id-2")
    assert module(state="absent")["changes"] == ["delete role vmimport"]


def test_a_bucket_with_an_object_of_another_owner_stays(module: Run, moto: Moto):
    """With versioning, also if only an old version of it exists. The disks of jobs are deleted with all versions."""
    s3, uri = moto.client("s3"), "oci::quay.io/example/podvm:1.0::/disks/mine.qcow2"
    disks = ["podvm.raw", "mine.raw", "5c3f3a43-0d39-4d6f-b6e6-4f5c1f3f7d10-disk.raw"]
    assert module()["changed"]
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    for key in (*disks, "podvm.raw", "backup/of-a-user.tar"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"content")
    for key in ("podvm.raw", "backup/of-a-user.tar"):
        s3.delete_object(Bucket=BUCKET, Key=key)
    planned, done = module(state="absent", check=True, image_uri=uri), module(state="absent", image_uri=uri)
    assert planned["kept"] == done["kept"] == ["backup/of-a-user.tar"]
    assert planned["changes"] == done["changes"] == ["delete policy osc.peerpods-id-1", "delete role vmimport"]
    found = s3.list_object_versions(Bucket=BUCKET)
    assert (len(found["Versions"]), len(found["DeleteMarkers"])) == (5, 2)
    for each in [*found["Versions"], *found["DeleteMarkers"]]:
        if each["Key"] == "backup/of-a-user.tar":
            s3.delete_object(Bucket=BUCKET, Key=each["Key"], VersionId=each["VersionId"])
    # Without its URI, the disk of another name is not known.
    assert module(state="absent", check=True)["kept"] == ["mine.raw"]
    assert module(state="absent", image_uri=uri)["changes"] == [f"delete bucket {BUCKET}"]
    assert buckets(moto) == set()


def role_tasks(name: str, **variables: object) -> dict:
    role = {"name": "osc.peerpods.operator_install", "tasks_from": name, "public": True}
    return {"ansible.builtin.include_role": role, "vars": variables}


def show(variable: str) -> dict:
    return {"ansible.builtin.debug": {"msg": f"RESULT {{{{ {variable} | to_json }}}}"}}


def test_what_image_jobs_left_is_found(moto: Moto, tmp_path: Path):
    """An image job that creates its bucket would fail on it, unless it runs already. A teardown finds the images by the
    names that an option of the installation gave them, and names the bucket."""
    bucket, ec2 = "podvm-mine-2.0.1", moto.client("ec2")
    moto.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    ami = ec2.copy_image(Name=bucket, Description="Peer-pod image", SourceImageId=MOTO_IMAGE, SourceRegion=REGION)[
        "ImageId"
    ]
    disks = {key: {"Format": "RAW", "UserBucket": {"S3Bucket": key, "S3Key": "podvm.raw"}} for key in (bucket, "other")}
    imported = {key: ec2.import_snapshot(DiskContainer=disk)["SnapshotTaskDetail"] for key, disk in disks.items()}
    # EC2 no longer lists the import.
    volume = ec2.create_volume(Size=1, AvailabilityZone=f"{REGION}a")["VolumeId"]
    described_as = "Created by AWS-VMImport service for import-snap-0123456789abcdef0"
    forgotten = ec2.create_snapshot(VolumeId=volume, Description=described_as)["SnapshotId"]
    names = {"AMI_BASE_NAME": "podvm-mine", "AMI_VERSION": "2.0.1"}
    config_map = {"kind": "ConfigMap", "name": "aws-podvm-image-cm"}
    described = {"labels": {}, "managed": True, "of_operator": True, "namespace": "n", "api_version": "v1"}

    def state(*, creates: bool, **settings: str) -> dict:
        image = {"key": "PODVM_AMI_ID", "id": "", "kept": "", "failed": "", "is_created": creates}
        objects = [{**described, **config_map, "content": {**names, **settings}}]
        return {"objects": objects, "catalogs": [], "subscription": None, "pod_vm_image": image}

    facts = {
        "platform": "AWS",
        "region": REGION,
        "infrastructure_name": "demo-7x2kq",
        "cluster_id": "0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11",
        "details": {"credentials": None},
    }
    options = {
        "operator_install_credentials": "token",
        "operator_install_aws_role_arn": "arn:aws:iam::123456789012:role/r",
        # A survey passes an empty answer.
        "operator_install_image_bucket": "",
        "operator_install_image_resources": "true",
    }
    problems = show("operator_install_plan.problems | select('search', 'creates the S3 bucket')")
    tasks = [
        role_tasks("plan", operator_install_state=state(creates=True), operator_install_image_resources=False),
        problems,
        role_tasks("plan", operator_install_state=state(creates=False), operator_install_image_resources=False),
        problems,
        # Without a login to AWS, a request would take long to fail.
        role_tasks(
            "plan",
            operator_install_state=state(creates=False),
            operator_install_image_resources=False,
            cluster_prerequisites_caller={"msg": "No AWS credentials were found."},
        ),
        problems,
        role_tasks("teardown_images", operator_install_state=state(creates=False)),
        show("operator_install_unclear_images"),
        show("operator_install_left_by_jobs"),
        role_tasks("plan", operator_install_state=state(creates=False), operator_install_credentials="given"),
        show("operator_install_plan.image_settings.data.BUCKET_NAME"),
        role_tasks(
            "plan",
            operator_install_state=state(creates=False, BUCKET_NAME="gone"),
            operator_install_credentials="given",
            operator_install_image_resources=False,
        ),
        show("operator_install_plan.problems | select('search', 'image job')"),
    ]
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps(local_play({**options, "cluster_prerequisites_cluster": facts}, tasks=tasks)))
    environment = ansible_environment(moto.environment)
    output = succeed(lambda: run_playbook(["ansible-playbook", str(playbook)], environment, ROOT))
    moto.client("s3").delete_bucket(Bucket=bucket)
    ec2.delete_snapshot(SnapshotId=forgotten)
    (image,) = ec2.describe_images(ImageIds=[ami])["Images"]
    ec2.deregister_image(ImageId=ami)
    messages = re.findall(r'"msg": ("RESULT .*")', output)
    without, with_problem, unread, left, by_jobs, own, gone = [
        json.loads(json.loads(each).removeprefix("RESULT ")) for each in messages
    ]
    assert (without, unread, own) == ([], [], "podvm-demo-7x2kq-0f9f3c6e")
    assert [f"The image job creates the S3 bucket {bucket} itself" in each for each in with_problem] == [True]
    # vmimport may be that of another test.
    assert ["and it fails without what does not exist: S3 bucket gone" in each for each in gone] == [True]
    assert left == [ami, image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]]
    snapshot = imported[bucket]["SnapshotId"]
    assert by_jobs == [f"snapshot {snapshot}"]
    assert f"VM Import has made {snapshot} from a disk in the bucket {bucket}, and no AMI has them" in output
    assert f"VM Import has made {forgotten}, and no AMI has them. EC2 no longer lists" in output
    assert f"The S3 bucket {bucket} exists, and stays." in output


def test_a_disk_that_s3_does_not_delete_is_reported(module: Run, moto: Moto):
    """S3 answers with 200 and an error for each object."""
    denied = b"<Key>podvm.raw</Key><Code>AccessDenied</Code><Message>No</Message>"
    assert module()["changed"]
    moto.client("s3").put_object(Bucket=BUCKET, Key="podvm.raw", Body=b"disk")
    with ec2_proxy(moto.endpoint_url) as proxy:
        proxy.faults["POST ?delete"] = [
            lambda pass_on: (200, b"<DeleteResult><Error>%b</Error></DeleteResult>" % denied)
        ]
        failed = module(state="absent", env={"AWS_ENDPOINT_URL_S3": proxy.url})
    assert (
        f"S3 did not delete podvm.raw in the bucket {BUCKET}: AccessDenied, No. Grant s3:DeleteObjectVersion to"
        in failed["msg"]
    )
    assert module(state="absent")["changed"]
