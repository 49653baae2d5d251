# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The clients to EC2 and to its quotas in Service Quotas, and what clients to other AWS APIs need (private).

amazon.aws handles the credentials (its options and environment variables) and the retries. Objects are requested with
filters, not by id, so that EC2 returns those that exist instead of rejecting the whole request, and in pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.botocore import (
    paginated_query_with_retries,
)
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.amazon.aws.plugins.module_utils.retries import AWSRetry
from ansible_collections.amazon.aws.plugins.module_utils.tagging import (
    ansible_dict_to_boto3_tag_list,
    boto3_tag_specifications,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.image import snapshots_of
from ansible_collections.osc.peerpods.plugins.module_utils._aws.refusals import (
    THROTTLING,
    advise_code,
    advise_exception,
    decode_command,
    explain_decoded,
    is_of_credentials,
    split_encoded,
)
from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import MANAGED_TAG, Rule, rules_of
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import Group, ip_permission

try:
    from botocore import xform_name
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        CredentialRetrievalError,
        NoCredentialsError,
        PartialCredentialsError,
    )
    from botocore.parsers import ResponseParserError
except ImportError:
    pass  # AnsibleAWSModule fails with a message about the missing library.


# EC2 takes at most 200 values in a request's filters.
FILTER_VALUES = 200

# The maximum size of a page. Without it, EC2 may throttle the request or truncate a long response.
PAGE_SIZE = 1000
PREFIX_LIST_PAGE_SIZE = 100
INSTANCE_TYPES_PAGE_SIZE = 100
ROUTE_TABLES_PAGE_SIZE = 100

# A new group is visible everywhere in EC2 within seconds.
_WAITS_FOR_A_GROUP = (0.5, 1, 2)

_RETRY = AWSRetry.jittered_backoff(
    retries=7,
    delay=1,
    max_delay=10,
    catch_extra_error_codes=[
        # The error of a write to a group that was just described, because the group is not visible everywhere yet.
        "InvalidGroup.NotFound",
        # A snapshot is in use for a moment after its image was deregistered.
        "InvalidSnapshot.InUse",
        # IAM: another request changes the role.
        "ConcurrentModification",
        # The error of a page after the first one, if its token has expired: the request starts again.
        "InvalidNextToken",
        "InvalidPaginationToken",
        *THROTTLING,
    ],
)

# The prefixes of IAM actions.
IAM_PREFIXES = {"EC2": "ec2", "IAM": "iam", "S3": "s3", "STS": "sts", "Service Quotas": "servicequotas"}


class Ec2Error(Exception):
    """A failed request, as a sentence with the request, the response, and what to do.

    `code` is EC2's error code, or None without a response.
    """

    def __init__(self, message: str, code: str | None = None):
        super().__init__(message)
        self.code = code


class AwsConnection:
    """A connection to one AWS API, and its errors as sentences."""

    def __init__(self, module: AnsibleAWSModule, api: str):
        self.region = module.region
        self._module = module
        try:
            self._client = module.client(api, retry_decorator=_RETRY)
        except OSError as error:
            raise _unreadable(error) from error

    @contextmanager
    def _calling(self, operation: str, service: str = "EC2") -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            message, encoded = split_encoded(error.response["Error"].get("Message") or "no reason was returned")
            sent = error.operation_name
            if is_of_credentials(sent):
                what, action = (
                    f"Getting credentials for {service} {operation} failed: AWS rejected {sent}",
                    f"sts:{sent}",
                )
            else:
                what, action = (
                    f"{service} in {self.region} rejected {operation}",
                    f"{IAM_PREFIXES[service]}:{operation}",
                )
            reasons = [f"{what} with {code}: {message}."]
            if encoded:
                reasons.append(self._explain_encoded(encoded))
            reasons.append(advise_code(code, message, action))
            raise Ec2Error(" ".join(filter(None, reasons)), code=code) from error
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise Ec2Error(
                f"No AWS credentials for {service} were found: {str(error).rstrip('.')}. {_advise(error)}"
            ) from error
        # botocore makes an empty answer of XML that is not that of AWS, such as a page of HTML.
        except KeyError as error:
            raise Ec2Error(
                f"The answer to {service} {operation} in {self.region} is not that of AWS: it has no {error.args[0]}. "
                "Check endpoint_url, and the proxy between this machine and AWS."
            ) from error
        except (BotoCoreError, ResponseParserError) as error:
            # botocore appends the whole received text to the message about a truncated response.
            reason = str(error).splitlines()[0].rstrip(".:")
            raise Ec2Error(
                f"Calling {service} {operation} in {self.region} failed: {reason}. {_advise(error)}"
            ) from error
        except OSError as error:
            raise _unreadable(error) from error

    def _explain_encoded(self, encoded: str) -> str:
        """The reason of a denial, or the command that shows it if these credentials may not decode it."""
        try:
            answer = self._module.client("sts").decode_authorization_message(EncodedMessage=encoded)
            return explain_decoded(answer["DecodedMessage"])
        except (BotoCoreError, ClientError, ResponseParserError, ValueError):
            return f"{decode_command(encoded)} shows the reason to identities with sts:DecodeAuthorizationMessage."


class Ec2(AwsConnection):
    """A connection to EC2 in one region; create one per module run."""

    def __init__(self, module: AnsibleAWSModule):
        super().__init__(module, "ec2")

    def instances(self, instance_ids: Sequence[str]) -> list[dict]:
        """The existing instances from DescribeInstances, in the order of `instance_ids`."""
        by_id = {
            instance["InstanceId"]: instance
            for reservation in self._described("DescribeInstances", "Reservations", "instance-id", instance_ids)
            for instance in reservation["Instances"]
        }
        return [by_id[instance_id] for instance_id in instance_ids if instance_id in by_id]

    def instances_named(self, patterns: Sequence[str]) -> list[dict]:
        """The instances whose tag Name matches one of the patterns, in which * is any text."""
        reservations = self._described("DescribeInstances", "Reservations", "tag:Name", patterns)
        return [instance for reservation in reservations for instance in reservation["Instances"]]

    def live_instances(self) -> list[dict]:
        """The running and pending instances from DescribeInstances."""
        states = {"Name": "instance-state-name", "Values": ["pending", "running"]}
        reservations = self._query("DescribeInstances", "Reservations", PAGE_SIZE, Filters=[states])
        return [instance for reservation in reservations for instance in reservation["Instances"]]

    def console(self, instance_id: str) -> str:
        """The console of an instance, the latest output if its type supports that (Nitro)."""
        for latest in (True, False):
            try:
                with self._calling("GetConsoleOutput"):
                    answer = self._client.get_console_output(InstanceId=instance_id, Latest=latest, aws_retry=True)
                return answer.get("Output") or ""
            except Ec2Error as error:
                if not latest or error.code != "UnsupportedOperation":
                    raise
        return ""

    def subnet(self, subnet_id: str) -> dict | None:
        """The subnet from DescribeSubnets; None if it does not exist."""
        return next(iter(self.subnets([subnet_id])), None)

    def subnets(self, subnet_ids: Sequence[str]) -> list[dict]:
        """The existing subnets from DescribeSubnets."""
        return list(self._described("DescribeSubnets", "Subnets", "subnet-id", subnet_ids))

    def network_acls(self, subnet_ids: Sequence[str]) -> list[dict]:
        """The network ACLs of these subnets."""
        return list(self._described("DescribeNetworkAcls", "NetworkAcls", "association.subnet-id", subnet_ids))

    def route_tables(self, vpc_id: str) -> list[dict]:
        """The route tables of a VPC. Its main route table has no association with the subnets that use it."""
        return list(self._described("DescribeRouteTables", "RouteTables", "vpc-id", [vpc_id], ROUTE_TABLES_PAGE_SIZE))

    def endpoints(self, vpc_id: str) -> list[dict]:
        """The VPC endpoints of a VPC."""
        return list(self._described("DescribeVpcEndpoints", "VpcEndpoints", "vpc-id", [vpc_id]))

    def capacity_reservations(self) -> list[dict]:
        """The reservations from DescribeCapacityReservations that have capacity now."""
        active = {"Name": "state", "Values": ["active"]}
        return self._query("DescribeCapacityReservations", "CapacityReservations", PAGE_SIZE, Filters=[active])

    def vcpus(self, instance_types: Sequence[str]) -> dict[str, int]:
        """The default number of vCPUs by instance type, for the types that the region offers."""
        return {
            name: instance_type["VCpuInfo"]["DefaultVCpus"]
            for name, instance_type in self.instance_types(instance_types).items()
        }

    def image(self, image_id: str) -> dict | None:
        """The AMI from DescribeImages, also if its owner has deprecated it; None if these credentials see none."""
        named = [{"Name": "image-id", "Values": [image_id]}]
        images = self._query("DescribeImages", "Images", PAGE_SIZE, Filters=named, IncludeDeprecated=True)
        return next(iter(images), None)

    def own_images(self, name: str) -> list[dict]:
        """The AMIs of this account with that name."""
        named = [{"Name": "name", "Values": [name]}]
        return self._query("DescribeImages", "Images", PAGE_SIZE, Owners=["self"], Filters=named)

    def import_tasks(self) -> list[dict]:
        """The imports of snapshots that EC2 still lists, those that run and those that ended."""
        return self._query("DescribeImportSnapshotTasks", "ImportSnapshotTasks", PAGE_SIZE)

    def unused_snapshots(self, snapshot_ids: Sequence[str]) -> list[str]:
        """Those of these snapshots that exist and that no AMI has."""
        return self._unused(self._described("DescribeSnapshots", "Snapshots", "snapshot-id", snapshot_ids))

    def unused_snapshots_tagged(self, tag: str) -> list[str]:
        """The snapshots with this tag that no AMI has."""
        return self._unused(self._own_snapshots("tag-key", tag))

    def snapshots_described(self, pattern: str) -> list[dict]:
        """The snapshots of this account whose description matches the pattern, in which * is any text."""
        return self._own_snapshots("description", pattern)

    def _own_snapshots(self, filter_name: str, value: str) -> list[dict]:
        filters = [{"Name": filter_name, "Values": [value]}]
        return self._query("DescribeSnapshots", "Snapshots", PAGE_SIZE, OwnerIds=["self"], Filters=filters)

    def used_snapshots(self, except_images: Container[str] = ()) -> set[str]:
        """The snapshots of the AMIs of this account, also of disabled ones, other than `except_images`."""
        members = self._client.meta.service_model.shape_for("DescribeImagesRequest").members
        # An older botocore does not have it, and EC2 then returns no disabled AMIs.
        disabled = {"IncludeDisabled": True} if "IncludeDisabled" in members else {}
        images = self._query("DescribeImages", "Images", PAGE_SIZE, Owners=["self"], **disabled)
        return snapshots_of(images, except_images)

    def _unused(self, snapshots: Iterable[Mapping[str, Any]]) -> list[str]:
        existing = [snapshot["SnapshotId"] for snapshot in snapshots]
        used = self.used_snapshots() if existing else set()
        return [snapshot for snapshot in existing if snapshot not in used]

    def tag_snapshots(self, snapshot_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        absent = ("InvalidSnapshot.NotFound",)
        self._write(
            "CreateTags",
            lambda ids: {"Resources": list(ids), "Tags": ansible_dict_to_boto3_tag_list(tags)},
            snapshot_ids,
            absent,
            dry_run=False,
        )

    def deregister(self, image_id: str) -> None:
        absent = ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable")
        self._write("DeregisterImage", lambda ids: {"ImageId": ids[0]}, [image_id], absent, dry_run=False)

    def delete_snapshot(self, snapshot_id: str) -> None:
        absent = ("InvalidSnapshot.NotFound",)
        self._write("DeleteSnapshot", lambda ids: {"SnapshotId": ids[0]}, [snapshot_id], absent, dry_run=False)

    def instance_types(self, instance_types: Sequence[str]) -> dict[str, dict]:
        """The types that the region offers, from DescribeInstanceTypes."""
        return {
            instance_type["InstanceType"]: instance_type
            for instance_type in self._described(
                "DescribeInstanceTypes", "InstanceTypes", "instance-type", instance_types, INSTANCE_TYPES_PAGE_SIZE
            )
        }

    def offered_in(self, zone: str, instance_types: Sequence[str]) -> set[str]:
        """Those of the types that the availability zone offers, from DescribeInstanceTypeOfferings."""
        filters = {"location": [zone], "instance-type": list(instance_types)}
        offerings = self._query(
            "DescribeInstanceTypeOfferings",
            "InstanceTypeOfferings",
            PAGE_SIZE,
            LocationType="availability-zone",
            Filters=[{"Name": name, "Values": values} for name, values in filters.items()],
        )
        return {offering["InstanceType"] for offering in offerings}

    def quota(self, quota_code: str) -> int:
        """The value of EC2's quota with that code for this account, from Service Quotas."""
        client = self._module.client("service-quotas", retry_decorator=_RETRY)
        with self._calling("GetServiceQuota", "Service Quotas"):
            answer = client.get_service_quota(ServiceCode="ec2", QuotaCode=quota_code, aws_retry=True)
            return int(answer["Quota"]["Value"])

    def existing_groups(self, group_ids: Sequence[str]) -> dict[str, dict]:
        """The existing groups from DescribeSecurityGroups, by their IDs."""
        groups = self._described("DescribeSecurityGroups", "SecurityGroups", "group-id", group_ids)
        return {group["GroupId"]: group for group in groups}

    def groups(self, group_ids: Sequence[str]) -> list[Group]:
        """The groups, in the order of `group_ids`; waits a moment for a group that is new."""
        waits = iter(_WAITS_FOR_A_GROUP)
        while True:
            by_id = self.existing_groups(group_ids)
            missing = [group_id for group_id in group_ids if group_id not in by_id]
            if not missing:
                break
            wait = next(waits, None)
            if wait is None:
                raise Ec2Error(
                    f"EC2 has no security group {', '.join(missing)} in {self.region}. "
                    "Check the ids, the region and the account of the credentials."
                )
            time.sleep(wait)
        return [
            Group(
                group_id,
                by_id[group_id]["GroupName"],
                by_id[group_id]["VpcId"],
                {tag["Key"]: tag["Value"] for tag in by_id[group_id].get("Tags", ())},
            )
            for group_id in group_ids
        ]

    def rules(self, group_ids: Sequence[str]) -> tuple[Rule, ...]:
        """The rules of these groups."""
        return self._rules("group-id", group_ids)

    def managed_rules(self) -> tuple[Rule, ...]:
        """The rules in all groups of the region that this collection added."""
        return self._rules(f"tag:{MANAGED_TAG}", ["true"])

    def _rules(self, filter_name: str, values: Sequence[str]) -> tuple[Rule, ...]:
        return rules_of(self._described("DescribeSecurityGroupRules", "SecurityGroupRules", filter_name, values))

    def network_interfaces(self, group_ids: Sequence[str]) -> list[dict]:
        """The network interfaces that have one of these groups."""
        return list(self._described("DescribeNetworkInterfaces", "NetworkInterfaces", "group-id", group_ids))

    def vpc_cidrs(self, vpc_ids: Sequence[str]) -> list[str]:
        """The IPv4 CIDR blocks in use in these VPCs."""
        return [
            association["CidrBlock"]
            for vpc in self._described("DescribeVpcs", "Vpcs", "vpc-id", vpc_ids)
            for association in vpc["CidrBlockAssociationSet"]
            if association["CidrBlockState"]["State"] == "associated"
        ]

    def prefix_list_cidrs(self, prefix_list_id: str) -> list[str]:
        entries = self._query(
            "GetManagedPrefixListEntries", "Entries", PREFIX_LIST_PAGE_SIZE, PrefixListId=prefix_list_id
        )
        return [entry["Cidr"] for entry in entries]

    def authorize(self, rules: Sequence[Rule], tags: Mapping[str, str], dry_run: bool = False) -> list[Rule]:
        """Add these rules of one group and direction, and return those that this call added.

        With `dry_run`, EC2 only checks the permission, in all writing methods.
        """
        return self._write(
            "AuthorizeSecurityGroupEgress" if rules[0].is_egress else "AuthorizeSecurityGroupIngress",
            lambda batch: {
                "GroupId": rules[0].group_id,
                "IpPermissions": [ip_permission(rule) for rule in batch],
                "TagSpecifications": boto3_tag_specifications(tags, ["security-group-rule"]),
            },
            rules,
            done_before=("InvalidPermission.Duplicate",),
            dry_run=dry_run,
        )

    def revoke(self, rules: Sequence[Rule], dry_run: bool = False) -> list[Rule]:
        """Remove these rules of one group and direction, and return those that this call removed."""
        return self._write(
            "RevokeSecurityGroupEgress" if rules[0].is_egress else "RevokeSecurityGroupIngress",
            lambda batch: {"GroupId": rules[0].group_id, "SecurityGroupRuleIds": [rule.rule_id for rule in batch]},
            rules,
            done_before=("InvalidSecurityGroupRuleId.NotFound", "InvalidPermission.NotFound"),
            dry_run=dry_run,
        )

    def tag(self, rules: Sequence[Rule], tags: Mapping[str, str], dry_run: bool = False) -> list[Rule]:
        """Add these tags to the rules, and return the rules that this call has tagged."""
        return self._write(
            "CreateTags",
            lambda batch: {
                "Resources": [rule.rule_id for rule in batch],
                "Tags": ansible_dict_to_boto3_tag_list(tags),
            },
            rules,
            done_before=("InvalidSecurityGroupRuleId.NotFound",),
            dry_run=dry_run,
        )

    def untag(self, rules: Sequence[Rule], keys: Sequence[str], dry_run: bool = False) -> list[Rule]:
        """Remove the tags with these keys, and return the rules from which this call has removed them."""
        return self._write(
            "DeleteTags",
            lambda batch: {"Resources": [rule.rule_id for rule in batch], "Tags": [{"Key": key} for key in keys]},
            rules,
            done_before=("InvalidSecurityGroupRuleId.NotFound",),
            dry_run=dry_run,
        )

    def _write(
        self,
        operation: str,
        arguments: Callable[[Sequence], dict],
        items: Sequence,
        done_before: Collection[str],
        dry_run: bool,
    ) -> list:
        """Send one request for all items, and return the items that it changed.

        EC2 rejects the whole request if another client has just done one of its items (`done_before`). Then each item
        is sent in a request of its own, and an item that is already done counts as done.
        """
        try:
            with self._calling(operation):
                call = getattr(self._client, xform_name(operation))
                answer = call(**arguments(items), DryRun=dry_run, aws_retry=True)
                if "RequestId" not in answer["ResponseMetadata"]:
                    raise KeyError("RequestId")
        except Ec2Error as error:
            if error.code == "DryRunOperation":
                return list(items)
            if error.code not in done_before:
                raise
            if len(items) == 1:
                return []
            return [done for item in items for done in self._write(operation, arguments, [item], done_before, dry_run)]
        return list(items)

    def _described(
        self,
        operation: str,
        key: str,
        filter_name: str,
        ids: Sequence[str],
        page_size: int = PAGE_SIZE,
    ) -> Iterator[dict]:
        for start in range(0, len(ids), FILTER_VALUES):
            values = list(ids[start : start + FILTER_VALUES])
            yield from self._query(operation, key, page_size, Filters=[{"Name": filter_name, "Values": values}])

    def _query(self, operation: str, key: str, page_size: int, **params: Any) -> list[dict]:
        """All pages of a request as one response; if one page fails, the request fails."""
        with self._calling(operation):
            return paginated_query_with_retries(
                self._client,
                xform_name(operation),
                _RETRY,
                PaginationConfig={"PageSize": page_size},
                **params,
            )[key]


def _unreadable(error: OSError) -> Ec2Error:
    """botocore does not handle the absence of a token file or of the command that supplies credentials."""
    return Ec2Error(
        f"A file of the AWS credentials cannot be read: {error}. Correct the path in the environment or in the profile."
    )


def _advise(error: Exception) -> str:
    return advise_exception({base.__name__ for base in type(error).__mro__})
