"""The VMs of peer pods in a cloud, as cloud-api-adaptor (CAA) creates and deletes them, and which traffic reaches them.

The settings are those of peer-pods-cm, the credentials those of peer-pods-secret, and the cloud is moto's EC2 or
tests/azure_arm, so that images, subnets, security groups, quotas and permissions count. Requests, log lines and errors
are those of src/cloud-providers/aws/provider.go, aws/imds.go and azure/provider.go of
confidential-containers/cloud-api-adaptor.

No packets are sent to a VM. Whether the cloud would let them pass is decided by its rules at that time: security groups
are stateful (docs.aws.amazon.com/vpc/latest/userguide/security-groups.html), and so are network security groups
(learn.microsoft.com/azure/virtual-network/network-security-groups-overview). Network ACLs are stateless, so that they
must allow the replies as well (docs.aws.amazon.com/vpc/latest/userguide/vpc-network-acls.html). The subnet of a NAT
gateway is not evaluated.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

import urllib3

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

# A tag in TAGS of peer-pods-cm: the VM boots, but nothing listens at its port 15150.
NO_AGENT = "tests.osc.peerpods/no-agent"

# A key of the credentials: the file that they name as the token does not exist in the pod.
NO_TOKEN = "tests.osc.peerpods/no-token"

# Any address outside of the cloud's network.
INTERNET = "198.51.100.7"

AGENT_PORT, VXLAN_PORT = 15150, 9000

# A port that Linux opens connections from (net.ipv4.ip_local_port_range), to which replies are sent.
EPHEMERAL_PORT = 32768

# The numbers of protocols in a network ACL.
PROTOCOLS = {"tcp": "6", "udp": "17"}

Log = Callable[[str, str], None]


class RejectedError(Exception):
    """The cloud did not create the VM; the message is that of CAA's provider."""


@dataclass(frozen=True)
class Vm:
    """A VM that was created, with the node whose CAA created it."""

    id: str
    name: str
    address: str
    node: dict
    has_agent: bool


class PodVms(Protocol):
    """The VMs of a cloud."""

    provider: str

    def start(self, settings: Mapping[str, str], secret: Mapping[str, str]) -> None:
        """What NewProvider reads when CAA starts. CAA ends if it is rejected."""

    def create(self, name: str, sandbox: str, node: dict, settings: Mapping[str, str], secret: Mapping, log: Log) -> Vm:
        """Create a VM for a sandbox of the node."""

    def delete(self, vm_id: str, settings: Mapping[str, str], secret: Mapping[str, str], log: Log) -> bool:
        """Whether the VM was deleted, or does not exist."""

    def reaches(self, vm: Vm, protocol: str, port: int) -> bool:
        """Whether packets from the node reach this port of the VM."""

    def is_reached_by(self, vm: Vm, protocol: str, port: int) -> bool:
        """Whether packets from the VM reach this port of the node."""

    def has_egress(self, vm: Vm) -> bool:
        """Whether the VM reaches a registry on the Internet."""


def cloud_of(environment: Mapping[str, str], token: Callable[[], str]) -> PodVms | None:
    """The cloud that these environment variables of a client name; None if they name none.

    `token` returns a token of CAA's service account, which is used with a role or a managed identity.
    """
    if "AWS_ENDPOINT_URL" in environment:
        return Aws(environment["AWS_ENDPOINT_URL"], token)
    if "AZURE_CLOUD_ENVIRONMENT" in environment:
        return Azure(environment["AZURE_CLOUD_ENVIRONMENT"], environment["REQUESTS_CA_BUNDLE"], token)
    return None


def instance_name(pod_name: str, sandbox: str) -> str:
    """GenerateInstanceName in src/cloud-providers/util/instancename.go."""
    return f"podvm-{pod_name[: 63 - len('podvm-') - 9]}-{sandbox[:8]}"


def _tags(settings: Mapping[str, str]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in settings.get("TAGS", "").split(",") if pair)
    return {key: value for key, _equals, value in pairs}


class Aws:
    provider = "aws"

    def __init__(self, endpoint_url: str, token: Callable[[], str] | None = None):
        self._endpoint_url = endpoint_url
        self._token = token
        # Creating a client takes much longer than a request.
        self._clients: dict[tuple, Any] = {}
        self._lock = threading.Lock()

    def start(self, settings: Mapping[str, str], secret: Mapping[str, str]) -> None:
        from botocore.exceptions import ClientError

        operation = "DescribeInstanceTypes"
        try:
            self._client(settings, secret, operation).describe_instance_types(InstanceTypes=[_instance_type(settings)])
        except ClientError as error:
            raise RejectedError(_sdk_error(operation, error)) from error

    def create(self, name: str, sandbox: str, node: dict, settings: Mapping[str, str], secret: Mapping, log: Log) -> Vm:
        from botocore.exceptions import ClientError

        ec2 = self._client(settings, secret)
        worker = self._instance(self._network(), node["spec"]["providerID"].rpartition("/")[2])
        # What peer-pods-cm does not have, CAA reads from the metadata of its node (imds.go).
        groups = [group for group in settings.get("AWS_SG_IDS", "").split(",") if group]
        groups = groups or [group["GroupId"] for group in worker["SecurityGroups"]]
        tags = {"Name": name, **_tags(settings)}
        log("adaptor/cloud/aws", f"Creating instance {name} for sandbox {sandbox}")
        try:
            # moto creates an instance of any image.
            ec2.describe_images(ImageIds=[settings["PODVM_AMI_ID"]])
            answer = ec2.run_instances(
                MinCount=1,
                MaxCount=1,
                ImageId=settings["PODVM_AMI_ID"],
                InstanceType=_instance_type(settings),
                SecurityGroupIds=groups,
                SubnetId=settings.get("AWS_SUBNET_ID") or worker["SubnetId"],
                TagSpecifications=[
                    {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
                ],
            )
        except ClientError as error:
            raise RejectedError(f"creating instance {name} (<nil>): {_sdk_error('RunInstances', error)}") from error
        (instance,) = answer["Instances"]
        vm_id, address = instance["InstanceId"], instance["PrivateIpAddress"]
        log("adaptor/cloud/aws", f"Created instance {name} ({vm_id}) for sandbox {sandbox}")
        log("adaptor/cloud/aws", f"instance {vm_id}: podNodeIP[0]={address}")
        return Vm(vm_id, name, address, node, NO_AGENT not in tags)

    def delete(self, vm_id: str, settings: Mapping[str, str], secret: Mapping[str, str], log: Log) -> bool:
        from botocore.exceptions import ClientError

        log("adaptor/cloud/aws", f"Deleting instance {vm_id}")
        try:
            self._client(settings, secret).terminate_instances(InstanceIds=[vm_id])
        except (ClientError, RejectedError) as error:
            log("adaptor/cloud/aws", f"failed to delete instance {vm_id}: {error} and the response is <nil>")
            return False
        log("adaptor/cloud/aws", f"Deleted instance {vm_id}")
        return True

    def reaches(self, vm: Vm, protocol: str, port: int) -> bool:
        worker, machine = self._ends(vm)
        return self._passes(worker, machine, protocol, port)

    def is_reached_by(self, vm: Vm, protocol: str, port: int) -> bool:
        worker, machine = self._ends(vm)
        return self._passes(machine, worker, protocol, port)

    def has_egress(self, vm: Vm) -> bool:
        _worker, machine = self._ends(vm)
        permissions = self._permissions(machine, "IpPermissionsEgress")
        entries = self._acl_entries(machine["SubnetId"])
        return (
            self._has_route(machine["SubnetId"], machine["VpcId"])
            and any(_allows(permission, "tcp", 443, INTERNET, ()) for permission in permissions)
            and _lets_pass(entries, True, "tcp", 443, INTERNET)
            and _lets_pass(entries, False, "tcp", EPHEMERAL_PORT, INTERNET)
        )

    def _has_route(self, subnet_id: str, vpc_id: str) -> bool:
        """Whether the route table of the subnet, or else the main one of the VPC, leads to the Internet."""
        by_subnet = [{"Name": "association.subnet-id", "Values": [subnet_id]}]
        of_vpc = [{"Name": "vpc-id", "Values": [vpc_id]}, {"Name": "association.main", "Values": ["true"]}]
        ec2 = self._network()
        tables = ec2.describe_route_tables(Filters=by_subnet)["RouteTables"]
        tables = tables or ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
        return any(
            route.get("NatGatewayId") or route.get("TransitGatewayId") or route.get("GatewayId", "").startswith("igw-")
            for table in tables
            for route in table["Routes"]
            if route.get("DestinationCidrBlock") == "0.0.0.0/0"
        )

    def _passes(self, source: dict, target: dict, protocol: str, port: int) -> bool:
        """Whether the groups of both instances allow the first packet, and the network ACLs also the replies."""

        def any_allows(owner: dict, direction: str, other: dict) -> bool:
            groups = [group["GroupId"] for group in other["SecurityGroups"]]
            return any(
                _allows(permission, protocol, port, other["PrivateIpAddress"], groups)
                for permission in self._permissions(owner, direction)
            )

        return (
            any_allows(source, "IpPermissionsEgress", target)
            and any_allows(target, "IpPermissions", source)
            and self._crosses(source, target, protocol, port)
            # The tunnel has no replies: both ends send to its port.
            and (protocol == "udp" or self._crosses(target, source, protocol, EPHEMERAL_PORT))
        )

    def _crosses(self, source: dict, target: dict, protocol: str, port: int) -> bool:
        """Whether the network ACLs of both subnets let a packet pass. Within a subnet, nothing is filtered."""
        if source["SubnetId"] == target["SubnetId"]:
            return True
        leaving, entering = self._acl_entries(source["SubnetId"]), self._acl_entries(target["SubnetId"])
        return _lets_pass(leaving, True, protocol, port, target["PrivateIpAddress"]) and _lets_pass(
            entering, False, protocol, port, source["PrivateIpAddress"]
        )

    def _acl_entries(self, subnet_id: str) -> list[dict]:
        of_subnet = [{"Name": "association.subnet-id", "Values": [subnet_id]}]
        (acl,) = self._network().describe_network_acls(Filters=of_subnet)["NetworkAcls"]
        return acl["Entries"]

    def _permissions(self, instance: dict, direction: str) -> list[dict]:
        groups = [group["GroupId"] for group in instance["SecurityGroups"]]
        described = self._network().describe_security_groups(GroupIds=groups)["SecurityGroups"]
        return [permission for group in described for permission in group[direction]]

    def _ends(self, vm: Vm) -> tuple[dict, dict]:
        ec2 = self._network()
        return self._instance(ec2, vm.node["spec"]["providerID"].rpartition("/")[2]), self._instance(ec2, vm.id)

    @staticmethod
    def _instance(ec2: Any, instance_id: str) -> dict:
        return ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]

    def _client(self, settings: Mapping[str, str], secret: Mapping[str, str], operation: str = "RunInstances") -> Any:
        """EC2 with the credentials of the Secret, as aws/ec2.go gets them: keys, or else those of a role by the token
        of the service account. A node has no role that may create instances."""
        region = settings.get("AWS_REGION") or "eu-central-1"
        key_id, secret_key = secret.get("AWS_ACCESS_KEY_ID"), secret.get("AWS_SECRET_ACCESS_KEY")
        if key_id and secret_key:
            return self._client_of(region, key_id, secret_key, secret.get("AWS_SESSION_TOKEN"))
        failed = (
            f"operation error EC2: {operation}, get identity: get credentials: failed to refresh cached credentials"
        )
        role_arn = secret.get("AWS_ROLE_ARN")
        if not (role_arn and secret.get("AWS_WEB_IDENTITY_TOKEN_FILE")):
            raise RejectedError(f"{failed}, no EC2 IMDS role found, operation error ec2imds: GetMetadata")
        if NO_TOKEN in secret:
            # stscreds/web_identity_provider.go of aws/aws-sdk-go-v2.
            path = secret["AWS_WEB_IDENTITY_TOKEN_FILE"]
            unread = f"unable to read file at {path}: open {path}: no such file or directory"
            raise RejectedError(f"{failed}, failed to retrieve jwt from provide source, {unread}")
        if not self._trusts(role_arn.rpartition("/")[2]):
            raise RejectedError(
                f"{failed}, failed to retrieve credentials, operation error STS: AssumeRoleWithWebIdentity, https "
                "response error StatusCode: 403, RequestID: 0, api error AccessDenied: Not authorized to perform "
                "sts:AssumeRoleWithWebIdentity"
            )
        assumed = self._client_of(region, "token", "token", None, "sts").assume_role_with_web_identity(
            RoleArn=role_arn, RoleSessionName="caa", WebIdentityToken="header.payload.signature"
        )["Credentials"]
        return self._client_of(region, assumed["AccessKeyId"], assumed["SecretAccessKey"], assumed["SessionToken"])

    def _trusts(self, name: str) -> bool:
        """Whether the role exists, and one of its statements trusts the token, if there is one. moto lets any role be
        assumed.

        docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_iam-condition-keys.html ("Available keys for AWS
        OIDC federation")
        """
        from botocore.exceptions import ClientError

        iam = self._client_of("us-east-1", "network", "network", None, "iam")
        try:
            document = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        except ClientError:
            return False
        if self._token is None:
            return True
        providers = {each["Arn"] for each in iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]}
        claims = claims_of(self._token())
        host = claims["iss"].removeprefix("https://")
        return any(
            statement["Principal"].get("Federated") in providers
            and statement["Principal"]["Federated"].endswith(f":oidc-provider/{host}")
            and all(
                set(_listed(claims.get(key.removeprefix(f"{host}:")))) & set(_listed(expected))
                for key, expected in statement.get("Condition", {}).get("StringEquals", {}).items()
            )
            for statement in document["Statement"]
            if statement["Action"] == "sts:AssumeRoleWithWebIdentity"
        )

    def _network(self) -> Any:
        """EC2 with an identity of its own, which reads the rules."""
        return self._client_of("eu-central-1", "network", "network", None)

    def _client_of(
        self, region: str, key_id: str | None, secret_key: str | None, token: str | None, service: str = "ec2"
    ) -> Any:
        import boto3
        from botocore.config import Config

        key = (region, key_id, secret_key, token, service)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = boto3.client(
                    service,
                    region_name=region,
                    endpoint_url=self._endpoint_url,
                    aws_access_key_id=key_id,
                    aws_secret_access_key=secret_key,
                    aws_session_token=token,
                    # As the SDK for Go, DefaultMaxAttempts in aws/retry/standard.go.
                    config=Config(retries={"mode": "standard", "total_max_attempts": 3}, max_pool_connections=20),
                )
            return self._clients[key]


def _instance_type(settings: Mapping[str, str]) -> str:
    return settings.get("PODVM_INSTANCE_TYPE") or "m6a.large"


def _sdk_error(operation: str, error: ClientError) -> str:
    """As the SDK for Go prints it."""
    metadata, reason = error.response["ResponseMetadata"], error.response["Error"]
    return (
        f"operation error EC2: {operation}, https response error StatusCode: {metadata['HTTPStatusCode']}, "
        f"RequestID: {metadata.get('RequestId', '')}, api error {reason['Code']}: {reason['Message']}"
    )


def _allows(permission: Mapping[str, Any], protocol: str, port: int, address: str, groups: Iterable[str]) -> bool:
    """Whether a permission of a security group allows a packet to `port`, from or to an instance."""
    if permission["IpProtocol"] not in ("-1", protocol):
        return False
    if permission["IpProtocol"] != "-1" and not permission["FromPort"] <= port <= permission["ToPort"]:
        return False
    return any(pair["GroupId"] in groups for pair in permission.get("UserIdGroupPairs", ())) or any(
        ipaddress.ip_address(address) in ipaddress.ip_network(entry["CidrIp"])
        for entry in permission.get("IpRanges", ())
    )


def _lets_pass(entries: Iterable[Mapping[str, Any]], is_egress: bool, protocol: str, port: int, other: str) -> bool:
    """What the first rule of a network ACL decides that matches a packet to `port`, from or to the `other` address."""
    for entry in sorted(entries, key=lambda entry: entry["RuleNumber"]):
        ports = entry.get("PortRange")
        if (
            entry["Egress"] == is_egress
            and entry["Protocol"] in ("-1", PROTOCOLS[protocol])
            and (entry["Protocol"] == "-1" or not ports or ports["From"] <= port <= ports["To"])
            and "CidrBlock" in entry
            and ipaddress.ip_address(other) in ipaddress.ip_network(entry["CidrBlock"])
        ):
            return entry["RuleAction"] == "allow"
    return False


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


class Azure:
    provider = "azure"

    def __init__(self, endpoint_url: str, ca_file: str, token: Callable[[], str]):
        self._endpoint_url = endpoint_url
        self._service_account_token = token
        self._http = urllib3.PoolManager(ca_certs=ca_file, maxsize=8, retries=False, timeout=60)
        self._tokens: dict[tuple[str, str], str] = {}

    def start(self, settings: Mapping[str, str], secret: Mapping[str, str]) -> None:
        """The token only: the emulated Azure does not list sizes (updateInstanceSizeSpecList)."""
        try:
            self._token(secret)
        except AzureError as error:
            raise RejectedError(f"getting next page of VM sizes: {error}") from error

    def create(self, name: str, sandbox: str, node: dict, settings: Mapping[str, str], secret: Mapping, log: Log) -> Vm:
        log("adaptor/cloud/azure", f'CreateInstance: name: "{name}"')
        vm_id = (
            f"/subscriptions/{secret['AZURE_SUBSCRIPTION_ID']}/resourceGroups/{settings['AZURE_RESOURCE_GROUP']}"
            f"/providers/Microsoft.Compute/virtualMachines/{name}"
        )
        tags = _tags(settings)
        try:
            token = self._token(secret)
            self._request("PUT", vm_id, token, _machine(name, settings, tags))
            machine = self._request("GET", vm_id, token)
            (reference,) = machine["properties"]["networkProfile"]["networkInterfaces"]
            nic = self._request("GET", reference["id"], token, version=NETWORK_VERSION)
        except AzureError as error:
            raise RejectedError(f"Creating instance (<nil>): {error}") from error
        log("adaptor/cloud/azure", f"created VM successfully: {vm_id}")
        address = nic["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"]
        log("adaptor/cloud/azure", f"pod vm IP[0][private]={address}")
        return Vm(vm_id, name, address, node, NO_AGENT not in tags)

    def delete(self, vm_id: str, settings: Mapping[str, str], secret: Mapping[str, str], log: Log) -> bool:
        try:
            self._request("DELETE", vm_id, self._token(secret))
        except AzureError as error:
            log("adaptor/cloud", f"Error deleting an instance {vm_id}: beginning VM deletion: {error}")
            return False
        log("adaptor/cloud/azure", f"deleted VM successfully: {vm_id.rpartition('/')[2]}")
        return True

    def reaches(self, vm: Vm, protocol: str, port: int) -> bool:
        return self._passes(*self._ends(vm), protocol, port)

    def is_reached_by(self, vm: Vm, protocol: str, port: int) -> bool:
        worker, machine = self._ends(vm)
        return self._passes(machine, worker, protocol, port)

    def has_egress(self, vm: Vm) -> bool:
        _worker, machine = self._ends(vm)
        return machine.has_way_out and self._is_allowed(machine, "Outbound", "tcp", 443, machine.address, INTERNET)

    def _passes(self, source: _End, target: _End, protocol: str, port: int) -> bool:
        packet = (protocol, port, source.address, target.address)
        return self._is_allowed(source, "Outbound", *packet) and self._is_allowed(target, "Inbound", *packet)

    def _is_allowed(self, end: _End, direction: str, protocol: str, port: int, source: str, target: str) -> bool:
        """Every group at the subnet and at the interface must allow the packet."""
        return all(
            _decides(group, direction, protocol, port, source, target, end.space) == "Allow" for group in end.groups
        )

    def _ends(self, vm: Vm) -> tuple[_End, _End]:
        return self._end(vm.node["spec"]["providerID"].removeprefix("azure://")), self._end(vm.id)

    def _end(self, machine_id: str) -> _End:
        token = self._token(self._own_secret)
        machine = self._request("GET", machine_id, token)
        nic_id = machine["properties"]["networkProfile"]["networkInterfaces"][0]["id"]
        nic = self._request("GET", nic_id, token, version=NETWORK_VERSION)["properties"]
        address = nic["ipConfigurations"][0]["properties"]
        subnet_id = address["subnet"]["id"]
        subnet = self._request("GET", subnet_id, token, version=NETWORK_VERSION)["properties"]
        network = self._request("GET", subnet_id.partition("/subnets/")[0], token, version=NETWORK_VERSION)
        attached = (owner.get("networkSecurityGroup") for owner in (nic, subnet))
        groups = [self._request("GET", each["id"], token, version=NETWORK_VERSION) for each in attached if each]
        space = network["properties"]["addressSpace"]["addressPrefixes"]
        # learn.microsoft.com/azure/virtual-network/ip-services/default-outbound-access
        has_way_out = subnet.get("defaultOutboundAccess") is not False or bool(
            subnet.get("natGateway") or subnet.get("routeTable")
        )
        return _End(address["privateIPAddress"], groups, space, has_way_out)

    @property
    def _own_secret(self) -> dict[str, str]:
        """The network's own identity: that of the environment of this process."""
        names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
        return {name: os.environ[name] for name in names}

    def _token(self, secret: Mapping[str, str]) -> str:
        """The credential of azidentity, which keeps its token."""
        key = (secret["AZURE_CLIENT_ID"], secret.get("AZURE_CLIENT_SECRET", ""))
        if NO_TOKEN in secret and not key[1]:
            # sdk/azidentity/workload_identity.go and errors.go of Azure/azure-sdk-for-go.
            path = secret.get("AZURE_FEDERATED_TOKEN_FILE")
            raise AzureError(f"WorkloadIdentityCredential: open {path}: no such file or directory")
        if key in self._tokens:
            return self._tokens[key]
        proof = {"client_secret": key[1]}
        if not key[1]:
            # NewWorkloadIdentityCredential in azure/client.go.
            proof = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": self._service_account_token()}
        form = {
            "grant_type": "client_credentials",
            "client_id": secret["AZURE_CLIENT_ID"],
            "scope": f"{self._endpoint_url}/.default",
            **proof,
        }
        url = f"{self._endpoint_url}/{secret['AZURE_TENANT_ID']}/oauth2/v2.0/token"
        answer = self._http.request("POST", url, body=urlencode(form))
        if answer.status >= 400:
            described = answer.json()["error_description"]
            credential = "ClientSecretCredential" if key[1] else "WorkloadIdentityCredential"
            raise AzureError(f"{credential} authentication failed. POST {url} RESPONSE {answer.status}: {described}")
        self._tokens[key] = answer.json()["access_token"]
        return self._tokens[key]

    def _request(
        self, method: str, resource_id: str, token: str, body: dict | None = None, *, version: str = "2024-07-01"
    ) -> dict:
        url = f"{self._endpoint_url}{resource_id}?api-version={version}"
        what = "beginning VM creation or update" if method == "PUT" else method
        status, headers, content = self._sent(method, url, token, body)
        if status >= 400:
            raise AzureError(f"{what}: {_response_error(method, url, status, content)}")
        # PollUntilDone.
        operation = headers.get("Azure-AsyncOperation")
        while operation and method != "GET":
            _status, _headers, content_of = self._sent("GET", operation, token, None)
            polled = json.loads(content_of)
            if polled["status"] in ("Failed", "Canceled"):
                raise AzureError(f"waiting for the VM creation: {_response_error('GET', operation, 200, content_of)}")
            if polled["status"] == "Succeeded":
                break
            time.sleep(0.02)
        return json.loads(content) if content else {}

    def _sent(self, method: str, url: str, token: str, body: dict | None) -> tuple[int, Any, bytes]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = self._http.request(method, url, body=None if body is None else json.dumps(body), headers=headers)
        return answer.status, answer.headers, answer.data


NETWORK_VERSION = "2024-05-01"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class AzureError(Exception):
    """An error as azcore's ResponseError prints it."""


def _response_error(method: str, url: str, status: int, content: bytes) -> str:
    """azcore's ResponseError.Error(); quoted in cloud-barista/cb-spider#1558."""
    line = "-" * 80
    body = json.loads(content)
    shown = json.dumps(body, indent=2)
    return (
        f"{method} {url.partition('?')[0]}\n{line}\nRESPONSE {status}: {status}\nERROR CODE: {body['error']['code']}\n"
        f"{line}\n{shown}\n{line}\n"
    )


def _machine(name: str, settings: Mapping[str, str], tags: dict[str, str]) -> dict:
    """getVMParameters in azure/provider.go, without the fields that ARM does not require."""
    interface: dict[str, Any] = {
        "deleteOption": "Delete",
        "ipConfigurations": [
            {"name": "ip-config", "properties": {"subnet": {"id": settings.get("AZURE_SUBNET_ID", "")}}}
        ],
    }
    if settings.get("AZURE_NSG_ID"):
        interface["networkSecurityGroup"] = {"id": settings["AZURE_NSG_ID"]}
    image_id = settings.get("AZURE_IMAGE_ID", "")
    image_key = "communityGalleryImageId" if image_id.startswith("/CommunityGalleries/") else "id"
    return {
        "location": settings["AZURE_REGION"],
        "tags": tags,
        "properties": {
            "hardwareProfile": {"vmSize": settings.get("AZURE_INSTANCE_SIZE") or "Standard_DC2as_v5"},
            "storageProfile": {"imageReference": {image_key: image_id}},
            "osProfile": {"computerName": name, "adminUsername": "peerpod"},
            "networkProfile": {
                "networkApiVersion": "2021-11-01",
                "networkInterfaceConfigurations": [{"name": f"{name}-net", "properties": interface}],
            },
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
        },
    }


@dataclass(frozen=True)
class _End:
    """One end of a flow: its address, the groups that filter it, the address space of its virtual network, and whether
    its subnet has a way to the Internet."""

    address: str
    groups: list[dict]
    space: list[str]
    has_way_out: bool


def _decides(group: dict, direction: str, protocol: str, port: int, source: str, target: str, space: list[str]) -> str:
    """The access of the first rule of a group that matches the packet, by priority."""
    rules = [*group["properties"]["securityRules"], *group["properties"]["defaultSecurityRules"]]
    for rule in sorted((rule["properties"] for rule in rules), key=lambda rule: rule["priority"]):
        if (
            rule["direction"] == direction
            and rule["protocol"].lower() in ("*", protocol)
            and any(_has_port(ports, port) for ports in _values(rule, "destinationPortRange"))
            and any(_has_address(prefix, source, space) for prefix in _values(rule, "sourceAddressPrefix", "es"))
            and any(_has_address(prefix, target, space) for prefix in _values(rule, "destinationAddressPrefix", "es"))
        ):
            return rule["access"]
    return "Deny"


def _values(rule: Mapping[str, Any], name: str, plural: str = "s") -> Iterator[str]:
    if rule.get(name):
        yield rule[name]
    yield from rule.get(f"{name}{plural}") or ()


def _has_port(ports: str, port: int) -> bool:
    first, _dash, last = ports.partition("-")
    return ports == "*" or int(first) <= port <= int(last or first)


def _has_address(prefix: str, address: str, space: list[str]) -> bool:
    is_inside = any(ipaddress.ip_address(address) in ipaddress.ip_network(each) for each in space)
    tags = {"*": True, "VirtualNetwork": is_inside, "Internet": not is_inside, "AzureLoadBalancer": False}
    if prefix in tags:
        return tags[prefix]
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(prefix)
    except ValueError:
        # Another service tag.
        return False
