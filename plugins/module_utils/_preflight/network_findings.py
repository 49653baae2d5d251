# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the network that the VMs of peer pods are in (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._option_types import as_list
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import finding
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

WHY_EGRESS = "The VM of a peer pod pulls its images itself, so its subnet needs a way to the registry."

# The endpoints that a VM pulls images of Amazon ECR through; the layers are in S3.
ECR = ("ecr.api", "ecr.dkr", "s3")

# What a worker reaches in a VM: the kata agent (DefaultListenPort in src/cloud-api-adaptor/pkg/forwarder/forwarder.go
# of confidential-containers/cloud-api-adaptor), and the end of the tunnel, whose port is the same on both sides
# (pkg/podnetwork/tunneler/vxlan).
AGENT_PORT = 15150
ENDS = {"vms": "the VMs", "workers": "the workers"}
PORT_OPTIONS = {"AWS": "cloud_networking_ports", "Azure": "cloud_networking_security_rules"}

NETWORK_OPTIONS = {
    "AWS": ("operator_install_aws_subnet_id", "operator_install_aws_security_group_ids", "operator_install_aws_vpc_id"),
    "Azure": ("operator_install_azure_subnet_id", "operator_install_azure_nsg_id"),
}


def network_findings(cluster: Mapping, settings: Mapping, readings: Mapping) -> Iterator[dict]:
    """The findings of the readings `subnet`, the result of ec2_subnet_usage_info or azure_subnet_usage_info, `network`,
    that of ec2_subnet_network_info or azure_subnet_network_info, and `nat_gateway`, that of a dry run of
    azure_nat_gateway."""
    yield from _left_out(cluster["platform"], settings)
    yield from _existing(cluster["platform"], settings, readings.get("subnet") or {})
    network = readings.get("network")
    if not network or network.get("skipped"):
        return
    if cluster["platform"] == "AWS":
        yield from _aws(settings, network)
    elif cluster["platform"] == "Azure":
        yield from _azure_egress(settings, network, readings.get("nat_gateway") or {})


def _left_out(platform: str, settings: Mapping) -> Iterator[dict]:
    """The ports that peer pods need, and the option that sets the ports by hand leaves out. Null `ports` are not
    valid."""
    if platform not in PORT_OPTIONS or settings["ports"] is None or "cloud_networking" not in settings["roles"]:
        return
    # That of peer-pods-cm, which users edit.
    if not str(settings["tunnel_port"]).isdecimal():
        return
    tunnel = int(settings["tunnel_port"])
    needed = (
        (AGENT_PORT, "tcp", "vms", "the kata agent"),
        (tunnel, "udp", "vms", "the tunnel"),
        (tunnel, "udp", "workers", "the tunnel"),
    )
    missing: dict[tuple, list[str]] = {}
    for port, protocol, end, what in needed:
        if not any(_has_port(entry, platform, port, protocol, end) for entry in settings["ports"]):
            missing.setdefault((port, protocol, what), []).append(ENDS[end])
    if missing:
        option = PORT_OPTIONS[platform]
        ports = [
            f"{port}/{protocol} to {' and '.join(ends)} ({what})" for (port, protocol, what), ends in missing.items()
        ]
        yield finding(
            "needed-ports",
            "warning",
            f"{option} leaves out {join_names(ports)}.",
            "Workers reach the kata agent of a peer pod and its network, a tunnel by VXLAN over UDP, on these ports.",
            f"Add them to {option}, or leave the option out. If the tunnel has another port, set "
            "operator_install_vxlan_port to it. If other rules allow this traffic, ignore this.",
        )


def _has_port(entry: Mapping, platform: str, port: int, protocol: str, end: str) -> bool:
    """Whether this port of cloud_networking_ports, or this rule of cloud_networking_security_rules, opens the port. The
    modules also take a single value in place of a list."""
    if end not in (as_list(entry.get("to")) or ENDS):
        return False
    if platform == "AWS":
        return int(entry["port"]) == port and protocol in (as_list(entry.get("protocols")) or ("tcp",))
    return (
        entry.get("access", "Allow") == "Allow"
        and entry.get("direction", "Inbound") == "Inbound"
        and entry.get("protocol", "Tcp") in (protocol.capitalize(), "*")
        and any(_is_in(port, str(each)) for each in as_list(entry.get("destination_port_ranges")))
    )


def _is_in(port: int, ports: str) -> bool:
    """Whether the port is in this range of Azure: a number, two of them, or *. Azure rejects others."""
    numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", ports)
    return ports == "*" or (numbers is not None and int(numbers[1]) <= port <= int(numbers[2] or numbers[1]))


def _existing(platform: str, settings: Mapping, answer: Mapping) -> Iterator[dict]:
    """Whether what the VMs are created in exists. Other findings report that it could not be read."""
    if platform not in NETWORK_OPTIONS or "problems" not in answer or answer["subnet"]["id"] is None:
        return
    if not answer["problems"]:
        name = answer["subnet"]["id"].rpartition("/")[2]
        yield finding("vm-network", "ok", f"The subnet {name} exists, and so do the security groups that are set.")
        return
    yield finding(
        "vm-network",
        "error",
        " ".join(answer["problems"]),
        "Every peer pod is a VM in this subnet, with these security groups.",
        f"Set {join_names(NETWORK_OPTIONS[platform])} to those of the cluster's network. Without them, a new "
        "installation takes those of the workers; what peer-pods-cm has stays.",
    )


def _aws(settings: Mapping, network: Mapping) -> Iterator[dict]:
    if "subnets" not in network:
        yield finding("egress", "unknown", network["msg"], WHY_EGRESS)
        return
    if settings["vm_subnet"] in network["missing"]:
        return
    yield _network_acls(network)
    yield _aws_egress(settings, network)
    yield from _vm_zone(settings, network)


def _network_acls(network: Mapping) -> dict:
    if not network["denied"]:
        return finding("network-acls", "ok", "No network ACL denies the traffic between the VMs and the workers.")
    return finding(
        "network-acls",
        "error",
        " ".join(map(_denial, network["denied"])),
        "Network ACLs are stateless, and filter what security groups allow: traffic between two subnets needs rules in "
        "both directions at each.",
        "Allow it in the network ACLs, or set operator_install_aws_subnet_id to a subnet of the workers.",
    )


def _denial(denial: Mapping) -> str:
    to_or_from = "to" if denial["direction"] == "outbound" else "from"
    return (
        f"{denial['network_acl']} of {denial['subnet']} denies {denial['direction']} {denial['ports']} "
        f"{to_or_from} {denial['peer']} (rule {denial['rules']})."
    )


def _aws_egress(settings: Mapping, network: Mapping) -> dict:
    route, subnet, table = network["default_route"], settings["vm_subnet"], network["route_table"]
    found, problems, unknown = [], [], []
    if route is None and network["prefix_list_routes"]:
        lists = join_names([f"{each['prefix_list']} to {each['target']}" for each in network["prefix_list_routes"]])
        unknown.append(
            f"{table} of {subnet} has no route for all addresses. Whether the registry is in a prefix list that it "
            f"routes ({lists}) was not checked."
        )
    elif route is None:
        missing = [service for service in ECR if service not in network["endpoints"]]
        existing = f"VPC endpoints: {join_names(network['endpoints']) or 'none'}"
        sentence = f"{table} of {subnet} has no route to the internet ({existing})."
        if missing:
            problems.append(f"{sentence} Images of Amazon ECR need endpoints of {join_names(missing)} as well.")
        else:
            found.append(f"{sentence} VMs pull images of Amazon ECR, or of a registry in the VPC.")
    elif not route["active"]:
        problems.append(f"The route of {table} to the internet leads to {route['target']}, which does not exist.")
    elif route["kind"] == "internet gateway" and not (network["public_addresses"] or settings["public_ip"]):
        problems.append(
            f"{subnet} reaches the internet through the internet gateway {route['target']}, but its VMs get no public "
            "IP address."
        )
    else:
        found.append(f"{subnet} reaches the internet through the {route['kind']} {route['target']}.")
    if network.get("https_allowed_by") == "":
        problems.append("No security group of the VMs has an egress rule that allows 443/tcp to all addresses.")
    problems += map(_denial, network["denied_to_internet"])
    if not problems:
        return finding("egress", "unknown" if unknown else "ok", " ".join([*found, *unknown]))
    return finding(
        "egress",
        "warning",
        " ".join([*found, *unknown, *problems]),
        WHY_EGRESS,
        "Route 0.0.0.0/0 of this subnet to a NAT gateway, a transit gateway or a firewall, and allow HTTPS, or set "
        "operator_install_aws_subnet_id to a subnet that has this. If all images are in a registry of the VPC, ignore "
        "this.",
    )


def _vm_zone(settings: Mapping, network: Mapping) -> Iterator[dict]:
    vms, *dummy = network["subnets"]
    zones = sorted(
        {subnet["availability_zone"] for subnet in network["subnets"] if subnet["id"] in settings["worker_subnets"]}
    )
    if not zones:
        return
    if zones == [vms["availability_zone"]]:
        yield finding("vm-zone", "ok", f"Workers and VMs are in {vms['availability_zone']}.")
        return
    found = (
        f"All VMs are in {vms['availability_zone']}, the zone of {vms['id']}; the workers are in {join_names(zones)}."
    )
    if settings["vm_subnet_is_set"]:
        yield finding("vm-zone", "ok", found)
        return
    yield finding(
        "vm-zone",
        "warning",
        found,
        "The operator has one subnet for all VMs, and a subnet of EC2 is in one zone. Without this zone, no worker can "
        "start peer pods, and traffic between zones costs money.",
        f"Set operator_install_aws_subnet_id to the subnet to use. If this one is right, set it to {vms['id']}.",
    )


def _azure_egress(settings: Mapping, network: Mapping, nat_gateway: Mapping) -> Iterator[dict]:
    if "way_out" not in network:
        yield finding("egress", "unknown", network["msg"], WHY_EGRESS)
    elif network["subnet"] is not None:
        yield _azure_egress_of_subnet(settings, network, nat_gateway)


def _azure_egress_of_subnet(settings: Mapping, network: Mapping, nat_gateway: Mapping) -> dict:
    found, problems = _azure_way_out(network), []
    if "msg" in nat_gateway and "changes" not in nat_gateway:
        return finding(
            "egress",
            "error",
            f"{found} A NAT gateway cannot be added: {nat_gateway['msg']}",
            WHY_EGRESS,
            "Fix the cause, or attach a NAT gateway to the subnet and set cloud_networking_azure_nat_gateway to false.",
        )
    if network["way_out"] in ("none", "default"):
        if network["route"]:
            problems.append("Route 0.0.0.0/0 of this subnet to a firewall, or remove the route")
        elif settings["azure_nat_gateway"]:
            found = f"{found} The role cloud_networking adds a NAT gateway."
        elif settings["public_ip"]:
            vms = f"The VMs in {_name(network['subnet'])}"
            found = f"{vms} reach the internet by their public IP addresses (USE_PUBLIC_IP)."
        elif network["way_out"] == "none":
            problems.append(
                "Set cloud_networking_azure_nat_gateway to true, so that the role cloud_networking adds a NAT gateway, "
                "or attach a NAT gateway or a route table to the subnet"
            )
    if network["https_denied_by"]:
        found = f"{found} 443/tcp to the internet is denied by {join_names(network['https_denied_by'])}."
        problems.append("Allow 443/tcp outbound with a smaller priority number")
    if not problems:
        return finding("egress", "ok", found)
    return finding(
        "egress",
        "warning",
        found,
        WHY_EGRESS,
        f"{'. '.join(problems)}. If all images are in a registry that the subnet reaches, ignore this.",
    )


def _azure_way_out(network: Mapping) -> str:
    vms, route, way_out = f"The VMs in {_name(network['subnet'])}", network["route"], network["way_out"]
    if route:
        hop = " ".join(filter(None, [route["next_hop_type"], route["next_hop"]]))
        by_route = f"the route {route['name']} of {_name(network['route_table'])} to {hop}"
        if way_out == "none":
            return f"{vms} do not reach the internet: {by_route} drops this traffic."
        return f"{vms} reach the internet by {by_route}."
    if way_out == "nat_gateway":
        return f"{vms} reach the internet by the NAT gateway {_name(network['nat_gateway'])}."
    if way_out == "default":
        return f"{vms} reach the internet by Azure's default outbound access. Its address may change."
    return (
        f"{vms} do not reach the internet: the subnet has no NAT gateway, no route to a firewall, and no default "
        "outbound access."
    )


def _name(resource_id: str) -> str:
    return resource_id.rpartition("/")[2]
