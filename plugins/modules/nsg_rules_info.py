#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: nsg_rules_info
version_added: "0.1.0"
short_description: Gather which traffic Azure allows between workers and peer pods, and which rules decide
description:
  - >-
    Reads the network security groups (NSGs) that filter the traffic between workers and the VMs of peer pods, which it
    finds as M(osc.peerpods.nsg_rules) does. Returns for each port which traffic passes, in both directions, and which
    rules decide.
  - >-
    Evaluates rules as Azure does, the smallest priority number first, and for whole address ranges instead of a sample
    address.
options:
  ports:
    description:
      - The destination ports of the traffic.
    type: list
    elements: dict
    default:
      - port: 15150
        to: [vms]
      - port: 9000
      - port: 9000
        protocol: Udp
    suboptions:
      port:
        description: The port, from 0 to 65535.
        type: int
        required: true
      protocol:
        description: The protocol.
        type: str
        choices: [Tcp, Udp, Icmp, Esp, Ah]
        default: Tcp
      to:
        description:
          - >-
            Where the port is. V(vms) is for the traffic from the workers to the VMs of peer pods, V(workers) for that
            from the VMs to the workers.
        type: list
        elements: str
        choices: [vms, workers]
        default: [vms, workers]
  source_address_prefixes:
    description:
      - >-
        The source addresses of the traffic, as CIDRs. Defaults to the address prefixes of the workers, or of the VMs,
        that send it. Required if only O(network_security_groups) is set.
    type: list
    elements: str
  destination_address_prefixes:
    description:
      - >-
        The destination addresses of the traffic, as CIDRs. Defaults to the address prefixes of the VMs, or of the
        workers, that receive it. Required if only O(network_security_groups) is set.
    type: list
    elements: str
extends_documentation_fragment:
  - osc.peerpods.azure
  - osc.peerpods.worker_network
  - osc.peerpods.worker_nodes
  - osc.peerpods.info_module
notes:
  - Takes one request for each resource group that VMs are in, one for each virtual network, and one for each NSG.
  - >-
    The effect of a rule with an application security group depends on the network interfaces in that group, which are
    not read. Such a rule, and a rule for certain source ports only, is returned with C(partly=true).
  - >-
    The service tag VirtualNetwork is evaluated as the virtual network and its connected peers. Addresses that a virtual
    network gateway adds to it are not considered.
seealso:
  - module: osc.peerpods.nsg_rules
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Check whether workers and peer pods can connect to each other
  osc.peerpods.nsg_rules_info:
    nodes: {}
  register: rules

- name: Show the traffic that does not pass, and the rules that deny it
  ansible.builtin.debug:
    msg: "{{ item.port }}/{{ item.protocol }} {{ item.direction }}: {{ item.verdicts }}"
  loop: "{{ rules.flows | rejectattr('passes') }}"

- name: Check the traffic from one address to another
  osc.peerpods.nsg_rules_info:
    nodes: {}
    ports:
      - port: 9000
        protocol: Udp
    source_address_prefixes: [10.0.128.7/32]
    destination_address_prefixes: [10.0.128.9/32]
"""

RETURN = r"""
passes:
  description: Whether all of the traffic passes everywhere.
  returned: success
  type: bool
flows:
  description: >-
    The traffic of each NSG, direction and port. An NSG in several virtual networks has an entry for each of them.
  returned: success
  type: list
  elements: dict
  contains:
    network_security_group:
      description: The ARM id of the NSG.
      type: str
    direction:
      description: V(Inbound) or V(Outbound), from the viewpoint of the VMs behind the NSG.
      type: str
    to:
      description: Where the traffic goes, V(vms) or V(workers), or both if they have the same addresses.
      type: list
      elements: str
    port:
      description: The destination port.
      type: int
    protocol:
      description: The protocol.
      type: str
    passes:
      description: Whether all of this traffic passes.
      type: bool
    verdicts:
      description: The rules that decide, each for a part of the traffic. The parts add up to all of the traffic.
      type: list
      elements: dict
      contains:
        access:
          description: V(Allow) or V(Deny).
          type: str
        rule:
          description: The name of the rule that decides.
          type: str
        priority:
          description: The priority of that rule.
          type: int
        partly:
          description:
            - Whether the rule decides only a part of this traffic that cannot be expressed as addresses.
          type: bool
        source:
          description: The source addresses of this part.
          type: list
          elements: str
        destination:
          description: The destination addresses of this part.
          type: list
          elements: str
  sample:
    - network_security_group: >-
        /subscriptions/0b1f6471-…/resourceGroups/demo-rg/providers/Microsoft.Network/networkSecurityGroups/demo-nsg
      direction: Inbound
      to: [vms, workers]
      port: 9000
      protocol: Tcp
      passes: true
      verdicts:
        - access: Allow
          rule: AllowVnetInBound
          priority: 65000
          partly: false
          source: [10.0.128.0/17]
          destination: [10.0.128.0/17]
network_security_groups:
  description: The NSGs.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The NSG's ARM id.
      type: str
    name:
      description: Its name.
      type: str
    subnets:
      description: The subnets of workers and pod VMs that it is attached to, by ARM id.
      type: list
      elements: str
    network_interfaces:
      description: The workers' network interfaces that it is attached to directly, by ARM id.
      type: list
      elements: str
    rules:
      description: >-
        All rules of the NSG, including Azure's default rules, as Azure returns them, in the order of evaluation.
      type: list
      elements: dict
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
      description: The IPv4 and IPv6 address prefixes of the subnet.
      type: list
      elements: str
      sample: [10.0.128.0/17]
    network_security_group:
      description: The ARM id of the NSG that is attached to the subnet, null without an NSG.
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

from collections.abc import Iterator
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import Arm, ArmError, arm_module
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_attachments import Target
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import (
    DIRECTIONS,
    ENDS,
    Flow,
    decide,
    passes,
    rules_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import SecurityRuleError
from ansible_collections.osc.peerpods.plugins.module_utils._azure.worker_network import (
    AT_MOST_ONE_OF_WORKERS,
    ONE_OF_WORKERS,
    WORKER_NETWORK_ARGS,
    describe_ends,
    targets_with_groups,
    worker_network,
)
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.worker_nodes import WorkerNodesError


def flows_of(params: dict, target: Target) -> Iterator[tuple[list[str], Flow]]:
    """The flows to evaluate for one NSG, each with its receivers: inbound to the resources that it filters, and
    outbound from them."""
    given = tuple(tuple(params[f"{side}_address_prefixes"] or ()) for side in ("source", "destination"))
    for direction in DIRECTIONS:
        for port in params["ports"]:
            ends_of: dict[Flow, list[str]] = {}
            for to in port["to"]:
                paths = [
                    (path.source, path.destination, path.virtual_network)
                    for path in target.paths
                    if (path.direction, path.to) == (direction, to)
                ]
                if not target.paths:
                    paths = [((), (), network) for network in target.virtual_networks or [()]]
                for source, destination, network in paths:
                    ends = given[0] or source, given[1] or destination
                    if not all(ends):
                        raise SecurityRuleError(
                            "Without workers, source_address_prefixes and destination_address_prefixes are required."
                        )
                    ends_of.setdefault(Flow(direction, port["protocol"], port["port"], *ends, network), []).append(to)
            for flow, ends_of_flow in ends_of.items():
                yield ends_of_flow, flow


def run(module: AnsibleModule) -> dict:
    arm = Arm(module)
    network = worker_network(arm, module)
    flows, groups = [], []
    for target, nsg in targets_with_groups(arm, network):
        rules = sorted(
            rules_of(nsg),
            key=lambda rule: (rule["properties"]["direction"], rule["properties"]["priority"]),
        )
        groups.append(
            {
                "id": nsg["id"],
                "name": nsg["name"],
                "subnets": list(target.subnet_ids),
                "network_interfaces": list(target.network_interface_ids),
                "rules": rules,
            }
        )
        for to, flow in flows_of(module.params, target):
            verdicts = decide(flow, rules)
            flows.append(
                {
                    "network_security_group": nsg["id"],
                    "direction": flow.direction,
                    "to": to,
                    "port": flow.port,
                    "protocol": flow.protocol,
                    "passes": passes(verdicts),
                    "verdicts": [asdict(verdict) for verdict in verdicts],
                }
            )
    names = ", ".join(group["name"] for group in groups) or "No network security group"
    return {
        "changed": False,
        "passes": all(flow["passes"] for flow in flows),
        "flows": flows,
        "network_security_groups": groups,
        "reason": f"{names}. {network.reason}",
        **describe_ends(network),
    }


def main() -> None:
    prefixes = {"type": "list", "elements": "str"}
    module = arm_module(
        {
            **WORKER_NETWORK_ARGS,
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [{"port": 15150, "to": ["vms"]}, {"port": 9000}, {"port": 9000, "protocol": "Udp"}],
                "options": {
                    "port": {"type": "int", "required": True},
                    "protocol": {
                        "choices": ["Tcp", "Udp", "Icmp", "Esp", "Ah"],
                        "default": "Tcp",
                    },
                    "to": {"type": "list", "elements": "str", "choices": list(ENDS), "default": list(ENDS)},
                },
            },
            "source_address_prefixes": prefixes,
            "destination_address_prefixes": prefixes,
        },
        required_one_of=[ONE_OF_WORKERS],
        mutually_exclusive=AT_MOST_ONE_OF_WORKERS,
    )
    try:
        result = run(module)
    except (ArmError, SecurityRuleError, WorkerNodesError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
