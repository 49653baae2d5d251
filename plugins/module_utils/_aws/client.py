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

# A new group is visible everywhere in EC2 within seconds.
_WAITS_FOR_A_GROUP = (0.5, 1, 2)

_RETRY = AWSRetry.jittered_backoff(
    retries=7,
    delay=1,
    max_delay=10,
    catch_extra_error_codes=[
        # The error of a write to a group that was just described, because the group is not visible everywhere yet.
        "InvalidGroup.NotFound",
        # The error of a page after the first one, if its token has expired: the request starts again.
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
    """A failed request, as a sentence with the request, the response, and what to do.

    `code` is EC2's error code, or None without a response.
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
        """The existing instances from DescribeInstances, in the order of `instance_ids`."""
        by_id = {
            instance["InstanceId"]: instance
            for reservation in self._described("DescribeInstances", "Reservations", "instance-id", instance_ids)
            for instance in reservation["Instances"]
        }
        return [by_id[instance_id] for instance_id in instance_ids if instance_id in by_id]

    def live_instances(self) -> list[dict]:
        """The running and pending instances from DescribeInstances."""
        states = {"Name": "instance-state-name", "Values": ["pending", "running"]}
        answer = self._query("DescribeInstances", PAGE_SIZE, Filters=[states])
        return [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]

    def subnet(self, subnet_id: str) -> dict | None:
        """The subnet from DescribeSubnets; None if it does not exist."""
        return next(self._described("DescribeSubnets", "Subnets", "subnet-id", [subnet_id]), None)

    def capacity_reservations(self) -> list[dict]:
        """The reservations from DescribeCapacityReservations that have capacity now."""
        active = {"Name": "state", "Values": ["active"]}
        answer = self._query("DescribeCapacityReservations", PAGE_SIZE, Filters=[active])
        return answer["CapacityReservations"]

    def vcpus(self, instance_types: Sequence[str]) -> dict[str, int]:
        """The default number of vCPUs by instance type, for the types that the region offers."""
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
        """The value of EC2's quota with that code for this account, from Service Quotas."""
        client = self._module.client("service-quotas", retry_decorator=_RETRY)
        with self._calling("GetServiceQuota", "Service Quotas"):
            answer = client.get_service_quota(ServiceCode="ec2", QuotaCode=quota_code, aws_retry=True)
        return int(answer["Quota"]["Value"])

    def groups(self, group_ids: Sequence[str]) -> list[Group]:
        """The groups, in the order of `group_ids`; waits a moment for a group that is new."""
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
        answer = self._query("GetManagedPrefixListEntries", PREFIX_LIST_PAGE_SIZE, PrefixListId=prefix_list_id)
        return [entry["Cidr"] for entry in answer["Entries"]]

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
        """All pages of a request as one response; if one page fails, the request fails."""
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
            # botocore appends the whole received text to the message about a truncated response.
            reason = str(error).splitlines()[0].rstrip(".:")
            raise Ec2Error(
                f"Calling {service} {operation} in {self.region} failed: {reason}. Check region "
                "and endpoint_url, and that this machine reaches AWS (DNS, proxy)."
            ) from error
