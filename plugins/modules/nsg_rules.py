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
  - Workers talk to the kata-agent of their peer pods on port 15150 and tunnel the pods' traffic through port 9000;
    rules for these two, from the workers' subnets to the workers' subnets, are the default.
  - Looks at every worker, finds its subnets by its network interfaces, and takes the NSGs that are B(attached) to
    these, not the first of a list.
  - Azure lets the VMs of a virtual network talk to each other unless a rule says no. Where other rules let all of the
    traffic in already nothing is added, and the result says which rules these are; see O(on_covered).
  - Rules that this module adds have a description that begins with C(osc.peerpods:); O(state=absent) removes no others.
options:
  rules:
    description:
      - The rules to have. The names of the options are those of Azure's own properties.
      - Where the workers' subnets have addresses of both families there are two rules of each that leaves the
        addresses to the module, since Azure does not let one rule have both. The second one's name ends in C(-IPv6),
        and it takes the next free priority.
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
        description: The rule's name.
        type: str
        required: true
      priority:
        description: Its priority, from 100 to 4096; rules with a smaller number come first.
        type: int
        required: true
      protocol:
        description:
          - The protocol. Add a rule with V(Udp) for port 9000, or use V(*), where the tunnel is VXLAN over UDP, as it
            is in the upstream cloud-api-adaptor.
        type: str
        choices: [Tcp, Udp, Icmp, Esp, Ah, '*']
        default: Tcp
      access:
        description: Whether it lets traffic pass.
        type: str
        choices: [Allow, Deny]
        default: Allow
      direction:
        description: The direction of the traffic, as the NSG's VMs see it.
        type: str
        choices: [Inbound, Outbound]
        default: Inbound
      description:
        description: What the rule says of itself, after C(osc.peerpods:). Azure takes 140 characters.
        type: str
      source_port_ranges:
        description: The ports that the traffic comes from, each a number, a range such as V(1024-65535), or V(*).
        type: list
        elements: str
        default: ['*']
      destination_port_ranges:
        description: The ports that it goes to.
        type: list
        elements: str
        required: true
      source_address_prefixes:
        description:
          - Where it comes from, each a CIDR, a service tag, or V(*). The default is the address prefixes of all of the
            workers' subnets in the virtual networks that the NSG serves. Without workers it has to be said.
        type: list
        elements: str
      destination_address_prefixes:
        description:
          - Where it goes to. The default is the address prefixes of the workers' subnets that the NSG filters. Without
            workers it has to be said.
        type: list
        elements: str
      source_application_security_groups:
        description: The application security groups that it comes from, by ARM id, instead of addresses.
        type: list
        elements: str
      destination_application_security_groups:
        description: The application security groups that it goes to, by ARM id, instead of addresses.
        type: list
        elements: str
  on_priority_conflict:
    description:
      - What to do where another rule of the same direction has the priority that a new rule is to get.
      - V(move) gives it the next free one of O(priority_range) and says so, V(fail) fails before anything is changed.
    type: str
    choices: [move, fail]
    default: move
  priority_range:
    description:
      - The first and the last priority that a rule may be moved to.
    type: list
    elements: int
    default: [100, 4096]
  on_covered:
    description:
      - What to do with a rule that is not there, where other rules decide in its sense on all of its traffic already
        (C(AllowVnetInBound), which every NSG has, among them).
      - V(skip) leaves it out, V(ensure) adds it.
    type: str
    choices: [skip, ensure]
    default: skip
  on_shadowed:
    description:
      - What to do where a rule with a smaller priority number decides against a rule of ours on some of its traffic,
        so that it would not have the effect that it is there for.
      - V(fail) fails before anything is changed, V(warn) goes on with a warning.
    type: str
    choices: [fail, warn]
    default: fail
  state:
    description:
      - V(present) has the rules, V(absent) removes those of these names that this module added before.
    type: str
    choices: [present, absent]
    default: present
  dry_run:
    description:
      - Change nothing, but ask Azure for each NSG that would be changed whether this identity may make the change, and fail
        where it may not.
      - Also asks in check mode.
      - Azure has no dry run of a change. What is asked for is what the identity's roles let it do on the NSG; a lock, a deny
        assignment, and Azure Policy can still forbid it.
    type: bool
    default: false
  wait_timeout:
    description:
      - How long to wait for Azure to carry out a change, in seconds.
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
  - Takes one request for each resource group that VMs are in, one for each virtual network, and one for each NSG; then, for
    an NSG that has to be changed, one write and the polling of its completion. A single rule is written by itself, several
    are written with the whole NSG, in one request. Both are refused by Azure where somebody else has
    changed the same thing meanwhile (its C(etag)), and are planned anew then.
  - To change rules the identity needs the role Network Contributor, or C(Microsoft.Network/networkSecurityGroups/write) and
    C(.../securityRules/write) (C(.../securityRules/delete) to remove one), beside the right to read.
  - With O(dry_run=true) there is, instead of a write, one more request for each NSG that would be changed. It needs
    C(Microsoft.Authorization/permissions/read), which the role Reader has.
  - With O(dry_run=true) and outside of check mode the result is not changed, since nothing was.
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

- name: Find out where the cluster runs and on what
  osc.peerpods.cluster_info:
  register: cluster

- name: Have the rules even where other rules let the traffic in already
  osc.peerpods.nsg_rules:
    virtual_machines: "{{ cluster.workers | map(attribute='provider_id') }}"
    on_covered: ensure

- name: Open the tunnel for UDP, and keep new rules out of the range that the network team uses
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

- name: Ask whether this identity may add what is missing
  osc.peerpods.nsg_rules:
    virtual_machines: "{{ cluster.workers | map(attribute='provider_id') }}"
    dry_run: true

- name: Remove what was added
  osc.peerpods.nsg_rules:
    nodes: {}
    state: absent
"""

RETURN = r"""
network_security_groups:
  description:
    - What was done to each NSG, and what was found. In check mode and with O(dry_run=true), what would be done.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The NSG's ARM id.
      type: str
      sample: /subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network/networkSecurityGroups/demo-nsg
    name:
      description: Its name.
      type: str
      sample: demo-nsg
    subnets:
      description: The workers' subnets that it is attached to, by ARM id.
      type: list
      elements: str
    network_interfaces:
      description: The workers' network interfaces that it is attached to by themselves, by ARM id.
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
      description: The rules that were changed, as they are now.
      type: list
      elements: dict
    removed:
      description: The names of the rules that were removed.
      type: list
      elements: str
    unchanged:
      description: The names of the rules that were as they should be.
      type: list
      elements: str
    covered:
      description: The rules that were left out, since others decide in their sense already.
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
      description: The rules that got another priority than was asked for.
      type: list
      elements: dict
      contains:
        name:
          description: The rule's name.
          type: str
        wanted:
          description: The priority that was asked for.
          type: int
        given:
          description: The priority that it has.
          type: int
        taken_by:
          description: The name of the rule that has the wanted one.
          type: str
    shadowed:
      description: The rules that others, with a smaller priority number, keep from having all of their effect.
      type: list
      elements: dict
      contains:
        name:
          description: The rule's name.
          type: str
        shadowed_by:
          description: Which rules do so, and for what, as a sentence.
          type: str
    kept:
      description: The rules of these names that O(state=absent) left alone.
      type: list
      elements: dict
      contains:
        name:
          description: The rule's name.
          type: str
        reason:
          description: Why, as a sentence.
          type: str
missing_permissions:
  description: What this identity may not do, though it would have to.
  returned: failure, with O(dry_run=true), where it may not make a change
  type: list
  elements: dict
  contains:
    action:
      description: What it may not do, as Azure's roles call it.
      type: str
      sample: Microsoft.Network/networkSecurityGroups/write
    scope:
      description: The ARM id of the NSG that it may not do it on.
      type: str
      sample: /subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network/networkSecurityGroups/demo-nsg
reason:
  description: Which NSGs were chosen, and why those.
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
    """Do it; the plan that came true, made anew as often as another writer came in between."""
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
        # Writers that met once would meet again.
        time.sleep(random.uniform(0.1, 0.5) * 2**attempt)
        nsg = network_security_group(arm, nsg["id"])
        now = make_plan(module, nsg, target)
        if not now.changes:
            # Our own write, whose answer was lost: what it was to do is done.
            break
        plan = now
    return plan


def write(arm: Arm, nsg: dict, plan: Plan, timeout: float) -> None:
    one = single_change(plan)
    if one is None:
        arm.put(nsg["id"], NETWORK_API_VERSION, apply_to(nsg, plan), nsg["etag"], timeout)
        return
    name, body = one
    rule_id = f"{nsg['id']}/securityRules/{name}"
    known = {rule["name"].lower(): rule for rule in nsg["properties"]["securityRules"]}
    etag = known.get(name.lower(), {}).get("etag")
    if body is None:
        arm.delete(rule_id, NETWORK_API_VERSION, etag, timeout)
    else:
        arm.put(rule_id, NETWORK_API_VERSION, body, etag, timeout)


def missing_permissions(arm: Arm, plans: Iterable[Plan]) -> list[dict]:
    """What this identity would have to be allowed for the plans to come true, and is not."""
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
    # Before any request: what is wrong with the rules is wrong whatever Azure says.
    anywhere = ("10.0.0.0/8", "fd00::/8")
    desired_rules(module.params["rules"], anywhere, anywhere)
    arm = Arm(module)
    network = worker_network(arm, module)
    found = targets_with_groups(arm, network)
    # All plans before the first write: what one NSG refuses must not leave another one changed.
    plans = [(target, nsg, make_plan(module, nsg, target)) for target, nsg in found]
    dry_run = module.params["dry_run"]
    missing = missing_permissions(arm, [plan for *dummy, plan in plans]) if dry_run else []
    if missing:
        may_not = ", nor ".join(f"{one['action']} on {one['scope']}" for one in missing)
        module.fail_json(
            msg=f"This identity may not do {may_not}. Give it the role Network Contributor there, and "
            "wait some minutes until that is in force.",
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
                        msg=f"{error} Before that, {', '.join(finished)} was changed as asked; "
                        "run this again when the reason is gone.",
                        changed=True,
                        network_security_groups=[described(*one) for one in done],
                    )
                raise
        done.append((target, nsg, plan))
        for move in plan.moved:
            module.warn(
                f"{move.name} has priority {move.given} instead of {move.wanted}, which "
                f"{move.taken_by} has in {nsg['name']}."
            )
        for name, by in plan.shadowed:
            module.warn(f"{name} of {nsg['name']} is shadowed for some of its traffic: {by}.")
    names = ", ".join(nsg["name"] for dummy, nsg in found) or "No network security group"
    return {
        "changed": any(plan.changes for *dummy, plan in done) and (module.check_mode or not dry_run),
        "network_security_groups": [described(*one) for one in done],
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
    first, *rest = module.params["priority_range"]
    if len(rest) != 1 or not 100 <= first <= rest[0] <= 4096:
        module.fail_json(msg="priority_range is two numbers, the first and the last priority, from 100 to 4096.")
    try:
        result = run(module)
    except (ArmError, SecurityRuleError, WorkerNodesError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
