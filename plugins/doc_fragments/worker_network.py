# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options that select the workers' NSGs; module_utils/_azure/worker_network.py reads them."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  virtual_machines:
    description:
      - The workers, each as an ARM id or as the C(spec.providerID) of its node (V(azure:///subscriptions/...)).
      - >-
        O(nodes), O(virtual_machines) and O(subnets) are mutually exclusive. O(network_security_groups) is required if
        none of them is set, unless rules are removed.
    type: list
    elements: str
  subnets:
    description:
      - The workers' subnets, by ARM id. NSGs that are attached to network interfaces are then not found.
    type: list
    elements: str
  network_security_groups:
    description:
      - >-
        The NSGs, by ARM id, instead of those that are attached to the subnets and network interfaces of workers and pod
        VMs.
    type: list
    elements: str
  vm_subnets:
    description:
      - The subnets of the VMs of peer pods, by ARM id, as C(AZURE_SUBNET_ID) in C(peer-pods-cm).
      - >-
        Defaults to the subnets of the workers. Traffic between two of them that are in different virtual networks is
        then evaluated only if these are peered.
    type: list
    elements: str
  current_vm_subnets:
    description:
      - >-
        The subnets in which cloud-api-adaptor creates the VMs of peer pods now, by ARM id, as
        RV(osc.peerpods.cluster_info#module:pod_vms.subnets).
      - >-
        Used like O(vm_subnets) if that is not set, and if one of these subnets is not a subnet of workers. Otherwise
        the VMs can be in any subnet of workers.
    type: list
    elements: str
  vm_network_security_groups:
    description:
      - >-
        The NSGs of the network interfaces of the VMs of peer pods, by ARM id, as C(AZURE_NSG_ID) in C(peer-pods-cm).
        They filter the traffic of these VMs, in addition to the NSG of their subnet.
      - Defaults to the NSG of the first of O(vm_subnets), or else to the first NSG, sorted by id.
    type: list
    elements: str
"""
