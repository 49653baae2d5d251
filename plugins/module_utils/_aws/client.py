# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The only client to EC2 and to its quotas in Service Quotas (private to this collection).

amazon.aws handles the credentials (its options and environment variables) and the retries. Objects are requested with
filters, not by id, so that EC2 returns those that exist instead of rejecting the whole request, and in pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import (
    Group,
    Port,
    ip_permission,
    rules_of,
)

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

# What EC2 puts into a page at most. Without a number it may throttle or cut a long answer.
PAGE_SIZE = 1000
PREFIX_LIST_PAGE_SIZE = 100
INSTANCE_TYPES_PAGE_SIZE = 100

# A new group shows up everywhere in EC2 within seconds.
_WAITS_FOR_A_GROUP = (0.5, 1, 2)

_RETRY = AWSRetry.jittered_backoff(
    retries=7,
    delay=1,
    max_delay=10,
    catch_extra_error_codes=[
        # From a write to a group that was just described: it has not arrived everywhere yet.
        "InvalidGroup.NotFound",
        # From a page after the first one, whose token has expired: the pages start over.
        "InvalidNextToken",
        "InvalidPaginationToken",
    ],
)

_LOG_IN = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for temporary "
    "credentials), or name a profile with AWS_PROFILE or the profile option."
)
_EXPIRED = f"The credentials have expired: get new ones. {_LOG_IN}"
_GRANT = "Grant these credentials the permissions that the module's documentation lists."
_ADVICE = {
    "AccessDeniedException": _GRANT,
    "AuthFailure": _LOG_IN,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidClientTokenId": _LOG_IN,
    "RequestExpired": f"{_EXPIRED} If they have not, check this machine's clock.",
    "SignatureDoesNotMatch": _LOG_IN,
    "UnauthorizedOperation": _GRANT,
    "UnrecognizedClientException": _LOG_IN,
}


class Ec2Error(Exception):
    """A request that failed, as a sentence: what was tried, what came back, what to do.

    `code` is EC2's error code, or None where no answer came.
    """

    def __init__(self, message: str, code: str | None = None):
        super().__init__(message)
        self.code = code


class Ec2:
    """A connection to EC2 in one region; create one per module run."""

    def __init__(self, module: AnsibleAWSModule):
        self.region = module.region
        self._module = module
        self._client = module.client("ec2", retry_decorator=_RETRY)

    def instances(self, instance_ids: Sequence[str]) -> list[dict]:
        """DescribeInstances of those that exist, in the order of `instance_ids`."""
        by_id = {
            instance["InstanceId"]: instance
            for reservation in self._described("DescribeInstances", "Reservations", "instance-id", instance_ids)
            for instance in reservation["Instances"]
        }
        return [by_id[instance_id] for instance_id in instance_ids if instance_id in by_id]

    def live_instances(self) -> list[dict]:
        """DescribeInstances of all that run or are about to."""
        states = {"Name": "instance-state-name", "Values": ["pending", "running"]}
        answer = self._query("DescribeInstances", PAGE_SIZE, Filters=[states])
        return [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]

    def subnet(self, subnet_id: str) -> dict | None:
        """DescribeSubnets for one subnet; None if it does not exist."""
        return next(self._described("DescribeSubnets", "Subnets", "subnet-id", [subnet_id]), None)

    def capacity_reservations(self) -> list[dict]:
        """DescribeCapacityReservations of those that hold capacity now."""
        active = {"Name": "state", "Values": ["active"]}
        answer = self._query("DescribeCapacityReservations", PAGE_SIZE, Filters=[active])
        return answer["CapacityReservations"]

    def vcpus(self, instance_types: Sequence[str]) -> dict[str, int]:
        """The vCPUs that an instance has by default, by type, of the types that there are here."""
        return {
            instance_type["InstanceType"]: instance_type["VCpuInfo"]["DefaultVCpus"]
            for instance_type in self._described(
                "DescribeInstanceTypes",
                "InstanceTypes",
                "instance-type",
                instance_types,
                INSTANCE_TYPES_PAGE_SIZE,
            )
        }

    def quota(self, quota_code: str) -> int:
        """What Service Quotas lets this account have of EC2's quota with that code."""
        client = self._module.client("service-quotas", retry_decorator=_RETRY)
        with self._calling("GetServiceQuota", "Service Quotas"):
            answer = client.get_service_quota(ServiceCode="ec2", QuotaCode=quota_code, aws_retry=True)
        return int(answer["Quota"]["Value"])

    def groups(self, group_ids: Sequence[str]) -> list[Group]:
        """The groups, in the order of `group_ids`; one that is new gets a moment to show up."""
        waits = iter(_WAITS_FOR_A_GROUP)
        while True:
            by_id = {
                group["GroupId"]: group
                for group in self._described("DescribeSecurityGroups", "SecurityGroups", "group-id", group_ids)
            }
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
                rules_of(by_id[group_id]["IpPermissions"]),
            )
            for group_id in group_ids
        ]

    def security_group_rules(self, group_ids: Sequence[str]) -> list[dict]:
        return list(self._described("DescribeSecurityGroupRules", "SecurityGroupRules", "group-id", group_ids))

    def vpc_cidrs(self, vpc_ids: Sequence[str]) -> dict[str, list[str]]:
        """The CIDR blocks in use, IPv4 and IPv6, by VPC id."""
        return {
            vpc["VpcId"]: [
                association[block]
                for associations, block, state in (
                    ("CidrBlockAssociationSet", "CidrBlock", "CidrBlockState"),
                    ("Ipv6CidrBlockAssociationSet", "Ipv6CidrBlock", "Ipv6CidrBlockState"),
                )
                for association in vpc.get(associations, ())
                if association[state]["State"] == "associated"
            ]
            for vpc in self._described("DescribeVpcs", "Vpcs", "vpc-id", vpc_ids)
        }

    def prefix_list_cidrs(self, prefix_list_id: str) -> list[str]:
        answer = self._query("GetManagedPrefixListEntries", PREFIX_LIST_PAGE_SIZE, PrefixListId=prefix_list_id)
        return [entry["Cidr"] for entry in answer["Entries"]]

    def authorize(
        self, group_id: str, ports: Sequence[Port], tags: Mapping[str, str], dry_run: bool = False
    ) -> list[Port]:
        """Open the ports from the group to itself, and return the ports that this call opened.

        With `dry_run`, EC2 only checks the permission.
        """
        return self._write(
            "AuthorizeSecurityGroupIngress",
            lambda batch: {
                "GroupId": group_id,
                "IpPermissions": [ip_permission(group_id, port) for port in batch],
                "TagSpecifications": boto3_tag_specifications(tags, ["security-group-rule"]),
            },
            ports,
            done_before=("InvalidPermission.Duplicate",),
            dry_run=dry_run,
        )

    def revoke(self, group_id: str, rule_ids: Sequence[str], dry_run: bool = False) -> list[str]:
        """Remove ingress rules by their ids, and return the ids that this call removed."""
        return self._write(
            "RevokeSecurityGroupIngress",
            lambda batch: {"GroupId": group_id, "SecurityGroupRuleIds": batch},
            rule_ids,
            done_before=("InvalidSecurityGroupRuleId.NotFound", "InvalidPermission.NotFound"),
            dry_run=dry_run,
        )

    def tag(self, rule_ids: Sequence[str], tags: Mapping[str, str], dry_run: bool = False) -> list[str]:
        """Add these tags to the rules, and return the rules that this call tagged."""
        return self._write(
            "CreateTags",
            lambda batch: {"Resources": batch, "Tags": ansible_dict_to_boto3_tag_list(tags)},
            rule_ids,
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
        """One request for all items, and what it did.

        EC2 rejects the whole request if another client has just done one of its items (`done_before`). Then each item is
        sent in a request of its own, and an item that is already done counts as done.
        """
        try:
            with self._calling(operation):
                call = getattr(self._client, xform_name(operation))
                call(**arguments(items), DryRun=dry_run, aws_retry=True)
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
            answer = self._query(operation, page_size, Filters=[{"Name": filter_name, "Values": values}])
            yield from answer[key]

    def _query(self, operation: str, page_size: int, **params: Any) -> dict:
        """All pages of a question, as one answer: where one page fails there is no answer."""
        with self._calling(operation):
            return paginated_query_with_retries(
                self._client,
                xform_name(operation),
                _RETRY,
                PaginationConfig={"PageSize": page_size},
                **params,
            )

    @contextmanager
    def _calling(self, operation: str, service: str = "EC2") -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            # EC2 appends some kilobytes that only sts:DecodeAuthorizationMessage can read.
            message = error.response["Error"]["Message"].split("Encoded authorization failure")[0]
            raise Ec2Error(
                f"{service} in {self.region} rejected {operation} with {code}: "
                f"{message.strip().rstrip('.')}. {_ADVICE.get(code, '')}".strip(),
                code=code,
            ) from error
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise Ec2Error(
                f"No AWS credentials for {service} were found: {str(error).rstrip('.')}. {_LOG_IN}"
            ) from error
        except (BotoCoreError, ResponseParserError) as error:
            # Of an answer that was cut off, botocore appends all that came.
            reason = str(error).splitlines()[0].rstrip(".:")
            raise Ec2Error(
                f"Calling {service} {operation} in {self.region} failed: {reason}. Check region "
                "and endpoint_url, and that this machine reaches AWS (DNS, proxy)."
            ) from error
