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
  - >-
    Ensures a set of security rules on the network security groups (NSGs) that filter the traffic between workers and
    the VMs of peer pods.
  - >-
    Workers connect to the kata-agent of their peer pods on port 15150. Port 9000 is the tunnel for the traffic of the
    pods, and both ends send to it. By default, the module manages rules for these two ports.
  - >-
    The tunnel is VXLAN over UDP, so port 9000 has a rule for UDP. The documented procedure has a rule for TCP, which is
    managed as well, with the same name and priority.
  - >-
    Finds the subnets of all workers by their network interfaces, and manages the NSGs that are B(attached) to these
    subnets and interfaces. By default, the VMs of peer pods are in the workers' subnets; see O(vm_subnets).
  - >-
    The destination of the traffic must allow it inbound, and its source outbound. If an NSG denies the other direction
    of a rule, a rule for that direction is added, with C(-Outbound) (or C(-Inbound)) in its name.
  - >-
    By default, Azure allows traffic between the VMs of a virtual network. If other rules allow all of the traffic
    already, no rule is added, and RV(network_security_groups[].covered) names these rules; see O(on_covered).
  - >-
    Several clusters can share an NSG. Each has rules of its own, with O(cluster_name) in their names and a description
    that begins with C(osc.peerpods) and O(cluster_id). Rules without this description are never changed or removed,
    also if they have the name of a rule. The rules of other clusters do not replace those of this cluster, since they
    are removed with the other cluster.
options:
  cluster_name:
    description:
      - >-
        The infrastructure name of the cluster, as RV(osc.peerpods.cluster_info#module:infrastructure_name). The names
        of the rules end with it.
    type: str
    required: true
  cluster_id:
    description:
      - >-
        The id of the cluster, as RV(osc.peerpods.cluster_info#module:cluster_id). The descriptions of the rules have
        it, which identifies the rules of the cluster.
    type: str
    required: true
  rules:
    description:
      - The security rules. The names of the options are those of the properties in Azure.
      - >-
        Azure does not allow IPv4 and IPv6 addresses in one rule. If the subnets have both and a rule sets no addresses,
        the module manages two rules, the second with C(-IPv6) in its name.
      - >-
        If workers and the VMs of peer pods are in different subnets and a rule sets no addresses, the module manages a
        rule for the traffic to the VMs, and one for the traffic to the workers, with C(-To-Workers) in its name; see
        O(rules[].to).
      - The first rule of an entry has the requested priority. The others get the next free priorities.
      - With O(state=absent), only the names are used, for RV(network_security_groups[].kept).
    type: list
    elements: dict
    default:
      - name: Allow-Kata-Agent-Internal
        priority: 112
        protocol: Tcp
        destination_port_ranges: ["15150"]
        to: [vms]
      - name: Allow-VXLAN-Internal
        priority: 111
        protocol: Tcp
        destination_port_ranges: ["9000"]
      - name: Allow-VXLAN-UDP-Internal
        priority: 110
        protocol: Udp
        destination_port_ranges: ["9000"]
    suboptions:
      name:
        description:
          - >-
            The name of the rule, to which C(-) and O(cluster_name) are appended. If another rule has that name, C(-2)
            is appended as well; see also O(purge_rules).
        type: str
        required: true
      priority:
        description: The priority of the rule, from 100 to 4096. Rules with smaller numbers are evaluated first.
        type: int
        required: true
      to:
        description:
          - >-
            Where the ports are. V(vms) is for the traffic from the workers to the VMs of peer pods, V(workers) for that
            from the VMs to the workers.
          - If workers and VMs have the same addresses, one rule is for both.
        type: list
        elements: str
        choices: [vms, workers]
        default: [vms, workers]
      protocol:
        description:
          - The protocol.
        type: str
        choices: [Tcp, Udp, Icmp, Esp, Ah, '*']
        default: Tcp
      access:
        description: Whether the rule allows or denies the traffic.
        type: str
        choices: [Allow, Deny]
        default: Allow
      direction:
        description:
          - The direction of the traffic, from the viewpoint of the VMs behind the NSG.
          - >-
            Rules that allow traffic and set no addresses are added in the other direction as well, if other rules deny
            the traffic there.
        type: str
        choices: [Inbound, Outbound]
        default: Inbound
      description:
        description: >-
          The description of the rule, after C(osc.peerpods) and O(cluster_id). Azure allows 140 characters in total.
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
          - >-
            The source addresses, each a CIDR, a service tag, or V(*). Defaults to the address prefixes of the workers,
            or of the VMs of peer pods, that send this traffic. Required if only O(network_security_groups) is set.
        type: list
        elements: str
      destination_address_prefixes:
        description:
          - >-
            The destination addresses, each a CIDR, a service tag, or V(*). Defaults to the address prefixes of the VMs
            of peer pods, or of the workers, that receive this traffic. Required if only O(network_security_groups) is
            set.
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
      - >-
        What to do if another rule of the same direction has the priority of a new rule, such as a rule of another
        cluster.
      - >-
        V(move) assigns the next free priority in O(priority_range) and issues a warning. V(fail) fails before anything
        is changed, unless the other rule is one of this cluster that stays; see O(purge_rules).
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
      - >-
        What to do with a rule that does not exist yet if other rules, such as C(AllowVnetInBound) of every NSG, already
        decide all of its traffic in the same way. Rules of other clusters that this module added do not count.
      - V(skip) leaves the rule out. V(ensure) adds it, but not its counterpart in the other direction.
    type: str
    choices: [skip, ensure]
    default: skip
  on_shadowed:
    description:
      - >-
        What to do if an unmanaged rule with a smaller priority number decides some traffic of a managed rule
        differently, so that the managed rule does not have its full effect.
      - V(fail) fails before anything is changed. V(warn) issues a warning and continues.
    type: str
    choices: [fail, warn]
    default: fail
  purge_rules:
    description:
      - >-
        Whether O(state=present) removes traffic that O(rules) does not contain any more, such as a former port, from
        the rules of the cluster in these NSGs. Peer pods that still use it would lose their network.
      - >-
        If V(false), nothing that a rule of the cluster allows is closed. A rule that is not in O(rules) any more, or
        that would lose a part of its traffic, stays as it is, and is returned in
        RV(network_security_groups[].unused), with a warning. The changed rule is added with C(-2) at the end of its
        name, and with the next free priority if the other one has its priority, unless other rules allow its traffic
        already. A rule whose traffic is requested, and which another one allows, stays without a warning.
      - If V(true), there is one rule for each name again, with the requested priority.
    type: bool
    default: false
  state:
    description:
      - V(present) ensures that the rules exist.
      - >-
        V(absent) removes all rules of the cluster, whatever their names, from all NSGs that this identity can read in
        the subscriptions of the other options and in O(subscription_id). Workers, subnets and their NSGs need not exist
        any more.
    type: str
    choices: [present, absent]
    default: present
  dry_run:
    description:
      - >-
        Change nothing, but check for each NSG that would be changed whether the identity has the permission for the
        change, and fail if it does not.
      - The check is also made in check mode.
      - >-
        Azure has no dry run of a change. The permissions that the identity's roles grant on the NSG are checked; a
        lock, a deny assignment or Azure Policy can still reject the change.
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
  - >-
    Takes one request for each resource group with VMs of workers, one for each virtual network, and one for each NSG;
    with O(state=absent), one for each subscription. For each NSG to change, it takes one write and the polling of its
    completion. A single rule is written by itself, several rules with the whole NSG in one request. If another client
    has changed the rule or the NSG meanwhile (its C(etag)), or has replaced the operation (C(Canceled)), the module
    reads and plans again.
  - >-
    If a request fails, the module reads the NSG again, so that the result of the failure has all changes that were
    made.
  - O(state=absent) needs C(Microsoft.Network/networkSecurityGroups/read) on the subscription, as in the role Reader.
  - >-
    To change rules, the identity needs the role Network Contributor, or
    C(Microsoft.Network/networkSecurityGroups/write) and C(.../securityRules/write) (C(.../securityRules/delete) to
    remove a rule), in addition to the permission to read.
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
- name: Gather the workers of the cluster
  osc.peerpods.cluster_info:
  register: cluster

- name: Open 15150 and 9000 between all workers of the cluster
  osc.peerpods.nsg_rules: &rules
    cluster_name: "{{ cluster.infrastructure_name }}"
    cluster_id: "{{ cluster.cluster_id }}"
    virtual_machines: "{{ cluster.workers | map(attribute='provider_id') }}"

- name: Open the ports between the workers and pod VMs in a subnet of their own
  osc.peerpods.nsg_rules:
    <<: *rules
    vm_subnets:
      - "{{ network }}/virtualNetworks/demo-vnet/subnets/pod-vms"

- name: Add the rules even if other rules allow the traffic already
  osc.peerpods.nsg_rules:
    <<: *rules
    on_covered: ensure

- name: Open the tunnel for UDP only, with priorities outside of the range of the network team
  osc.peerpods.nsg_rules:
    <<: *rules
    rules:
      - name: Allow-Kata-Agent-Internal
        priority: 2112
        destination_port_ranges: ["15150"]
        to: [vms]
      - name: Allow-VXLAN-Internal
        priority: 2111
        protocol: Udp
        destination_port_ranges: ["9000"]
    priority_range: [2000, 2999]

- name: Check whether this identity has the permission to add the rules
  osc.peerpods.nsg_rules:
    <<: *rules
    dry_run: true

- name: Remove the rules of the cluster
  osc.peerpods.nsg_rules:
    cluster_name: "{{ cluster.infrastructure_name }}"
    cluster_id: "{{ cluster.cluster_id }}"
    subscription_id: "{{ cluster.subscription_id }}"
    state: absent
"""

RETURN = r"""
network_security_groups:
  description:
    - >-
      The NSGs, with the changes and the state of their rules. In check mode and with O(dry_run=true), the changes that
      would be made.
    - After a failed request, the NSGs up to the one that failed, with the changes that were made.
    - With O(state=absent), the NSGs that have rules of the cluster.
  returned: success, and if a change failed
  type: list
  elements: dict
  contains:
    id:
      description: The ARM id of the NSG.
      type: str
      sample: >-
        /subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network/networkSecurityGroups/demo-nsg
    name:
      description: The name of the NSG.
      type: str
      sample: demo-nsg
    subnets:
      description: The subnets of workers and pod VMs that it is attached to, by ARM id.
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
        - name: Allow-VXLAN-Internal-demo-x7k2p
          properties:
            priority: 111
            direction: Inbound
            access: Allow
            protocol: Tcp
            sourcePortRange: '*'
            sourceAddressPrefix: 10.0.128.0/17
            destinationPortRange: '9000'
            destinationAddressPrefix: 10.0.128.0/17
            description: >-
              osc.peerpods 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11: port 9000/tcp between workers and peer pods
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
      description: >-
        The rules that do not have their full effect because of unmanaged rules with smaller priority numbers.
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
      description: >-
        The rules with the names in O(rules), with and without O(cluster_name), that are not rules of this cluster.
      type: list
      elements: dict
      contains:
        name:
          description: The rule's name.
          type: str
        reason:
          description: The reason, as a sentence.
          type: str
    unused:
      description: >-
        The names of rules of this cluster that stay although O(rules) does not contain them, or not all of their
        traffic; see O(purge_rules). A rule whose traffic another one of O(rules) allows is not named.
      type: list
      elements: str
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
      sample: >-
        /subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network/networkSecurityGroups/demo-nsg
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
vm_subnets:
  description: The subnets of the VMs of peer pods, with the same keys as RV(subnets).
  returned: success
  type: list
  elements: dict
vm_network_security_group:
  description: >-
    The ARM id of the NSG of the VMs' network interfaces, see O(vm_network_security_groups). Null without an NSG.
  returned: success
  type: str
unfiltered:
  description: A sentence for each subnet or network interface that no NSG filters, where all traffic passes.
  returned: success
  type: list
  elements: str
unconnected:
  description: A sentence for each virtual network of O(vm_subnets) that is not peered with one of the workers.
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
    SUPERSEDED,
    Arm,
    ArmError,
    arm_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_attachments import Target
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import DIRECTIONS, ENDS
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import (
    Owner,
    Plan,
    SecurityRuleError,
    apply_to,
    changes_between,
    describe_rule,
    desired_rules,
    diff_of,
    needed_action,
    plan_absent,
    plan_present,
    single_change,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import PERMISSIONS_API_VERSION, granted
from ansible_collections.osc.peerpods.plugins.module_utils._azure.worker_network import (
    ANYWHERE,
    AT_MOST_ONE_OF_WORKERS,
    ONE_OF_WORKERS,
    WORKER_NETWORK_ARGS,
    describe_ends,
    groups_of_subscriptions,
    network_security_group,
    targets_with_groups,
    worker_network,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.worker_nodes import WorkerNodesError
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

PREFIXES = {"type": "list", "elements": "str"}
DEFAULT_RULES = [
    {
        "name": "Allow-Kata-Agent-Internal",
        "priority": 112,
        "protocol": "Tcp",
        "destination_port_ranges": ["15150"],
        "to": ["vms"],
    },
    {
        "name": "Allow-VXLAN-Internal",
        "priority": 111,
        "protocol": "Tcp",
        "destination_port_ranges": ["9000"],
    },
    {
        "name": "Allow-VXLAN-UDP-Internal",
        "priority": 110,
        "protocol": "Udp",
        "destination_port_ranges": ["9000"],
    },
]


def owner_of(module: AnsibleModule) -> Owner:
    return Owner(module.params["cluster_name"], module.params["cluster_id"])


def make_plan(module: AnsibleModule, nsg: dict, target: Target) -> Plan:
    params, owner = module.params, owner_of(module)
    if params["state"] == "absent":
        return plan_absent(nsg, [rule["name"] for rule in params["rules"]], owner)
    return plan_present(
        nsg,
        desired_rules(params["rules"], target.paths, target.virtual_networks, owner),
        owner,
        on_priority_conflict=params["on_priority_conflict"],
        priority_range=tuple(params["priority_range"]),
        on_covered=params["on_covered"],
        on_shadowed=params["on_shadowed"],
        purge_rules=params["purge_rules"],
    )


def carry_out(module: AnsibleModule, arm: Arm, nsg: dict, plan: Plan, target: Target) -> Plan:
    """Apply the plan and return it with all changes; after a conflict with another client, plan again."""
    before = nsg
    for attempt in range(CONFLICT_RETRIES + 1):
        try:
            if plan.changes:
                write(arm, nsg, plan, module.params["wait_timeout"])
            break
        except ArmError as error:
            codes = {"SecurityRuleConflict", SUPERSEDED, *LATER}.intersection(error.codes)
            if attempt == CONFLICT_RETRIES or not (codes or error.status == 412):
                raise
        # The pause is random, so that two clients do not collide again.
        time.sleep(random.uniform(0.1, 0.5) * 2**attempt)
        nsg = network_security_group(arm, nsg["id"])
        plan = make_plan(module, nsg, target)
    # An earlier attempt may have changed rules, although it failed or its response was lost.
    return plan if nsg is before else changes_between(plan, before, apply_to(nsg, plan), owner_of(module))


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
        # A rule that another client has created meanwhile is planned again, under another name.
        arm.put(rule_id, NETWORK_API_VERSION, body, etag, timeout, is_new=name.lower() not in rules)


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


def selected_groups(module: AnsibleModule, arm: Arm) -> tuple[list[tuple[Target, dict]], dict]:
    """The groups to plan, and the return values about their selection."""
    if module.params["state"] == "present":
        network = worker_network(arm, module)
        targets = targets_with_groups(arm, network)
        names = ", ".join(nsg["name"] for dummy, nsg in targets) or "No network security group"
        return targets, {"reason": f"{names}. {network.reason}", **describe_ends(network)}
    groups, subscriptions = groups_of_subscriptions(arm, module)
    targets = [(Target(nsg["id"], (), (), (), ()), nsg) for nsg in groups]
    concerned = [
        (target, nsg) for target, nsg in targets if (plan := make_plan(module, nsg, target)).changes or plan.kept
    ]
    names = ", ".join(nsg["name"] for dummy, nsg in concerned) or "None"
    cluster, where = module.params["cluster_name"], ", ".join(subscriptions)
    reason = f"{names} of {len(groups)} readable in {where}. Those with rules of the cluster {cluster}."
    nothing: dict = {
        "subnets": [],
        "vm_subnets": [],
        "vm_network_security_group": None,
        "unfiltered": [],
        "unconnected": [],
    }
    return concerned, {"reason": reason, **nothing}


def run(module: AnsibleModule) -> dict:
    params, owner = module.params, owner_of(module)
    # Invalid rules fail before the first request.
    desired_rules(params["rules"], ANYWHERE, (), owner)
    arm = Arm(module)
    targets, selection = selected_groups(module, arm)
    # All plans are made before the first write, so that an error in one plan leaves all NSGs unchanged.
    plans = [(target, nsg, make_plan(module, nsg, target)) for target, nsg in targets]
    dry_run = params["dry_run"]
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
                fail_after_changes(module, arm, error, done, (target, nsg, plan))
        done.append((target, nsg, plan))
        for move in plan.moved:
            module.warn(
                f"{move.name} has priority {move.assigned} instead of {move.requested}, which "
                f"{move.taken_by} has in {nsg['name']}."
            )
        for name, by in plan.shadowed:
            module.warn(f"{name} of {nsg['name']} is shadowed for some of its traffic: {by}.")
        own_names = {rule["name"].lower() for rule in nsg["properties"].get("securityRules") or () if owner.owns(rule)}
        for name, instead in plan.renamed:
            if name.lower() in own_names:
                continue
            module.warn(
                f"{name} of {nsg['name']} is not a rule of this cluster and stays as it is. The rule of this cluster "
                f"is {instead}."
            )
        if plan.unused and not dry_run:
            rules = join_names([describe_rule(rule) for rule in plan.unused])
            module.warn(
                f"Rules of this cluster in {nsg['name']} stay although their traffic is not requested: {rules}. If no "
                "running peer pod uses them any more, set purge_rules to true."
            )
    return {
        "changed": any(plan.changes for *dummy, plan in done) and (module.check_mode or not dry_run),
        **results(done),
        **selection,
    }


def fail_after_changes(
    module: AnsibleModule,
    arm: Arm,
    error: Exception,
    done: list[tuple[Target, dict, Plan]],
    failed: tuple[Target, dict, Plan],
) -> None:
    """Fail with the changes that were made, also those by the request that failed: its response may be lost."""
    target, nsg, plan = failed
    unread, owner = "", owner_of(module)
    try:
        changed = changes_between(plan, nsg, network_security_group(arm, nsg["id"]), owner)
    except (ArmError, SecurityRuleError) as read_error:
        changed = changes_between(plan, nsg, nsg, owner)
        # A request that was rejected has changed nothing.
        if isinstance(error, ArmError) and not 400 <= (error.status or 0) < 500:
            unread = f" Whether {nsg['name']} was changed is unknown: {read_error}"
    done = [*done, (target, nsg, changed)]
    names = [nsg["name"] for dummy, nsg, plan in done if plan.changes]
    made = f" Changes were made in {', '.join(names)}. Fix the cause, then run the module again." if names else ""
    module.fail_json(msg=f"{error}{made}{unread}", changed=bool(names or unread), **results(done))


def results(done: list[tuple[Target, dict, Plan]]) -> dict:
    return {
        "network_security_groups": [described(*target_plan) for target_plan in done],
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
        "unused": [rule["name"] for rule in plan.unused],
    }


def main() -> None:
    module = arm_module(
        {
            **WORKER_NETWORK_ARGS,
            "cluster_name": {"type": "str", "required": True},
            "cluster_id": {"type": "str", "required": True},
            "rules": {
                "type": "list",
                "elements": "dict",
                "default": DEFAULT_RULES,
                "options": {
                    "name": {"type": "str", "required": True},
                    "priority": {"type": "int", "required": True},
                    "to": {"type": "list", "elements": "str", "choices": list(ENDS), "default": list(ENDS)},
                    "protocol": {
                        "choices": ["Tcp", "Udp", "Icmp", "Esp", "Ah", "*"],
                        "default": "Tcp",
                    },
                    "access": {"choices": ["Allow", "Deny"], "default": "Allow"},
                    "direction": {"choices": list(DIRECTIONS), "default": "Inbound"},
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
            "purge_rules": {"type": "bool", "default": False},
            "state": {"choices": ["present", "absent"], "default": "present"},
            "dry_run": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 300},
        },
        required_if=[("state", "present", ONE_OF_WORKERS, True)],
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
