#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_nat_gateway
version_added: "0.1.0"
short_description: Manage a NAT gateway for the subnet of peer pods on Azure
description:
  - >-
    The VM of a peer pod pulls images itself. It has no public IP address, and is not in the load balancer of the
    cluster. In a subnet without default outbound access, it needs a NAT gateway or a route to a firewall.
  - >-
    Creates a public IP address (Standard, static) and a NAT gateway (Standard), and attaches the NAT gateway to the
    subnet, in the region of its virtual network. This is the end state of the documented procedure.
  - >-
    Changes nothing if the subnet has a NAT gateway, or a route table that sends C(0.0.0.0/0) to a virtual appliance or
    a virtual network gateway, or drops it. A NAT gateway or a route table is never replaced. RV(reason) names what was
    found. A NAT gateway of the SKU StandardV2 that is attached to the whole virtual network is not found.
  - >-
    A NAT gateway applies to all VMs of the subnet. If these are the workers as well, their connections to the internet
    get its address, instead of that of the load balancer of the cluster.
  - >-
    A Standard NAT gateway is in one zone, O(zone) or the one that Azure chooses. VMs of all zones use it, so without
    this zone they do not reach the internet.
  - >-
    Tags mark the resources of this module. If the NAT gateway of the subnet was created for another cluster, it gets a
    tag of this cluster as well, and is removed with the last of them.
options:
  cluster_name:
    description:
      - The infrastructure name of the cluster, as RV(osc.peerpods.cluster_info#module:infrastructure_name).
    type: str
    required: true
  cluster_id:
    description:
      - >-
        The id of the cluster, as RV(osc.peerpods.cluster_info#module:cluster_id). The tag C(osc.peerpods.cluster.ID)
        identifies the resources of the cluster.
    type: str
    required: true
  subnet:
    description:
      - The ARM id of the subnet of the VMs. Required with O(state=present).
      - With O(state=absent), it only names a subscription, in addition to O(subscription_id).
    type: str
  name:
    description:
      - >-
        The name of the NAT gateway, in the resource group of the virtual network. The name of its public IP address
        ends with C(-ip). Defaults to O(cluster_name) with C(-peer-pods-nat).
    type: str
  zone:
    description:
      - >-
        The availability zone of a new NAT gateway and of its address. If it is not set, Azure chooses a zone. It cannot
        be changed later.
    type: str
    choices: ['1', '2', '3']
  tags:
    description:
      - Tags of new resources, in addition to those of this module.
    type: dict
    default: {}
  state:
    description:
      - V(present) gives the subnet a NAT gateway if it has no way to the internet of its own.
      - >-
        V(absent) detaches and removes the NAT gateways and public IP addresses of the cluster, whatever their names,
        from all subnets and resource groups that this identity can read in the subscriptions. A NAT gateway that
        another cluster uses, or that another client attached to further subnets, stays; see RV(kept). So does one
        whose subnets have network interfaces or load balancers with names that do not begin with O(cluster_name).
    type: str
    choices: [present, absent]
    default: present
  dry_run:
    description:
      - >-
        Change nothing, but check whether the identity has the permissions for the changes, and fail if it does not. The
        check is also made in check mode.
      - A lock, a deny assignment or Azure Policy can still reject the changes.
    type: bool
    default: false
  wait_timeout:
    description:
      - How many seconds to wait until Azure completes a change.
    type: int
    default: 300
extends_documentation_fragment:
  - osc.peerpods.azure
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
    O(state=present) takes one request for the virtual network and one for the NAT gateway or the route table of the
    subnet. If the subnet has neither, one for each resource with the requested name, and one for the quota, which is
    checked before the first change. O(state=absent) takes two requests for each subscription, and one for each subnet.
  - >-
    The subnet is written with its C(etag). If another client has changed it meanwhile, the module reads and plans
    again. New resources are written with C(If-None-Match: *) and then read, since Azure does not document this
    condition for them.
  - >-
    The last cluster that uses a NAT gateway marks its tag with C(leaving:) before it removes the NAT gateway. Another
    cluster does not begin to use it from then on, and fails.
  - >-
    To change resources, the identity needs the role Network Contributor on the resource group of the virtual network,
    or C(Microsoft.Network/publicIPAddresses/write), C(Microsoft.Network/publicIPAddresses/delete),
    C(Microsoft.Network/publicIPAddresses/join/action), C(Microsoft.Network/natGateways/write),
    C(Microsoft.Network/natGateways/delete), C(Microsoft.Network/natGateways/join/action),
    C(Microsoft.Network/virtualNetworks/subnets/write), and, for what the subnet refers to,
    C(Microsoft.Network/networkSecurityGroups/join/action) and C(Microsoft.Network/routeTables/join/action). To read, it
    needs C(Microsoft.Network/virtualNetworks/read), C(Microsoft.Network/virtualNetworks/subnets/read),
    C(Microsoft.Network/natGateways/read), C(Microsoft.Network/publicIPAddresses/read),
    C(Microsoft.Network/routeTables/read) and C(Microsoft.Network/locations/usages/read).
  - With O(dry_run=true) and outside of check mode, C(changed) is V(false), because nothing is changed.
  - Azure bills a NAT gateway by the hour and by the traffic, and its public IP address by the hour.
seealso:
  - module: osc.peerpods.azure_subnet_network_info
  - module: azure.azcollection.azure_rm_natgateway
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather the workers of the cluster
  osc.peerpods.cluster_info:
  register: cluster

- name: Give the subnet of peer pods a NAT gateway
  osc.peerpods.azure_nat_gateway: &gateway
    cluster_name: "{{ cluster.infrastructure_name }}"
    cluster_id: "{{ cluster.cluster_id }}"
    subnet: "{{ network }}/virtualNetworks/demo-vnet/subnets/demo-worker-subnet"
  register: nat

- name: Show the address that a registry must allow
  ansible.builtin.debug:
    msg: "{{ nat.public_ip_addresses | join(', ') }}. {{ nat.reason }}"

- name: Check whether this identity has the permissions
  osc.peerpods.azure_nat_gateway:
    <<: *gateway
    dry_run: true

- name: Remove the NAT gateways of the cluster
  osc.peerpods.azure_nat_gateway:
    cluster_name: "{{ cluster.infrastructure_name }}"
    cluster_id: "{{ cluster.cluster_id }}"
    subscription_id: "{{ cluster.subscription_id }}"
    state: absent
"""

RETURN = r"""
reason:
  description: What was found, and the reason for the changes or for no change, as a sentence.
  returned: success
  type: str
  sample: demo-worker-subnet had no NAT gateway and no route to elsewhere.
nat_gateway:
  description: The ARM id of the NAT gateway of the subnet, or null.
  returned: success
  type: str
  sample: "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Network\
    /natGateways/demo-x7k2p-peer-pods-nat"
public_ip_addresses:
  description: The addresses from which the VMs reach the internet, if this module created them.
  returned: success, except in check mode before they exist
  type: list
  elements: str
  sample: [198.51.100.7]
changes:
  description:
    - The changes, in order. In check mode and with O(dry_run=true), those that would be made.
    - If the module fails after it changed something, those that were made.
  returned: success, or if something was changed
  type: list
  elements: dict
  contains:
    change:
      description: >-
        V(created), V(attached) to the subnet, V(recorded) another subnet in the tags, V(shared) with another cluster;
        with O(state=absent) V(marked) as being removed, V(detached), V(removed), V(released) to other clusters.
      type: str
      sample: created
    id:
      description: The ARM id of the resource.
      type: str
kept:
  description: With O(state=absent), the resources of the cluster that stay, each with the reason.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The ARM id of the resource.
      type: str
    reason:
      description: The reason, as a sentence.
      type: str
missing_permissions:
  description: With O(dry_run=true), the actions that the identity lacks, each with its scope.
  returned: if a permission is missing
  type: list
  elements: dict
"""

import random
import time
from collections.abc import Sequence

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
from ansible_collections.osc.peerpods.plugins.module_utils._azure.egress import reference
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nat_gateway import (
    Found,
    NatGatewayError,
    Owner,
    Plan,
    Request,
    Step,
    clusters_of,
    group_of,
    is_decided,
    network_of_subnet,
    plan_absent,
    plan_present,
    quota_reached,
    subscriptions_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import PERMISSIONS_API_VERSION, granted


def read_present(arm: Arm, subnet_id: str, request: Request, *, has_created: bool) -> Found:
    network = arm.get(network_of_subnet(subnet_id), NETWORK_API_VERSION)
    subnets = network["properties"]["subnets"] if network else ()
    subnet = next((subnet for subnet in subnets if subnet["id"].lower() == subnet_id.lower()), None)
    if network is None or subnet is None:
        raise NatGatewayError(f"Azure has no subnet {subnet_id}. Check the id, and that these credentials may read it.")

    def get(resource_id: str | None) -> dict | None:
        return arm.get(resource_id, NETWORK_API_VERSION) if resource_id else None

    attached = get(reference(subnet, "natGateway"))
    found = Found(network, subnet, attached, None if attached else get(reference(subnet, "routeTable")))
    is_own = attached is not None and attached["id"].lower() == request.gateway_id.lower()
    # Then what this cluster has created is not used.
    has_others = has_created or bool(attached and clusters_of(attached))
    if is_decided(found) and (is_own or not has_others):
        return found
    return Found(network, subnet, attached, found.route_table, get(request.gateway_id), get(request.address_id))


def request_of(module: AnsibleModule) -> Request:
    params = module.params
    name = params["name"] or f"{params['cluster_name']}-peer-pods-nat"
    subnet_id = params["subnet"].rstrip("/")
    network_of_subnet(subnet_id)
    provider = f"{group_of(subnet_id)}/providers/Microsoft.Network"
    return Request(
        Owner(params["cluster_name"], params["cluster_id"]),
        f"{provider}/natGateways/{name}",
        f"{provider}/publicIPAddresses/{name}-ip",
        params["zone"] or "",
        {str(key): str(value) for key, value in params["tags"].items()},
    )


def make_plan(module: AnsibleModule, arm: Arm, *, has_created: bool = False) -> Plan:
    params = module.params
    if params["state"] == "present":
        request = request_of(module)
        found = read_present(arm, params["subnet"].rstrip("/"), request, has_created=has_created)
        plan = plan_present(found, request)
        if any(step.change == "created" for step in plan.steps):
            check_quota(arm, found.network["location"], plan)
        return plan
    owner = Owner(params["cluster_name"], params["cluster_id"])
    gateways, addresses = (
        [
            resource
            for subscription in subscriptions_of(params["subnet"], arm.subscription_id)
            for resource in arm.list(
                f"/subscriptions/{subscription}/providers/Microsoft.Network/{kind}", NETWORK_API_VERSION
            )
        ]
        for kind in ("natGateways", "publicIPAddresses")
    )
    attached = [
        linked["id"]
        for gateway in gateways
        if owner.is_owner_of(gateway)
        for linked in gateway["properties"].get("subnets") or ()
    ]
    subnets = {id_.lower(): arm.get(id_, NETWORK_API_VERSION) for id_ in attached}
    return plan_absent(gateways, addresses, {id_: subnet for id_, subnet in subnets.items() if subnet}, owner)


def check_quota(arm: Arm, location: str, plan: Plan) -> None:
    """Fail before the first change if the quota is reached. Without the permission to read it, Azure decides later."""
    subscription = plan.steps[0].resource_id.split("/")[2]
    path = f"/subscriptions/{subscription}/providers/Microsoft.Network/locations/{location}/usages"
    try:
        usages = list(arm.list(path, NETWORK_API_VERSION))
    except ArmError as error:
        if error.status != 403:
            raise
        return
    if reached := quota_reached(usages, location, plan):
        raise NatGatewayError(reached)


def check_permissions(module: AnsibleModule, arm: Arm, plan: Plan) -> None:
    """Fail if the identity lacks permissions for the plan. Takes one request for each scope."""
    actions = list(dict.fromkeys(pair for step in plan.steps for pair in step.actions()))
    permissions = {
        scope: list(arm.list(f"{scope}/providers/Microsoft.Authorization/permissions", PERMISSIONS_API_VERSION))
        for scope in {scope for dummy, scope in actions}
    }
    missing = [
        {"action": action, "scope": scope} for action, scope in actions if not granted(action, permissions[scope])
    ]
    if missing:
        descriptions = ", or for ".join(f"{permission['action']} on {permission['scope']}" for permission in missing)
        module.fail_json(
            msg=f"This identity lacks permission for {descriptions}. Assign the role Network Contributor there, and "
            "wait some minutes until the assignment takes effect.",
            missing_permissions=missing,
        )


def carry_out(module: AnsibleModule, arm: Arm, plan: Plan) -> tuple[Plan, list[Step]]:
    """Carry out the plan, and plan again after a conflict with another client; returns the plan and the steps."""
    done: list[Step] = []
    timeout = module.params["wait_timeout"]
    attempt = 0
    while remaining := [step for step in plan.steps if step not in done]:
        step = remaining[0]
        try:
            if step.body is None:
                arm.delete(step.resource_id, NETWORK_API_VERSION, step.etag, timeout)
            else:
                is_new = step.change == "created"
                arm.put(step.resource_id, NETWORK_API_VERSION, step.body, step.etag, timeout, is_new=is_new)
                if is_new and not step.is_done(arm.get(step.resource_id, NETWORK_API_VERSION)):
                    fail_after_changes(
                        module,
                        plan,
                        done,
                        f"Another client has written {step.resource_id} at the same time: it does not have the tags of "
                        "this cluster. Set name to another name.",
                    )
            done.append(step)
            continue
        except ArmError as error:
            is_conflict = error.status == 412 or bool({SUPERSEDED, *LATER}.intersection(error.codes))
            # The response may be lost, or the operation may have failed after it took effect.
            is_done, unread = outcome_of(arm, step, error)
            if is_done:
                done.append(step)
            if attempt == CONFLICT_RETRIES or not is_conflict:
                fail_after_changes(module, plan, done, f"{error}{unread}", is_known=not unread)
        attempt += 1
        # The pause is random, so that two clients do not collide again.
        time.sleep(random.uniform(0.1, 0.5) * 2**attempt)
        try:
            plan = make_plan(module, arm, has_created=bool(done))
        except (ArmError, NatGatewayError) as error:
            fail_after_changes(module, plan, done, str(error))
    return plan, done


def outcome_of(arm: Arm, step: Step, error: ArmError) -> tuple[bool, str]:
    """Whether a failed step took effect, or a sentence if that cannot be found out."""
    try:
        return step.is_done(arm.get(step.resource_id, NETWORK_API_VERSION)), ""
    except ArmError as unread:
        # A request that was rejected has changed nothing.
        if 400 <= (error.status or 0) < 500:
            return False, ""
        return False, f" Whether {step.resource_id} was changed is unknown: {unread}"


def fail_after_changes(
    module: AnsibleModule, plan: Plan, done: Sequence[Step], message: str, is_known: bool = True
) -> None:
    made = ""
    if done:
        listed = ", ".join(f"{step.change} {step.resource_id.rpartition('/')[2]}" for step in done)
        made = (
            f" Before, this run {listed}. Fix the cause, then run the module again, or remove them with state=absent."
        )
    module.fail_json(
        msg=f"{message}{made}", changed=bool(done) or not is_known, **(described(plan, done) if done else {})
    )


def described(plan: Plan, steps: Sequence[Step]) -> dict:
    return {
        "changes": [{"change": step.change, "id": step.resource_id} for step in steps],
        "diff": {
            "before": "".join(f"{step.description}\n" for step in steps if step.body is None),
            "after": "".join(f"{step.description}\n" for step in steps if step.body is not None),
        },
    }


def run(module: AnsibleModule) -> dict:
    params = module.params
    for option in ("cluster_name", "cluster_id"):
        if not params[option]:
            raise NatGatewayError(f"{option} is empty. Set it to the value that osc.peerpods.cluster_info returns.")
    arm = Arm(module)
    plan = make_plan(module, arm)
    if params["dry_run"]:
        check_permissions(module, arm, plan)
    is_real = not (module.check_mode or params["dry_run"])
    steps: Sequence[Step] = plan.steps
    if is_real:
        plan, steps = carry_out(module, arm, plan)
    result: dict = {
        "changed": bool(steps) and (module.check_mode or not params["dry_run"]),
        "reason": plan.reason,
        "nat_gateway": plan.gateway_id,
        "kept": [{"id": id_, "reason": reason} for id_, reason in plan.kept],
        **described(plan, steps),
    }
    if params["state"] == "present" and (is_real or not steps):
        addresses = [arm.get(address_id, NETWORK_API_VERSION) for address_id in plan.address_ids]
        result["public_ip_addresses"] = [address["properties"].get("ipAddress") for address in addresses if address]
    return result


def main() -> None:
    module = arm_module(
        {
            "cluster_name": {"type": "str", "required": True},
            "cluster_id": {"type": "str", "required": True},
            "subnet": {"type": "str"},
            "name": {"type": "str"},
            "zone": {"type": "str", "choices": ["1", "2", "3"]},
            "tags": {"type": "dict", "default": {}},
            "state": {"choices": ["present", "absent"], "default": "present"},
            "dry_run": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 300},
        },
        required_if=[("state", "present", ["subnet"])],
    )
    try:
        result = run(module)
    except (ArmError, NatGatewayError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
