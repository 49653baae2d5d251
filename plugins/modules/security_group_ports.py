#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: security_group_ports
version_added: "0.1.0"
short_description: Open the ports of peer pods between the workers of a cluster on AWS
description:
  - Allows traffic between the members of EC2 security groups on the given ports,
    with an ingress rule from each group to itself.
  - Workers connect to the kata-agent of their peer pods on port 15150 and tunnel
    the traffic of the pods through port 9000. These two ports are the default.
  - Reads the security groups of all workers, and opens the ports on
    the groups that all of them share.
  - Changes nothing if a port is already open, also by a wider range of ports,
    a rule for all traffic, or CIDR blocks or prefix lists that contain
    all CIDR blocks of the group's VPC.
  - Rules that this module adds have the tag C(osc.peerpods/managed=true) and a
    description. O(state=absent) removes no other rules.
options:
  instance_ids:
    description:
      - The workers, each as an EC2 instance id (V(i-0abc...)) or as the
        C(spec.providerID) of its node (V(aws:///us-east-2a/i-0abc...)).
      - The security groups that all of them share are selected. If they share none, the module fails
        and reports the groups of each instance.
      - One of O(instance_ids), O(nodes) and O(group_ids) is required; they are mutually exclusive.
    type: list
    elements: str
  group_ids:
    description:
      - The security groups, by id (V(sg-0abc...)), instead of those that the workers share.
    type: list
    elements: str
  ports:
    description:
      - The ports to open.
    type: list
    elements: dict
    default:
      - port: 15150
        protocols: [tcp]
      - port: 9000
        protocols: [tcp]
    suboptions:
      port:
        description:
          - The port, from 1 to 65535.
        type: int
        required: true
      protocols:
        description:
          - The protocols of the port.
          - If the tunnel is VXLAN over UDP, as in the upstream cloud-api-adaptor, add V(udp) for
            port 9000.
        type: list
        elements: str
        choices: [tcp, udp]
        default: [tcp]
  state:
    description:
      - V(present) opens the ports. V(absent) removes the rules for these ports that this module
        added.
    type: str
    choices: [present, absent]
    default: present
  tags:
    description:
      - Tags of the rules that this module adds, in addition to C(osc.peerpods/managed).
      - If a rule of this module exists already, missing tags and tags with another value are set,
        those of all rules in one request. Other tags stay, and so do the tags of rules that this
        module did not add.
      - If empty, the tags of existing rules are not read.
    type: dict
    default: {}
  dry_run:
    description:
      - Change nothing, but check with the C(DryRun) of the EC2 API whether the credentials have the
        permission for each change, and fail if they do not.
      - The check is also made in check mode, which otherwise sends no write requests.
    type: bool
    default: false
notes:
  - The credentials need C(ec2:DescribeInstances), C(ec2:DescribeSecurityGroups) and, to open
    ports, C(ec2:AuthorizeSecurityGroupIngress) and C(ec2:CreateTags); to remove rules
    C(ec2:DescribeSecurityGroupRules) and C(ec2:RevokeSecurityGroupIngress). With O(tags) also
    C(ec2:DescribeSecurityGroupRules). If a group has CIDR
    rules for one of the ports, also C(ec2:DescribeVpcs); if it has rules with prefix lists, also
    C(ec2:GetManagedPrefixListEntries).
  - With O(dry_run=true) and outside of check mode, C(changed) is V(false), because nothing is changed.
extends_documentation_fragment:
  - osc.peerpods.worker_nodes
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
seealso:
  - module: amazon.aws.ec2_security_group
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Open 15150 and 9000 between all workers of the cluster
  osc.peerpods.security_group_ports:
    region: us-east-2
    nodes:
      kubeconfig: ~/.kube/config

- name: Gather the workers of the cluster
  osc.peerpods.cluster_info:
  register: cluster

- name: Open the ports between these workers
  osc.peerpods.security_group_ports:
    region: "{{ cluster.region }}"
    instance_ids: "{{ cluster.workers | map(attribute='provider_id') }}"

- name: Open the tunnel for TCP and UDP on a given group
  osc.peerpods.security_group_ports:
    region: us-east-2
    group_ids: [sg-0f3a5b1c2d4e6f708]
    ports:
      - port: 15150
      - port: 9000
        protocols: [tcp, udp]
    tags:
      cluster: production

- name: Check whether these credentials have the permission to open the ports
  osc.peerpods.security_group_ports:
    region: us-east-2
    instance_ids: [i-0a1b2c3d4e5f60718]
    dry_run: true

- name: Remove the rules that the module added
  osc.peerpods.security_group_ports:
    region: us-east-2
    group_ids: [sg-0f3a5b1c2d4e6f708]
    state: absent
"""

RETURN = r"""
groups:
  description:
    - The security groups, with the changes and the state of their ports. In check mode and with O(dry_run=true), the changes
      that would be made.
  returned: success
  type: list
  elements: dict
  contains:
    group_id:
      description: The id of the group.
      type: str
      sample: sg-f451f7b0118021613
    group_name:
      description: The name of the group.
      type: str
      sample: node
    vpc_id:
      description: The id of the VPC of the group.
      type: str
      sample: vpc-5eb5f62eeb5e2c05c
    opened:
      description: The ports that were opened from the group to itself.
      type: list
      elements: dict
      sample:
        - port: 15150
          protocol: tcp
    already_open:
      description:
        - The ports that were open already, each with the rules that cover it. Empty with O(state=absent).
      type: list
      elements: dict
      sample:
        - port: 9000
          protocol: tcp
          covered_by: the group itself (tcp 9000)
    revoked:
      description: The ports whose rules were removed, each with the id of the removed rule.
      type: list
      elements: dict
      sample:
        - port: 9000
          protocol: tcp
          rule_id: sgr-e44f6f6a4d13d416b
    retagged:
      description:
        - The ports whose existing rules got tags of O(tags), each with the tags that were set.
      type: list
      elements: dict
      sample:
        - port: 9000
          protocol: tcp
          rule_id: sgr-e44f6f6a4d13d416b
          tags:
            cluster: production
reason:
  description: Which security groups were selected, and why.
  returned: success
  type: str
  sample: sg-f451f7b0118021613 (node) is on all 3 instances.
instances:
  description:
    - The instances of O(instance_ids) or O(nodes), in that order; empty with O(group_ids).
  returned: success
  type: list
  elements: dict
  contains:
    instance_id:
      description: The id of the instance.
      type: str
      sample: i-512823a968c8dd8ca
    vpc_id:
      description: The id of the VPC of the instance.
      type: str
      sample: vpc-5eb5f62eeb5e2c05c
    subnet_id:
      description: The subnet of its primary network interface.
      type: str
      sample: subnet-83cbd55a2e0aebcc2
    availability_zone:
      description: The availability zone of the instance.
      type: str
      sample: us-east-2a
    group_ids:
      description: All security groups of the instance.
      type: list
      elements: str
      sample: [sg-f451f7b0118021613]
"""

from dataclasses import replace

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2, Ec2Error
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import (
    MANAGED_TAG,
    Group,
    Plan,
    Port,
    SecurityGroupError,
    check_instances,
    diff_of,
    facts_needed,
    instance_ids,
    may_contain_our_rules,
    plan_absent,
    plan_present,
    plan_tags,
    shared_groups,
    wanted_ports,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.worker_nodes import (
    NODES_OPTION,
    WorkerNodesError,
    worker_provider_ids,
)


def make_plans(
    module: AnsibleAWSModule,
    ec2: Ec2,
    groups: list[Group],
    ports: tuple[Port, ...],
    tags: dict[str, str],
) -> list[Plan]:
    if module.params["state"] == "absent":
        rules = ec2.security_group_rules([group.group_id for group in groups])
        return [plan_absent(group, ports, rules) for group in groups]
    vpc_ids, prefix_list_ids = facts_needed(groups, ports)
    prefix_lists = {}
    for prefix_list_id in prefix_list_ids:
        try:
            prefix_lists[prefix_list_id] = ec2.prefix_list_cidrs(prefix_list_id)
        except Ec2Error as error:
            module.warn(f"{prefix_list_id} cannot be read and is ignored: {error}")
    vpc_cidrs = ec2.vpc_cidrs(vpc_ids)
    plans = [plan_present(group, ports, vpc_cidrs, prefix_lists) for group in groups]
    if module.params["tags"]:
        managed_group_ids = [g.group_id for g in groups if may_contain_our_rules(g, ports)]
        rules = ec2.security_group_rules(managed_group_ids)
        plans = [plan_tags(plan, ports, tags, rules) for plan in plans]
    return plans


def apply(plans: list[Plan], ec2: Ec2, tags: dict[str, str], dry_run: bool) -> list[Plan]:
    """Apply the plans, and return the changes of this module, without those that another client has made meanwhile."""
    plans = [apply_rules(plan, ec2, tags, dry_run) for plan in plans]
    rule_ids = [rule.rule_id for plan in plans for rule in plan.retagged]
    tagged = rule_ids and ec2.tag(rule_ids, tags, dry_run)
    return [replace(plan, retagged=tuple(rule for rule in plan.retagged if rule.rule_id in tagged)) for plan in plans]


def apply_rules(plan: Plan, ec2: Ec2, tags: dict[str, str], dry_run: bool) -> Plan:
    group_id = plan.group.group_id
    opened = plan.opened and ec2.authorize(group_id, plan.opened, tags, dry_run)
    by_rule_id = {rule_id: port for port, rule_id in plan.revoked}
    revoked = by_rule_id and ec2.revoke(group_id, list(by_rule_id), dry_run)
    return replace(
        plan,
        opened=tuple(opened),
        already_open=plan.already_open
        + tuple((port, "a rule added at the same time") for port in plan.opened if port not in opened),
        revoked=tuple((by_rule_id[rule_id], rule_id) for rule_id in revoked),
    )


def run(module: AnsibleAWSModule) -> dict:
    params = module.params
    if params["nodes"] is None and not (params["instance_ids"] or params["group_ids"]):
        raise SecurityGroupError(
            "No worker and no security group is given: the list is empty. Set instance_ids to all workers of the cluster, or "
            "group_ids to the groups to open."
        )
    ports = wanted_ports(params["ports"])
    tags = {**{str(key): str(value) for key, value in params["tags"].items()}, MANAGED_TAG: "true"}
    workers = instance_ids(
        params["instance_ids"] or () if params["nodes"] is None else worker_provider_ids(module, instead="group_ids")
    )
    ec2 = Ec2(module)
    instances = ec2.instances(workers)
    if workers:
        check_instances(workers, instances, ec2.region)
        group_ids, reason = shared_groups(instances)
    else:
        group_ids, reason = tuple(dict.fromkeys(params["group_ids"])), "Named by group_ids."
    plans = make_plans(module, ec2, ec2.groups(group_ids), ports, tags)

    if params["dry_run"] or not module.check_mode:
        plans = apply(plans, ec2, tags, params["dry_run"])
    return {
        "changed": any(plan.changes for plan in plans) and (module.check_mode or not params["dry_run"]),
        "groups": [
            {
                "group_id": plan.group.group_id,
                "group_name": plan.group.group_name,
                "vpc_id": plan.group.vpc_id,
                "opened": [as_dict(port) for port in plan.opened],
                "already_open": [as_dict(port, covered_by=covered_by) for port, covered_by in plan.already_open],
                "revoked": [as_dict(port, rule_id=rule_id) for port, rule_id in plan.revoked],
                "retagged": [as_dict(rule.port, rule_id=rule.rule_id, tags=dict(rule.after)) for rule in plan.retagged],
            }
            for plan in plans
        ],
        "reason": reason,
        "instances": [
            {
                "instance_id": instance["InstanceId"],
                "vpc_id": instance["VpcId"],
                "subnet_id": instance["SubnetId"],
                "availability_zone": instance["Placement"]["AvailabilityZone"],
                "group_ids": [group["GroupId"] for group in instance["SecurityGroups"]],
            }
            for instance in instances
        ],
        "diff": [diff_of(plan) for plan in plans],
    }


def as_dict(port: Port, **details: str | dict) -> dict:
    return {"port": port.port, "protocol": port.protocol, **details}


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "instance_ids": {"type": "list", "elements": "str"},
            "nodes": NODES_OPTION,
            "group_ids": {"type": "list", "elements": "str"},
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [
                    {"port": 15150, "protocols": ["tcp"]},
                    {"port": 9000, "protocols": ["tcp"]},
                ],
                "options": {
                    "port": {"type": "int", "required": True},
                    "protocols": {
                        "type": "list",
                        "elements": "str",
                        "choices": ["tcp", "udp"],
                        "default": ["tcp"],
                    },
                },
            },
            "state": {"choices": ["present", "absent"], "default": "present"},
            "tags": {"type": "dict", "default": {}},
            "dry_run": {"type": "bool", "default": False},
        },
        required_one_of=[("instance_ids", "nodes", "group_ids")],
        mutually_exclusive=[("instance_ids", "nodes", "group_ids")],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (Ec2Error, SecurityGroupError, WorkerNodesError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
