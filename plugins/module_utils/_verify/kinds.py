# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The kinds of causes for which a peer pod does not run, each with what to do (no I/O here)."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE


@dataclass(frozen=True)
class Kind:
    """The check that reports the cause, a sentence about what failed, and what to do.

    `is_final` is false if the pod may still start by itself.
    """

    check: str
    what: str
    fix: str
    is_final: bool = True


# In the order in which a pod passes the checks.
KINDS = {
    "slot": Kind(
        "verify-slot",
        "No node has a free slot for the pod",
        "Raise the limit (playbook osc.peerpods.limit), delete peer pods of the node, or choose other nodes with "
        f"verify_nodes. `oc describe node` shows the slots ({EXTENDED_RESOURCE}).",
        is_final=False,
    ),
    "node": Kind(
        "verify-slot",
        "The scheduler does not place the pod on the node",
        "Correct what the message names, for example uncordon the node, or tolerate its taints (verify_tolerations), "
        "or choose other nodes with verify_nodes.",
        is_final=False,
    ),
    "mutation": Kind(
        "verify-slot",
        "The pod requests no slot: it was not mutated",
        "Choose a namespace whose pods are mutated (verify_namespace): the webhook excludes system namespaces. If it "
        "is not excluded, run site.yml with --tags webhook.",
    ),
    "adaptor": Kind(
        "verify-vm",
        "cloud-api-adaptor does not run on the node",
        "See `oc get pods -n openshift-sandboxed-containers-operator -o wide` and `oc logs --previous` of the "
        "cloud-api-adaptor pod of the node.",
        is_final=False,
    ),
    "endpoint": Kind(
        "verify-vm",
        "The node does not reach the API of the cloud",
        "Give the node a way to the host that the message names: routes, firewall, DNS, private endpoints, or the "
        "proxy of the cluster.",
        is_final=False,
    ),
    "image": Kind(
        "verify-vm",
        "The image of the pod VMs cannot be used",
        "Check PODVM_AMI_ID or AZURE_IMAGE_ID of peer-pods-cm: the image must exist in the region and the account, be "
        "available, and fit the instance type in architecture and boot mode. Run preflight for the details.",
    ),
    "quota": Kind(
        "verify-vm",
        "The quota of the cloud is used up",
        "Request a higher quota, use a smaller size (operator_install_podvm_instance_type, "
        "operator_install_azure_instance_size), or stop other VMs. Run preflight for the numbers.",
    ),
    "capacity": Kind(
        "verify-vm",
        "The cloud has no capacity for the VM",
        "Choose another size, or a subnet in another zone or with available addresses. A shortage of the cloud may "
        "pass by itself.",
    ),
    "permissions": Kind(
        "verify-vm",
        "The cloud rejected the credentials of cloud-api-adaptor or its permissions",
        "Check peer-pods-secret: the credentials must be valid, and allow what the message names. On AWS, "
        "`aws sts decode-authorization-message` decodes an encoded message.",
    ),
    "settings": Kind(
        "verify-vm",
        "The cloud rejected a setting of peer-pods-cm",
        "Correct the key of peer-pods-cm that the message names, by the options of the role operator_install.",
    ),
    "service": Kind(
        "verify-vm",
        "The cloud could not process the request",
        "Run the verification again later. If the error stays, check the service health of the cloud.",
        is_final=False,
    ),
    "vm": Kind(
        "verify-vm",
        "The VM was created, but does not run",
        "Correct what the reason names. Client.InternalError of EC2 usually means that the credentials may not use the "
        "KMS key of an encrypted image or volume.",
    ),
    "port": Kind(
        "verify-agent",
        "The VM does not answer its node",
        "Open 15150/tcp from the nodes to the VMs: run site.yml with --tags cloud_networking. If preflight reports the "
        "port as open, check network ACLs, the route tables of both subnets, and that the VM has booted.",
    ),
    "agent": Kind(
        "verify-agent",
        "The VM runs, but its agent does not",
        "The image is not that of a pod VM, or does not boot: see the end of the console below, and create the image "
        "again (operator_install_renew_image). If the console is empty, the VM may have needed more time: raise "
        "verify_boot_timeout.",
    ),
    "container": Kind(
        "verify-pull",
        "The container was rejected",
        "Correct what the message names. The image (verify_image) must have a user other than root, as a number, and a "
        "policy of the agent (INITDATA of peer-pods-cm, or in the image of the VM) must allow the container.",
    ),
    "egress": Kind(
        "verify-pull",
        "The registry is not reached, or the pull takes too long",
        "Give the subnet of the VMs a way out: a NAT gateway or a route to a firewall, on AWS also an egress rule of "
        "the security group. The VM pulls images itself, from its own subnet, and uses proxies and mirrors of the "
        "cluster only by INITDATA of peer-pods-cm. Run preflight for what is missing. If it finds nothing, use a "
        "smaller image, or one in a registry nearby, such as a mirror (verify_image).",
    ),
    "pull": Kind(
        "verify-pull",
        "The registry rejected the pull in the VM",
        "Check the image (verify_image) and its pull secret (verify_pull_secrets): the VM pulls it with the secrets of "
        "the pod, not with those of the node. The VM must also trust the certificate of the registry.",
    ),
    "program": Kind(
        "verify-answer",
        "The program of the pod does not run",
        "See `oc logs --previous` of the pod with verify_keep=true: the image (verify_image) must have python3.",
    ),
    "tunnel": Kind(
        "verify-answer",
        "No packet passes the tunnel to the VM",
        "Open 9000/udp between the nodes and the VMs, in both directions: run site.yml with --tags cloud_networking. "
        "Also check that no NetworkPolicy of the namespace forbids traffic from the API server.",
    ),
    "network": Kind(
        "verify-answer",
        "The tunnel works, but the API server does not reach the pod",
        "Check the NetworkPolicies of the namespace: they must allow traffic from the API server, on OpenShift from "
        "namespaces with the label policy-group.network.openshift.io/host-network. Or choose another namespace "
        "(verify_namespace).",
    ),
    "access": Kind(
        "verify-answer",
        "The user of the verification may not read the answer of the pod",
        "Grant the permission that the message names, get of pods/proxy in the namespace (verify_namespace).",
    ),
    # The check that the pod has not passed reports it.
    "evicted": Kind(
        "",
        "The pod was ended on its node",
        "Correct what the message names, such as pressure on the node, then run the verification again, or choose "
        "other nodes with verify_nodes.",
    ),
    "unknown": Kind(
        "",
        "The pod does not start",
        "Run again with verify_keep=true, and see `oc describe pod` and the log of cloud-api-adaptor.",
        is_final=False,
    ),
}
