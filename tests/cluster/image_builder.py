"""The program of the jobs that create and delete the image of the pod VMs: podvm-builder.sh of the operator.

It has the environment of the job's pod, prints what the scripts print, and ends with their exit codes. Sources, in
openshift/sandboxed-containers-operator (SCO), config/peerpods/podvm: podvm-builder.sh, lib.sh,
aws-podvm-image-handler.sh, azure-podvm-image-handler.sh and ami-helper.sh, at d0632e5 (1.8 and older, built by Packer),
be1ca72 (1.10) and 1a77e56 (1.13, pull request 2189). Like podvm-builder.sh, it ignores the exit code of the handlers:
if a creation fails, the ID that an earlier creation left in an annotation of peer-pods-cm counts, and a failed deletion
empties the ID nevertheless.

Not modelled: the contents of images, the storage account through which a disk gets to Azure, Packer's machine, and
bootc images. No registry can be reached: an OCI image exists unless its name contains "missing". A cloud that is not on
this machine takes every request.

Run it as `python -m tests.cluster.image_builder create|delete [-f] [-g]`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any, NoReturn

import yaml

NAMESPACE = "openshift-sandboxed-containers-operator"
CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
SETTINGS = f"{CONFIG_MAPS}/peer-pods-cm"

# An image that the region offers. EC2 of moto forgets the architecture of RegisterImage, but not that of a copy.
MOTO_IMAGE = "ami-12c6146b"

# What the image gets where no cloud is on this machine.
IMAGINED = {
    "aws": "ami-0123456789abcdef0",
    "azure": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/PodVMGallery",
}

CREDENTIALS_REQUEST = "openshift-sandboxed-containers-aws-image"
CREDENTIALS_REQUESTS = (
    "/apis/cloudcredential.openshift.io/v1/namespaces/openshift-cloud-credential-operator/credentialsrequests"
)
EXTENDED_SECRET = "peer-pods-image-creation-secret"

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "vmie.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:Externalid": "vmimport"}},
        }
    ],
}


def vmimport_policy(bucket: str) -> dict:
    """What ami-helper.sh grants to the role vmimport."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetBucketLocation", "s3:GetObject", "s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
            },
            {
                "Effect": "Allow",
                "Action": ["ec2:ModifySnapshotAttribute", "ec2:CopySnapshot", "ec2:RegisterImage", "ec2:Describe*"],
                "Resource": "*",
            },
        ],
    }


class HandlerError(Exception):
    """error_exit of lib.sh: the handler ends with 1, and its caller continues."""


def say(line: str) -> None:
    print(line, flush=True)


class Kubernetes:
    """kubectl, with the service account of the pod."""

    def __init__(self) -> None:
        config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        (cluster,), (user,) = config["clusters"], config["users"]
        self._server = cluster["cluster"]["server"]
        self._token = Path(user["user"]["tokenFile"])
        self._tls = ssl.create_default_context(cafile=cluster["cluster"]["certificate-authority"])

    def request(self, method: str, path: str, body: dict | None = None, manager: str = "kubectl-patch") -> dict | None:
        """The response; None if the object does not exist."""
        merge = "application/merge-patch+json" if method == "PATCH" else "application/json"
        if method == "PATCH":
            path += f"?fieldManager={manager}"
        request = urllib.request.Request(
            f"{self._server}{path}",
            json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"Bearer {self._token.read_text()}", "Content-Type": merge},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, context=self._tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise SystemExit(f"Error from server: {method} {path}: {error.read().decode()}") from error

    def annotation(self, name: str) -> str:
        settings = self.request("GET", SETTINGS) or {"metadata": {}}
        return (settings["metadata"].get("annotations") or {}).get(name, "")

    def annotate(self, name: str, value: str | None) -> None:
        self.request("PATCH", SETTINGS, {"metadata": {"annotations": {name: value}}}, "kubectl-annotate")


def image_uri(uri: str) -> tuple[str, str, str]:
    """The type, the image and the path of a PODVM_IMAGE_URI (get_image_type_url_and_path of lib.sh).

    The type is empty if the URI does not match, for example because the registry has a port and the image a tag.
    """
    match = re.fullmatch(r"([^:]+)::([^:]+)(:([^:]+))?(::(.+))?", uri)
    kind, url, tag, path = match.group(1, 2, 4, 6) if match else ("", "", "", "")
    return kind, f"{url}:{tag or 'latest'}", path or "/image/podvm.qcow2"


def pull_image() -> None:
    kind, image, path = image_uri(os.environ["PODVM_IMAGE_URI"])
    say("Pulling the podvm image from the provided path")
    if kind != "oci":
        raise HandlerError("Currently only OCI image unpacking is supported, exiting.")
    say(f"Extracting {path}")
    if "missing" in image:
        say(f'level=fatal msg="Error initializing source docker://{image}: reading manifest: manifest unknown"')
        raise HandlerError("Failed to download the container image")


def is_prebuilt() -> bool:
    return bool(os.environ.get("PODVM_IMAGE_URI"))


class Aws:
    """aws-podvm-image-handler.sh and ami-helper.sh."""

    image_key, annotation, deleted = "PODVM_AMI_ID", "LATEST_AMI_ID", "AMI_ID"

    def __init__(self, kubernetes: Kubernetes):
        self._kubernetes = kubernetes
        env = os.environ
        tokens = env.get("AWS_ROLE_ARN") and env.get("AWS_WEB_IDENTITY_TOKEN_FILE")
        if not (env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY")) and not tokens:
            raise HandlerError("Neither static credentials nor IRSA credentials are set")
        for name in ("AWS_REGION", "AWS_VPC_ID", "AWS_SUBNET_ID", "AMI_BASE_NAME", "AMI_VERSION", "AMI_VOLUME_SIZE"):
            if not env.get(name):
                raise HandlerError(f"{name} is not set")
        self._name = f"{env['AMI_BASE_NAME']}-{env['AMI_VERSION']}"
        self._bucket = env.get("BUCKET_NAME") or self._name

    def _client(self, service: str) -> Any:
        import boto3

        return boto3.client(service, region_name=os.environ["AWS_REGION"])

    def create(self) -> None:
        if "AWS_ENDPOINT_URL" not in os.environ:
            return self._kubernetes.annotate(self.annotation, IMAGINED["aws"])
        ec2 = self._client("ec2")
        known = [image["ImageId"] for image in self._images(ec2)]
        if known and known == [self._kubernetes.annotation(self.annotation)]:
            return say("AMI exists. Skipping creation")
        for image_id in known:
            say(f"De-registering AMI ({self._name}) and deleting associated snapshot, before recreating")
            self._delete(ec2, image_id)
        say("AMI does not exist. Proceeding to create the AMI")
        if is_prebuilt():
            self._import()
        ec2 = self._client("ec2")
        ec2.copy_image(
            Name=self._name,
            Description="Peer-pod image",
            SourceImageId=MOTO_IMAGE,
            SourceRegion=os.environ["AWS_REGION"],
        )
        (image,) = self._images(ec2)
        say(f"ID of the newly created ami: {image['ImageId']}")
        self._kubernetes.annotate(self.annotation, image["ImageId"])
        if is_prebuilt():
            self._clean_up()

    def delete(self) -> None:
        if "AWS_ENDPOINT_URL" in os.environ:
            self._delete(self._client("ec2"), os.environ["AMI_ID"])

    def delete_gallery(self) -> None:
        """Only Azure has galleries."""

    def _images(self, ec2: Any) -> list[dict]:
        return ec2.describe_images(Filters=[{"Name": "name", "Values": [self._name]}])["Images"]

    def _delete(self, ec2: Any, image_id: str) -> None:
        from botocore.exceptions import ClientError

        try:
            images = ec2.describe_images(ImageIds=[image_id])["Images"]
            ec2.deregister_image(ImageId=image_id)
        except ClientError as error:
            say(f"aws: {error}")
            raise HandlerError("Failed to get the ami's snapshot ids") from None
        for image in images:
            for device in image["BlockDeviceMappings"]:
                ec2.delete_snapshot(SnapshotId=device["Ebs"]["SnapshotId"])
        self._kubernetes.annotate(self.annotation, None)

    # -- A disk from an OCI image, which VM Import makes a snapshot of ---------------------------------------------

    def _import(self) -> None:
        self._prepare()
        pull_image()
        say("Uploading the image to S3")
        file = "podvm.raw"
        self._checked("Failed to upload the image to S3", self._client("s3").put_object, Bucket=self._bucket, Key=file)
        say("Importing image file into snapshot")
        reason = self._import_problem()
        if reason:
            say(f"An error occurred (InvalidParameter) when calling the ImportSnapshot operation: {reason}")
            say("Import Failed, exiting")
            raise HandlerError("")
        say("Import Status: active / converting")
        say("Import completed Successfully")

    def _import_problem(self) -> str:
        """Why VM Import does not read the bucket: "Required permissions for VM Import/Export" of AWS."""
        from botocore.exceptions import ClientError

        iam = self._client("iam")
        missing = "The service role vmimport provided does not exist or does not have sufficient permissions"
        try:
            trust = iam.get_role(RoleName="vmimport")["Role"]["AssumeRolePolicyDocument"]
            names = iam.list_role_policies(RoleName="vmimport")["PolicyNames"]
            documents = [iam.get_role_policy(RoleName="vmimport", PolicyName=name)["PolicyDocument"] for name in names]
        except ClientError:
            return missing
        if "vmie.amazonaws.com" not in json.dumps(trust):
            return missing
        readable = f"arn:aws:s3:::{self._bucket}/*"
        if not any(
            "s3:GetObject" in statement["Action"] and readable in statement["Resource"]
            for document in documents
            for statement in document["Statement"]
        ):
            return (
                "User: arn:aws:sts::123456789012:assumed-role/vmimport/vm_import_image is not authorized to perform: "
                f's3:GetObject on resource: "arn:aws:s3:::{self._bucket}/podvm.raw"'
            )
        return ""

    @staticmethod
    def _checked(message: str, call: Any, **arguments: Any) -> Any:
        from botocore.exceptions import ClientError

        try:
            return call(**arguments)
        except ClientError as error:
            say(f"aws: {error}")
            raise HandlerError(message) from None

    def _flow(self) -> str:
        """Where the credentials come from. Up to 1.12 the job always requests its own (be1ca72)."""
        if os.environ.get("AWS_ROLE_ARN") and os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
            return "token"
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/peer-pods-secret"
        labels = (self._kubernetes.request("GET", path) or {"metadata": {}})["metadata"].get("labels") or {}
        is_requested = labels.get("kataconfiguration.openshift.io/credentials-request-based") == "true"
        if is_requested or not os.environ["PODVM_BUILDER_TAKES_GIVEN_CREDENTIALS"]:
            return "request"
        return "given"

    def _prepare(self) -> None:
        say("Preparing infrastructure for prebuilt artifact")
        self._kubernetes.request("PATCH", f"{CONFIG_MAPS}/aws-podvm-image-cm", {"data": {"BUCKET_NAME": self._bucket}})
        flow = self._flow()
        if flow == "given":
            say(f"Using manual credentials (expecting s3 {self._bucket} bucket to exist and vmimport to be set)")
            self._checked(
                f"Bucket {self._bucket} not found or not accessible. When using manual credentials, you must create "
                "the bucket and vmimport role before image creation. Use ami-helper.sh or see "
                "docs/credentials-handling.md for details.",
                self._client("s3").head_bucket,
                Bucket=self._bucket,
            )
            return
        if flow == "request":
            self._extend_credentials()
        region = os.environ["AWS_REGION"]
        say(f"Create s3 Bucket named {self._bucket} at {region}")
        location = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        self._checked(
            f"Failed to {'create bucket' if flow == 'token' else 'extend credentials'} using the helper script",
            self._client("s3").create_bucket,
            Bucket=self._bucket,
            **location,
        )
        self._set_service_role()

    def _extend_credentials(self) -> None:
        """Until the cloud credential operator has granted them, which it does not with Manual credentials."""
        say("Applying CredentialsRequest for role creation")
        body = {
            "apiVersion": "cloudcredential.openshift.io/v1",
            "kind": "CredentialsRequest",
            "metadata": {"name": CREDENTIALS_REQUEST},
            "spec": {
                "secretRef": {"name": EXTENDED_SECRET, "namespace": NAMESPACE},
                "providerSpec": {
                    "apiVersion": "cloudcredential.openshift.io/v1",
                    "kind": "AWSProviderSpec",
                    "statementEntries": [{"effect": "Allow", "action": ["s3:*", "iam:*", "ec2:*"], "resource": "*"}],
                },
            },
        }
        if self._kubernetes.request("GET", f"{CREDENTIALS_REQUESTS}/{CREDENTIALS_REQUEST}") is None:
            self._kubernetes.request("POST", CREDENTIALS_REQUESTS, body)
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{EXTENDED_SECRET}"
        while (secret := self._kubernetes.request("GET", path)) is None:
            say(f"Waiting for secret {EXTENDED_SECRET} with extended credentials...")
            time.sleep(1)
        for key in ("aws_access_key_id", "aws_secret_access_key"):
            os.environ[key.upper()] = base64.b64decode(secret["data"][key]).decode()

    def _set_service_role(self) -> None:
        from botocore.exceptions import ClientError

        iam = self._client("iam")
        say("Create the service role")
        try:
            iam.create_role(RoleName="vmimport", AssumeRolePolicyDocument=json.dumps(TRUST))
        except ClientError:
            say("Role vmimport already exists, continue with policy attachment")
        iam.put_role_policy(
            RoleName="vmimport", PolicyName="vmimport", PolicyDocument=json.dumps(vmimport_policy(self._bucket))
        )

    def _clean_up(self) -> None:
        """The role stays; with given credentials, everything does."""
        flow = self._flow()
        if flow == "given":
            return say("Manual credentials: bucket and vmimport role were pre-created, perform manual cleanup")
        say("Delete bucket content")
        s3 = self._client("s3")
        s3.delete_object(Bucket=self._bucket, Key="podvm.raw")
        s3.delete_bucket(Bucket=self._bucket)
        if flow == "request":
            self._kubernetes.request("DELETE", f"{CREDENTIALS_REQUESTS}/{CREDENTIALS_REQUEST}")


class Azure:
    """azure-podvm-image-handler.sh."""

    image_key, annotation, deleted = "AZURE_IMAGE_ID", "LATEST_IMAGE_ID", "IMAGE_ID"

    # That of `az sig`.
    VERSION = "2024-03-03"

    def __init__(self, kubernetes: Kubernetes):
        self._kubernetes = kubernetes
        env = os.environ
        for name in ("AZURE_CLIENT_ID", "AZURE_SUBSCRIPTION_ID", "AZURE_TENANT_ID", "AZURE_REGION"):
            if not env.get(name):
                raise HandlerError(f"{name} is empty")
        for name in ("AZURE_RESOURCE_GROUP", "IMAGE_GALLERY_NAME", "IMAGE_DEFINITION_NAME", "IMAGE_VERSION"):
            if not env.get(name):
                raise HandlerError(f"{name} is empty")
        group = f"/subscriptions/{env['AZURE_SUBSCRIPTION_ID']}/resourceGroups/{env['AZURE_RESOURCE_GROUP']}"
        self._gallery = f"{group}/providers/Microsoft.Compute/galleries/{env['IMAGE_GALLERY_NAME']}"
        self._definition = f"{self._gallery}/images/{env['IMAGE_DEFINITION_NAME']}"
        self._image = f"{self._definition}/versions/{env['IMAGE_VERSION']}"
        self._tls = ssl.create_default_context(cafile=env.get("REQUESTS_CA_BUNDLE"))
        self._token = ""

    def create(self) -> None:
        env = os.environ
        if "AZURE_CLOUD_ENVIRONMENT" not in env:
            return self._kubernetes.annotate(self.annotation, IMAGINED["azure"])
        self._log_in()
        place = {"location": env["AZURE_REGION"]}
        say("Creating Azure image gallery")
        if self._request("GET", self._gallery) is None:
            self._write("Failed to create Azure image gallery", self._gallery, {**place, "properties": {}})
            self._kubernetes.annotate("IMAGE_GALLERY_NAME", env["IMAGE_GALLERY_NAME"])
        say("Creating Azure image definition")
        if self._request("GET", self._definition) is None:
            properties = {
                "osType": env["IMAGE_DEFINITION_OS_TYPE"],
                "osState": env["IMAGE_DEFINITION_OS_STATE"],
                "hyperVGeneration": env["IMAGE_DEFINITION_VM_GENERATION"],
                "architecture": env["IMAGE_DEFINITION_ARCHITECTURE"],
                "identifier": {key: env[f"IMAGE_DEFINITION_{key.upper()}"] for key in ("publisher", "offer", "sku")},
            }
            body = {**place, "properties": properties}
            self._write("Failed to create Azure image definition", self._definition, body)
        known = self._request("GET", self._image)
        if known and self._kubernetes.annotation(self.annotation).lower() == known["id"].lower():
            return say("Image exists. Skipping creation")
        if known:
            self._request("DELETE", self._image)
        if is_prebuilt():
            pull_image()
        say("Creating the image version from the VHD...")
        disk = {"source": {"uri": "https://oscsapodvm.blob.core.windows.net/podvm-artifacts/podvm.vhd"}}
        body = {
            **place,
            "properties": {
                "publishingProfile": {"targetRegions": [{"name": env["AZURE_REGION"], "regionalReplicaCount": 1}]},
                "storageProfile": {"osDiskImage": disk},
            },
        }
        self._write("Failed to create the image version", self._image, body)
        image = self._request("GET", self._image)
        if image is None:
            raise HandlerError("Failed to get the image id")
        say(f"ID of the newly created image: {image['id']}")
        self._kubernetes.annotate(self.annotation, image["id"])

    def delete(self) -> None:
        if "AZURE_CLOUD_ENVIRONMENT" not in os.environ:
            return
        self._log_in()
        if self._request("GET", self._image) is None:
            raise HandlerError("Failed to get the source id for image")
        self._request("DELETE", os.environ["IMAGE_ID"])
        self._kubernetes.annotate(self.annotation, None)

    def delete_gallery(self) -> None:
        """With `-g`: the gallery that the annotation names, with every version of the definition.

        delete_podvm_image_gallery of podvm-builder.sh overwrites IMAGE_GALLERY_NAME of azure-podvm-image-cm.
        delete_image_gallery of the handler removes the annotation even if Azure keeps the gallery, as with another
        definition in it.
        """
        name = self._kubernetes.annotation("IMAGE_GALLERY_NAME")
        if "AZURE_CLOUD_ENVIRONMENT" not in os.environ or not name:
            return say("IMAGE_GALLERY_NAME is not set in peer-pods-cm. Skipping image gallery deletion")
        self._log_in()
        gallery = f"{self._gallery.rpartition('/')[0]}/{name}"
        if self._request("GET", gallery) is None:
            return say(f"Gallery {name} doesn't exist. Skipping deleting the gallery")
        definition = f"{gallery}/images/{os.environ['IMAGE_DEFINITION_NAME']}"
        for version in (self._request("GET", f"{definition}/versions") or {}).get("value", ()):
            self._request("DELETE", version["id"])
        try:
            for path in (definition, gallery):
                self._request("DELETE", path)
        except urllib.error.HTTPError as error:
            say(f"ERROR: {error.read().decode()}")
            say("Failed to delete the image gallery.")
        self._kubernetes.annotate("IMAGE_GALLERY_NAME", None)

    def _log_in(self) -> None:
        env = os.environ
        form: dict[str, str] = {
            "grant_type": "client_credentials",
            "client_id": env["AZURE_CLIENT_ID"],
            "scope": f"{env['AZURE_CLOUD_ENVIRONMENT']}/.default",
        }
        if env.get("AZURE_CLIENT_SECRET"):
            form["client_secret"] = env["AZURE_CLIENT_SECRET"]
        else:
            form["client_assertion"] = Path(env["AZURE_FEDERATED_TOKEN_FILE"]).read_text()
            form["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        url = f"{env['AZURE_CLOUD_ENVIRONMENT']}/{env['AZURE_TENANT_ID']}/oauth2/v2.0/token"
        try:
            request = urllib.request.Request(url, urllib.parse.urlencode(form).encode())
            self._token = json.loads(self._send(request))["access_token"]
        except urllib.error.HTTPError as error:
            say(f"ERROR: {error.read().decode()}")
            raise HandlerError("Failed to login to Azure") from None

    def _send(self, request: urllib.request.Request) -> bytes:
        """As `az`: its requests are repeated if they are throttled or get no answer (RetryPolicy of azure-core)."""
        for _retry in range(10):
            try:
                with urllib.request.urlopen(request, context=self._tls) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                if error.code not in (408, 429, 500, 502, 503, 504):
                    raise
                time.sleep(float(error.headers.get("Retry-After", 0.1)))
            except (OSError, HTTPException):
                time.sleep(0.1)
        with urllib.request.urlopen(request, context=self._tls) as answer:
            return answer.read()

    def _write(self, message: str, path: str, body: dict) -> None:
        """PUT, and wait until the operation has ended."""
        try:
            self._request("PUT", path, body)
        except urllib.error.HTTPError as error:
            say(f"ERROR: {error.read().decode()}")
            raise HandlerError(message) from None
        while (resource := self._request("GET", path)) and _state(resource) not in ("Succeeded", "Failed"):
            time.sleep(0.1)
        if resource is None or _state(resource) == "Failed":
            raise HandlerError(message)

    def _request(self, method: str, path: str, body: dict | None = None) -> dict | None:
        request = urllib.request.Request(
            f"{os.environ['AZURE_CLOUD_ENVIRONMENT']}{path}?api-version={self.VERSION}",
            json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            content = self._send(request)
        except urllib.error.HTTPError as error:
            if method == "GET" and error.code == 404:
                return None
            raise
        # The client waits for the end of the operation.
        while method == "DELETE" and self._request("GET", path) is not None:
            time.sleep(0.1)
        return json.loads(content) if content else {}


def _state(resource: dict) -> str:
    return resource["properties"]["provisioningState"]


def main() -> None:
    verb, *flags = sys.argv[1:]
    if os.environ.get("PODVM_BUILDER_FAILS"):
        sys.exit("Failed to install the dependencies")
    kubernetes = Kubernetes()
    if kubernetes.request("GET", SETTINGS) is None:
        return say("peer-pods-cm configmap does not exist.")
    handler: type[Aws | Azure] = Aws if os.environ["CLOUD_PROVIDER"] == "aws" else Azure
    say(f"{'Creating' if verb == 'create' else 'Deleting'} {handler.__name__} image")
    try:
        getattr(handler(kubernetes), verb)()
    except HandlerError as error:
        print(error, file=sys.stderr, flush=True)
    if verb == "create":
        image = kubernetes.annotation(handler.annotation)
        if not image:
            _end(f"{handler.deleted} is not set in peer-pods-cm. Skipping the update of peer-pods-cm")
        say(f"Updating peer-pods-cm configmap with {handler.deleted}={image}")
    elif not os.environ.get(handler.deleted):
        _end(f"{handler.deleted} is not set. Skipping the deletion of the image")
    else:
        image = ""
    if os.environ.get("UPDATE_PEERPODS_CM") == "yes":
        kubernetes.request("PATCH", SETTINGS, {"data": {handler.image_key: image}})
    if "-g" in flags:
        handler(kubernetes).delete_gallery()


def _end(line: str) -> NoReturn:
    say(line)
    sys.exit(1)


if __name__ == "__main__":
    main()
