"""The modules that read whether the VMs of peer pods can be started from an image."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.azure_arm import AzureArm
from tests.azure_arm.faults import Fault, authorization_failed
from tests.cluster.aws import REGION, Moto
from tests.cluster.image_builder import MOTO_IMAGE
from tests.ec2_proxy import ec2_proxy, refuse

Run = Callable[..., dict]


@pytest.fixture
def on_aws(moto: Moto, run_module: Run) -> Run:
    def run(image_id: str, *instance_types: str) -> dict:
        arguments = {"region": REGION, "image_id": image_id, "instance_types": list(instance_types)}
        return run_module("ec2_podvm_image_info", arguments, env=moto.environment)

    return run


def test_an_image_of_aws(on_aws: Run):
    result = on_aws(MOTO_IMAGE, "t3.medium", "m6i.large")
    assert (result["changed"], result["problems"]) == (False, [])
    assert (result["image"]["id"], result["image"]["architecture"]) == (MOTO_IMAGE, "x86_64")
    assert len(result["image"]["snapshots"]) == 1


def test_an_image_of_another_architecture(on_aws: Run):
    (problem,) = on_aws(MOTO_IMAGE, "t3.medium", "m6g.large")["problems"]
    assert problem.startswith(
        f"AMI {MOTO_IMAGE} has the architecture x86_64, and instance type m6g.large supports arm64"
    )


def test_what_aws_does_not_have(on_aws: Run):
    result = on_aws("ami-00000000000000000", "t3.medium")
    assert result["image"] is None
    assert result["problems"][0].startswith(f"EC2 has no AMI ami-00000000000000000 in {REGION}")
    assert on_aws(MOTO_IMAGE, "t9.nano")["problems"][0].startswith("EC2 has no instance type t9.nano in")


@pytest.fixture
def image(arm: AzureArm) -> str:
    """The ID of a version in a gallery of a new resource group."""
    arm.restore({})
    arm.faults.clear()
    group = f"/subscriptions/{arm.subscription_id}/resourceGroups/images"
    gallery = f"{group}/providers/Microsoft.Compute/galleries/Gallery_1"
    place = {"location": "westeurope"}
    arm.put(group, place)
    arm.put(gallery, place)
    identifier = {"publisher": "p", "offer": "o", "sku": "s"}
    definition = {"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2", "identifier": identifier}
    arm.put(f"{gallery}/images/podvm", {**place, "properties": definition})
    disk = {"storageProfile": {"osDiskImage": {"source": {"uri": "https://disk"}}}}
    for name in ("1.0.0", "1.10.0"):
        arm.put(f"{gallery}/images/podvm/versions/{name}", {**place, "properties": disk})
    return f"{gallery}/images/podvm/versions/1.10.0"


@pytest.fixture
def on_azure(arm: AzureArm, run_module: Run) -> Run:
    def run(image_id: str, *sizes: str, location: str = "West Europe") -> dict:
        arguments = {"location": location, "image_id": image_id, "sizes": list(sizes)}
        return run_module("azure_podvm_image_info", arguments, env=arm.environment)

    return run


def test_a_version_in_a_gallery(on_azure: Run, image: str):
    result = on_azure(image, "Standard_B2als_v2")
    assert (result["changed"], result["problems"]) == (False, [])
    assert result["image"] == {
        "id": image,
        "kind": "gallery",
        "state": "Succeeded",
        "generation": "V2",
        "architecture": "x64",
        "regions": ["westeurope"],
    }


def test_a_definition_without_a_version(on_azure: Run, image: str):
    assert on_azure(image.partition("/versions/")[0])["image"]["id"] == image


def test_a_managed_image(on_azure: Run, arm: AzureArm, image: str):
    managed = f"{image.partition('/galleries/')[0]}/images/mine"
    disk = {"osDisk": {"osType": "Linux", "blobUri": "https://disk"}}
    arm.put(managed, {"location": "northeurope", "properties": {"storageProfile": disk, "hyperVGeneration": "V2"}})
    assert on_azure(managed, "Standard_B2als_v2", location="northeurope")["problems"] == []
    (problem,) = on_azure(managed, "Standard_B2als_v2")["problems"]
    assert "is in northeurope, not in westeurope. A managed image belongs to one region" in problem


def test_what_azure_does_not_have(on_azure: Run, image: str):
    (problem,) = on_azure(f"{image}1", "Standard_B2als_v2")["problems"]
    assert problem.startswith(f"Azure has no image {image}1.")
    (problem,) = on_azure(image, location="northeurope")["problems"]
    assert "is in westeurope, not in northeurope. Add the region" in problem
    assert on_azure(image, "Standard_X1")["problems"][0].startswith("Azure has no VM size Standard_X1 in westeurope")


def test_a_community_gallery_is_not_read(on_azure: Run, arm: AzureArm):
    arm.take_requests()
    result = on_azure("/communityGalleries/g/images/d/versions/1.0.0", "Standard_B2als_v2")
    assert (result["image"], result["problems"], arm.take_requests()) == (None, [], [])


def test_an_identity_that_may_not_read_images(on_azure: Run, arm: AzureArm, image: str):
    arm.faults.append(Fault("GET", "/galleries/", authorization_failed))
    result = on_azure(image)
    assert result["failed"]
    assert "AuthorizationFailed" in result["msg"]


def with_snapshot(before: str, after: str) -> Callable[[Callable[[], tuple[int, bytes]]], tuple[int, bytes]]:
    def answer(pass_on: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        status, body = pass_on()
        return status, body.replace(before.encode(), after.encode())

    return answer


def test_the_images_of_a_cluster_are_removed_on_aws(moto: Moto, run_module: Run):
    ec2 = moto.client("ec2")
    name = "podvm-image-1.0.1"
    copy = {"Name": name, "SourceImageId": MOTO_IMAGE, "SourceRegion": REGION}
    ours = ec2.copy_image(**copy, Description="Peer-pod image")["ImageId"]
    other = ec2.copy_image(**copy, Description="mine")["ImageId"]
    snapshot, of_other = (
        ec2.describe_images(ImageIds=[each])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        for each in (ours, other)
    )

    arguments = {"region": REGION, "name": name, "cluster_id": "00000001", "bucket": name}

    def clean_up(*, check: bool = False, ignore: str = "") -> tuple[list[str], str | None]:
        result = run_module("ec2_podvm_cleanup", {**arguments, "ignore": ignore}, env=moto.environment, check=check)
        return result["removed"], result["bucket"]

    s3 = moto.client("s3")
    assert clean_up(ignore=ours) == ([], None)
    assert clean_up(check=True) == ([ours, snapshot], None)
    # The AMI of another cluster with the same AMI_VERSION.
    result = run_module("ec2_podvm_cleanup", {**arguments, "cluster_id": "00000002"}, env=moto.environment)
    assert (result["removed"], result["kept"]) == ([], [ours, snapshot])
    with ec2_proxy(moto.endpoint_url) as proxy:
        # A user has registered another AMI with the snapshot. moto cannot.
        proxy.faults["DescribeImages"] = [with_snapshot(of_other, snapshot)] * 2
        proxy.faults["DeregisterImage"] = [refuse(403, "UnauthorizedOperation")]
        failed = run_module("ec2_podvm_cleanup", arguments, env={**moto.environment, "AWS_ENDPOINT_URL": proxy.url})
        assert (failed["left"], failed["shared"]) == ([ours], [snapshot])
        assert "CreateTags" not in proxy.take_calls()
        proxy.faults["DeregisterImage"] = [refuse(403, "UnauthorizedOperation")]
        failed = run_module("ec2_podvm_cleanup", arguments, env={**moto.environment, "AWS_ENDPOINT_URL": proxy.url})
        assert (failed["failed"], failed["removed"], failed["left"]) == (True, [], [ours, snapshot])
        # A snapshot whose deletion fails is found again, by its tag.
        proxy.faults["DeleteSnapshot"] = [refuse(403, "UnauthorizedOperation")]
        failed = run_module("ec2_podvm_cleanup", arguments, env={**moto.environment, "AWS_ENDPOINT_URL": proxy.url})
    assert (failed["failed"], failed["removed"], failed["left"]) == (True, [ours], [snapshot])
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    assert clean_up() == ([snapshot], name)
    assert clean_up() == ([], name)
    s3.delete_bucket(Bucket=name)
    assert [image["ImageId"] for image in ec2.describe_images(Owners=["self"])["Images"]] == [other]
    assert not ec2.describe_snapshots(Filters=[{"Name": "snapshot-id", "Values": [snapshot]}])["Snapshots"]
    ec2.deregister_image(ImageId=other)


def test_the_images_of_a_cluster_are_removed_on_azure(arm: AzureArm, image: str, run_module: Run):
    definition, gallery = image.partition("/versions/")[0], image.rpartition("/images/")[0]

    def clean_up(version: str, *, check: bool = False) -> list[str]:
        arguments = {"gallery": gallery, "version": version, "definition": "podvm", "cluster_id": "1"}
        result = run_module("azure_podvm_cleanup", arguments, env=arm.environment, check=check)
        assert "msg" not in result, result
        return result["removed"]

    group = gallery.partition("/providers/")[0]
    account = f"{group}/providers/Microsoft.Storage/storageAccounts/oscsapodvm100"
    arm.put(account, {"location": "westeurope", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"})
    names = {"gallery": gallery, "version": "2.0.0", "cluster_id": "1"}

    def storage_account(name: str) -> str | None:
        arguments = {**names, "storage_account": name}
        return run_module("azure_podvm_cleanup", arguments, env=arm.environment)["storage_account"]

    assert (storage_account("oscsapodvm100"), storage_account("other")) == (account, None)
    arm.faults.append(Fault("GET", "storageAccounts", authorization_failed))
    assert storage_account("oscsapodvm100") is None
    assert clean_up("1.0.0") == [f"{definition}/versions/1.0.0"]
    assert clean_up("1.10.0", check=True) == [image, definition, gallery]
    arm.faults.append(Fault("DELETE", "/images/podvm$", authorization_failed))
    arguments = {"gallery": gallery, "version": "1.10.0", "definition": "podvm", "cluster_id": "1"}
    failed = run_module("azure_podvm_cleanup", arguments, env=arm.environment)
    assert (failed["failed"], failed["removed"], failed["left"]) == (True, [image], [definition, gallery])
    assert clean_up("1.10.0") == [definition, gallery]
    assert clean_up("1.10.0") == []
