#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: nsg_rules
version_added: "0.1.0"
short_description: Open the ports of peer pods between the workers of a cluster on Azure
description:
  - Ensures a set of security rules on the network security groups (NSGs) that filter the workers' traffic.
  - Workers connect to the kata-agent of their peer pods on port 15150 and tunnel the traffic of the pods through port 9000.
    By default, the module manages rules for these two ports, from the workers' subnets to the workers' subnets.
  - Finds the subnets of all workers by their network interfaces, and manages the NSGs that are B(attached) to these subnets and
    interfaces.
  - By default, Azure allows traffic between the VMs of a virtual network. If other rules allow all of the traffic already, no
    rule is added, and RV(network_security_groups[].covered) names these rules; see O(on_covered).
  - Rules that this module adds have a description that begins with C(osc.peerpods:). O(state=absent) removes no other rules.
options:
  rules:
    description:
      - The security rules. The names of the options are those of the properties in Azure.
      - Azure does not allow IPv4 and IPv6 addresses in one rule. If the workers' subnets have both and a rule sets no addresses, the
        module manages two rules. The name of the second ends with C(-IPv6), and it gets the next free priority.
    type: list
    elements: dict
    default:
      - name: Allow-Kata-Agent-Internal
        priority: 112
        protocol: Tcp
        destination_port_ranges: ["15150"]
      - name: Allow-VXLAN-Internal
        priority: 111
        protocol: Tcp
        destination_port_ranges: ["9000"]
    suboptions:
      name:
        description: The name of the rule.
        type: str
        required: true
      priority:
        description: The priority of the rule, from 100 to 4096. Rules with smaller numbers are evaluated first.
        type: int
        required: true
      protocol:
        description:
          - The protocol. If the tunnel is VXLAN over UDP, as in the upstream cloud-api-adaptor, add a rule with V(Udp) for port
            9000, or use V(*).
        type: str
        choices: [Tcp, Udp, Icmp, Esp, Ah, '*']
        default: Tcp
      access:
        description: Whether the rule allows or denies the traffic.
        type: str
        choices: [Allow, Deny]
        default: Allow
      direction:
        description: The direction of the traffic, from the viewpoint of the VMs behind the NSG.
        type: str
        choices: [Inbound, Outbound]
        default: Inbound
      description:
        description: The description of the rule, to which C(osc.peerpods:) is prepended. Azure allows 140 characters in total.
        type: str
      source_port_ranges:
        description: The source ports, each a number, a range such as V(1024-65535), or V(*).
        type: list
        elements: str
        default: ['*']
      destination_port_ranges:
        description: The destination ports, as in O(rules[].source_port_ranges).
        type: list
        elements: str
        required: true
      source_address_prefixes:
        description:
          - The source addresses, each a CIDR, a service tag, or V(*). Defaults to the address prefixes of all workers' subnets in
            the virtual networks that the NSG serves. Required if only O(network_security_groups) is set.
        type: list
        elements: str
      destination_address_prefixes:
        description:
          - The destination addresses, each a CIDR, a service tag, or V(*). Defaults to the address prefixes of the workers' subnets
            that the NSG filters. Required if only O(network_security_groups) is set.
        type: list
        elements: str
      source_application_security_groups:
        description: The source application security groups, by ARM id, instead of source addresses.
        type: list
        elements: str
      destination_application_security_groups:
        description: The destination application security groups, by ARM id, instead of destination addresses.
        type: list
        elements: str
  on_priority_conflict:
    description:
      - What to do if another rule of the same direction has the priority of a new rule.
      - V(move) assigns the next free priority in O(priority_range) and issues a warning. V(fail) fails before anything is changed.
    type: str
    choices: [move, fail]
    default: move
  priority_range:
    description:
      - The first and the last priority that V(move) of O(on_priority_conflict) may assign.
    type: list
    elements: int
    default: [100, 4096]
  on_covered:
    description:
      - What to do with a rule that does not exist yet if other rules, such as C(AllowVnetInBound) of every NSG, already decide all of
        its traffic in the same way.
      - V(skip) leaves the rule out. V(ensure) adds it.
    type: str
    choices: [skip, ensure]
    default: skip
  on_shadowed:
    description:
      - What to do if an unmanaged rule with a smaller priority number decides some traffic of a managed rule differently, so that the
        managed rule does not have its full effect.
      - V(fail) fails before anything is changed. V(warn) issues a warning and continues.
    type: str
    choices: [fail, warn]
    default: fail
  state:
    description:
      - V(present) ensures that the rules exist. V(absent) removes the rules with these names that this module added.
    type: str
    choices: [present, absent]
    default: present
  dry_run:
    description:
      - Change nothing, but check for each NSG that would be changed whether the identity has the permission for the change, and fail if
        it does not.
      - The check is also made in check mode.
      - Azure has no dry run of a change. The permissions that the identity's roles grant on the NSG are checked; a lock, a deny
        assignment or Azure Policy can still reject the change.
    type: bool
    default: false
  wait_timeout:
    description:
      - How many seconds to wait until Azure completes a change.
    type: int
    default: 300
extends_documentation_fragment:
  - osc.peerpods.azure
  - osc.peerpods.worker_network
  - osc.peerpods.worker_nodes
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
notes:
  - Takes one request for each resource group with VMs of workers, one for each virtual network, and one for each NSG. For each NSG
    to change, it takes one write and the polling of its completion. A single rule is written by itself, several rules with the whole
    NSG in one request. If another client has changed the rule or the NSG meanwhile (its C(etag)), Azure rejects the write, and the
    module reads and plans again.
  - To change rules, the identity needs the role Network Contributor, or C(Microsoft.Network/networkSecurityGroups/write) and
    C(.../securityRules/write) (C(.../securityRules/delete) to remove a rule), in addition to the permission to read.
  - O(dry_run=true) takes one more request, instead of a write, for each NSG that would be changed. It needs
    C(Microsoft.Authorization/permissions/read), which the role Reader grants.
  - With O(dry_run=true) and outside of check mode, C(changed) is V(false), because nothing is changed.
seealso:
  - module: osc.peerpods.nsg_rules_info
  - module: azure.azcollection.azure_rm_securitygroup
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Open 15150 and 9000 between all workers of the cluster
  osc.peerpods.nsg_rules:
    nodes:
      kubeconfig: ~/.kube/config

- name: Gather the workers of the cluster
  osc.peerpods.cluster_info:
  register: cluster

- name: Add the rules even if other rules allow the traffic already
  osc.peerpods.nsg_rules:
    virtual_machines: "{{ cluster.workers | map(attribute='provider_id') }}"
    on_covered: ensure

- name: Open the tunnel for UDP, with priorities outside of the range of the network team
  osc.peerpods.nsg_rules:
    nodes: {}
    rules:
      - name: Allow-Kata-Agent-Internal
        priority: 2112
        destination_port_ranges: ["15150"]
      - name: Allow-VXLAN-Internal
        priority: 2111
        protocol: Udp
        destination_port_ranges: ["9000"]
    priority_range: [2000, 2999]

- name: Check whether this identity has the permission to add the rules
  osc.peerpods.nsg_rules:
    virtual_machines: "{{ cluster.workers | map(attribute='provider_id') }}"
    dry_run: true

- name: Remove the rules that the module added
  osc.peerpods.nsg_rules:
    nodes: {}
    state: absent
"""

RETURN = r"""
network_security_groups:
  description:
    - The NSGs, with the changes and the state of their rules. In check mode and with O(dry_run=true), the changes that would be made.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The ARM id of the NSG.
      type: str
      sample: /subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network/networkSecurityGroups/demo-nsg
    name:
      description: The name of the NSG.
      type: str
      sample: demo-nsg
    subnets:
      description: The workers' subnets that it is attached to, by ARM id.
      type: list
      elements: str
    network_interfaces:
      description: The workers' network interfaces that it is attached to directly, by ARM id.
      type: list
      elements: str
    created:
      description: The rules that were added, as they were sent to Azure.
      type: list
      elements: dict
      sample:
        - name: Allow-VXLAN-Internal
          properties:
            priority: 111
            direction: Inbound
            access: Allow
            protocol: Tcp
            sourcePortRange: '*'
            sourceAddressPrefix: 10.0.128.0/17
            destinationPortRange: '9000'
            destinationAddressPrefix: 10.0.128.0/17
            description: 'osc.peerpods: port 9000/tcp between workers and peer pods'
    updated:
      description: The rules that were changed, with their new content.
      type: list
      elements: dict
    removed:
      description: The names of the rules that were removed.
      type: list
      elements: str
    unchanged:
      description: The names of the rules that needed no change.
      type: list
      elements: str
    covered:
      description: The rules that were left out, because other rules cover them.
      type: list
      elements: dict
      contains:
        name:
          description: The rule's name.
          type: str
        covered_by:
          description: The rules that decide, with their priorities.
          type: str
          sample: AllowVnetInBound (65000)
    moved:
      description: The rules that got another priority than requested.
      type: list
      elements: dict
      contains:
        name:
          description: The rule's name.
          type: str
        requested:
          description: The requested priority.
          type: int
        assigned:
          description: The assigned priority.
          type: int
        taken_by:
          description: The name of the rule that has the requested priority.
          type: str
    shadowed:
      description: The rules that do not have their full effect because of unmanaged rules with smaller priority numbers.
      type: list
      elements: dict
      contains:
        name:
          description: The rule's name.
          type: str
        shadowed_by:
          description: The unmanaged rules and the traffic that they decide, as a sentence.
          type: str
    kept:
      description: The rules with these names that O(state=absent) did not remove.
      type: list
      elements: dict
      contains:
        name:
          description: The rule's name.
          type: str
        reason:
          description: The reason, as a sentence.
          type: str
missing_permissions:
  description: The permissions that the changes need and the identity does not have.
  returned: failure, with O(dry_run=true), if permissions are missing
  type: list
  elements: dict
  contains:
    action:
      description: The missing permission, as an action of Azure roles.
      type: str
      sample: Microsoft.Network/networkSecurityGroups/write
    scope:
      description: The ARM id of the NSG.
      type: str
      sample: /subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network/networkSecurityGroups/demo-nsg
reason:
  description: Which NSGs were selected, and why.
  returned: success
  type: str
  sample: demo-nsg. Attached to the subnets and interfaces of all 3 workers.
subnets:
  description: The workers' subnets.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The subnet's ARM id.
      type: str
    address_prefixes:
      description: Its addresses, of both families.
      type: list
      elements: str
      sample: [10.0.128.0/17]
    network_security_group:
      description: The ARM id of the NSG that is attached to it, null where none is.
      type: str
unfiltered:
  description: A sentence for each subnet or network interface that no NSG filters, where all traffic passes.
  returned: success
  type: list
  elements: str
"""

import random
import time
from collections.abc import Iterable
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import (
    CONFLICT_RETRIES,
    LATER,
    NETWORK_API_VERSION,
    Arm,
    ArmError,
    arm_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_attachments import Target
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import (
    Plan,
    SecurityRuleError,
    apply_to,
    desired_rules,
    diff_of,
    needed_action,
    plan_absent,
    plan_present,
    single_change,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import PERMISSIONS_API_VERSION, granted
from ansible_collections.osc.peerpods.plugins.module_utils._azure.worker_network import (
    AT_MOST_ONE_OF_WORKERS,
    ONE_OF_WORKERS,
    WORKER_NETWORK_ARGS,
    describe_subnets,
    network_security_group,
    targets_with_groups,
    worker_network,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.worker_nodes import WorkerNodesError

PREFIXES = {"type": "list", "elements": "str"}
DEFAULT_RULES = [
    {
        "name": "Allow-Kata-Agent-Internal",
        "priority": 112,
        "protocol": "Tcp",
        "destination_port_ranges": ["15150"],
    },
    {
        "name": "Allow-VXLAN-Internal",
        "priority": 111,
        "protocol": "Tcp",
        "destination_port_ranges": ["9000"],
    },
]


def make_plan(module: AnsibleModule, nsg: dict, target: Target) -> Plan:
    params = module.params
    if params["state"] == "absent":
        return plan_absent(nsg, [rule["name"] for rule in params["rules"]])
    return plan_present(
        nsg,
        desired_rules(params["rules"], target.source, target.destination),
        target.virtual_network,
        on_priority_conflict=params["on_priority_conflict"],
        priority_range=tuple(params["priority_range"]),
        on_covered=params["on_covered"],
        on_shadowed=params["on_shadowed"],
    )


def carry_out(module: AnsibleModule, arm: Arm, nsg: dict, plan: Plan, target: Target) -> Plan:
    """Apply the plan and return it; after a conflict with another client, plan again."""
    for attempt in range(CONFLICT_RETRIES + 1):
        if not plan.changes:
            break
        try:
            write(arm, nsg, plan, module.params["wait_timeout"])
            break
        except ArmError as error:
            again = error.status == 412 or error.code in ("SecurityRuleConflict", *LATER)
            if not again or attempt == CONFLICT_RETRIES:
                raise
        # The pause is random, so that two clients do not collide again.
        time.sleep(random.uniform(0.1, 0.5) * 2**attempt)
        nsg = network_security_group(arm, nsg["id"])
        now = make_plan(module, nsg, target)
        if not now.changes:
            # The write succeeded, but its response was lost.
            break
        plan = now
    return plan


def write(arm: Arm, nsg: dict, plan: Plan, timeout: float) -> None:
    change = single_change(plan)
    if change is None:
        arm.put(nsg["id"], NETWORK_API_VERSION, apply_to(nsg, plan), nsg["etag"], timeout)
        return
    name, body = change
    rule_id = f"{nsg['id']}/securityRules/{name}"
    rules = {rule["name"].lower(): rule for rule in nsg["properties"]["securityRules"]}
    etag = rules.get(name.lower(), {}).get("etag")
    if body is None:
        arm.delete(rule_id, NETWORK_API_VERSION, etag, timeout)
    else:
        arm.put(rule_id, NETWORK_API_VERSION, body, etag, timeout)


def missing_permissions(arm: Arm, plans: Iterable[Plan]) -> list[dict]:
    """The permissions that the plans need and this identity does not have."""
    missing = []
    for plan in plans:
        if not plan.changes:
            continue
        path = f"{plan.nsg_id}/providers/Microsoft.Authorization/permissions"
        action = needed_action(plan)
        if not granted(action, arm.list(path, PERMISSIONS_API_VERSION)):
            missing.append({"action": action, "scope": plan.nsg_id})
    return missing


def run(module: AnsibleModule) -> dict:
    # Invalid rules fail before the first request.
    anywhere = ("10.0.0.0/8", "fd00::/8")
    desired_rules(module.params["rules"], anywhere, anywhere)
    arm = Arm(module)
    network = worker_network(arm, module)
    targets = targets_with_groups(arm, network)
    # All plans are made before the first write, so that an error in one plan leaves all NSGs unchanged.
    plans = [(target, nsg, make_plan(module, nsg, target)) for target, nsg in targets]
    dry_run = module.params["dry_run"]
    missing = missing_permissions(arm, [plan for *dummy, plan in plans]) if dry_run else []
    if missing:
        descriptions = ", or for ".join(f"{permission['action']} on {permission['scope']}" for permission in missing)
        module.fail_json(
            msg=f"This identity lacks permission for {descriptions}. Assign the role Network Contributor there, and "
            "wait some minutes until the assignment takes effect.",
            missing_permissions=missing,
        )
    done: list[tuple[Target, dict, Plan]] = []
    for target, nsg, plan in plans:
        if not (module.check_mode or dry_run):
            try:
                plan = carry_out(module, arm, nsg, plan, target)
            except (ArmError, SecurityRuleError) as error:
                finished = [nsg["name"] for dummy, nsg, plan in done if plan.changes]
                if finished:
                    module.fail_json(
                        msg=f"{error} Before that, {', '.join(finished)} was changed. "
                        "Fix the cause, then run the module again.",
                        changed=True,
                        network_security_groups=[described(*target_plan) for target_plan in done],
                    )
                raise
        done.append((target, nsg, plan))
        for move in plan.moved:
            module.warn(
                f"{move.name} has priority {move.assigned} instead of {move.requested}, which "
                f"{move.taken_by} has in {nsg['name']}."
            )
        for name, by in plan.shadowed:
            module.warn(f"{name} of {nsg['name']} is shadowed for some of its traffic: {by}.")
    names = ", ".join(nsg["name"] for dummy, nsg in targets) or "No network security group"
    return {
        "changed": any(plan.changes for *dummy, plan in done) and (module.check_mode or not dry_run),
        "network_security_groups": [described(*target_plan) for target_plan in done],
        "reason": f"{names}. {network.reason}",
        "subnets": describe_subnets(network),
        "unfiltered": list(network.unfiltered),
        "diff": [diff_of(plan) for *dummy, plan in done],
    }


def described(target: Target, nsg: dict, plan: Plan) -> dict:
    return {
        "id": nsg["id"],
        "name": nsg["name"],
        "subnets": list(target.subnet_ids),
        "network_interfaces": list(target.network_interface_ids),
        "created": list(plan.created),
        "updated": [after for dummy, after in plan.updated],
        "removed": [rule["name"] for rule in plan.removed],
        "unchanged": list(plan.unchanged),
        "covered": [{"name": name, "covered_by": by} for name, by in plan.covered],
        "moved": [asdict(move) for move in plan.moved],
        "shadowed": [{"name": name, "shadowed_by": by} for name, by in plan.shadowed],
        "kept": [{"name": name, "reason": reason} for name, reason in plan.kept],
    }


def main() -> None:
    module = arm_module(
        {
            **WORKER_NETWORK_ARGS,
            "rules": {
                "type": "list",
                "elements": "dict",
                "default": DEFAULT_RULES,
                "options": {
                    "name": {"type": "str", "required": True},
                    "priority": {"type": "int", "required": True},
                    "protocol": {
                        "choices": ["Tcp", "Udp", "Icmp", "Esp", "Ah", "*"],
                        "default": "Tcp",
                    },
                    "access": {"choices": ["Allow", "Deny"], "default": "Allow"},
                    "direction": {"choices": ["Inbound", "Outbound"], "default": "Inbound"},
                    "description": {"type": "str"},
                    "source_port_ranges": {**PREFIXES, "default": ["*"]},
                    "destination_port_ranges": {**PREFIXES, "required": True},
                    "source_address_prefixes": PREFIXES,
                    "destination_address_prefixes": PREFIXES,
                    "source_application_security_groups": PREFIXES,
                    "destination_application_security_groups": PREFIXES,
                },
            },
            "on_priority_conflict": {"choices": ["move", "fail"], "default": "move"},
            "priority_range": {"type": "list", "elements": "int", "default": [100, 4096]},
            "on_covered": {"choices": ["skip", "ensure"], "default": "skip"},
            "on_shadowed": {"choices": ["fail", "warn"], "default": "fail"},
            "state": {"choices": ["present", "absent"], "default": "present"},
            "dry_run": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 300},
        },
        required_one_of=ONE_OF_WORKERS,
        mutually_exclusive=AT_MOST_ONE_OF_WORKERS,
    )
    low, *high = module.params["priority_range"]
    if len(high) != 1 or not 100 <= low <= high[0] <= 4096:
        module.fail_json(msg="priority_range is two numbers, the first and the last priority, from 100 to 4096.")
    try:
        result = run(module)
    except (ArmError, SecurityRuleError, WorkerNodesError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
