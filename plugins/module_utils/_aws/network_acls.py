# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which traffic of peer pods the network ACLs of subnets deny (private; no I/O here).

A network ACL filters what leaves and what enters a subnet, by the address of the other side and the destination port.
It is stateless: replies need rules of their own. Rules are evaluated by number, and the first that matches decides.
Traffic within a subnet is not filtered ("Control subnet traffic with network access control lists", Amazon VPC).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, collapse_addresses

from ansible_collections.osc.peerpods.plugins.module_utils._aws.rules import Port
from ansible_collections.osc.peerpods.plugins.module_utils._aws.security_groups import ANYWHERE, VMS, Flow

# The ports that Linux opens connections from (net.ipv4.ip_local_port_range), to which replies are sent.
EPHEMERAL = (32768, 60999)

HTTPS = Port(443, "tcp")

_PROTOCOLS = {"tcp": "6", "udp": "17"}
_ANY = "-1"

# The number of the rule that denies all traffic which no other rule matches; EC2 shows it as an asterisk.
_LAST = 32767


@dataclass(frozen=True)
class Packets:
    """Packets to the ports from `first` to `last`, from or to the `network` on the other side of a subnet."""

    network: IPv4Network
    protocol: str
    first: int
    last: int

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{ports}/{self.protocol}"


@dataclass(frozen=True)
class Subnet:
    """A subnet with its IPv4 block and its network ACL."""

    subnet_id: str
    cidr_block: str
    acl: Mapping


def denied_between(vms: Subnet, workers: Iterable[Subnet], flows: Sequence[Flow]) -> list[dict]:
    """The traffic between the VMs and the workers that a network ACL denies, replies included; each once.

    The tunnel is VXLAN over UDP. TCP is opened for its port as well, as in the documented procedure, but not used.
    """
    denials: dict[tuple, dict] = {}
    udp = {(flow.port.port, flow.receiver) for flow in flows if flow.port.protocol == "udp"}
    flows = [flow for flow in flows if flow.port.protocol == "udp" or (flow.port.port, flow.receiver) not in udp]
    for worker in workers:
        if worker.subnet_id == vms.subnet_id:
            continue
        for flow in flows:
            sender, receiver = (worker, vms) if flow.receiver == VMS else (vms, worker)
            for denial in (
                *_denied(sender, receiver, flow.port.protocol, flow.port.port, flow.port.port),
                # The tunnel has no replies: both ends send to its port.
                *(_denied(receiver, sender, "tcp", *EPHEMERAL) if flow.port.protocol == "tcp" else ()),
            ):
                denials.setdefault(tuple(denial.values()), denial)
    return list(denials.values())


def denied_to_internet(vms: Subnet) -> list[dict]:
    """What the network ACL of the VMs denies of HTTPS to the internet, and of the replies.

    Rules that deny single networks do not count: only if most addresses are denied, an image cannot be pulled.
    """
    internet = IPv4Network(ANYWHERE)
    sent = Packets(internet, HTTPS.protocol, HTTPS.port, HTTPS.port)
    replies = Packets(internet, HTTPS.protocol, *EPHEMERAL)
    denials = []
    for is_egress, packets in ((True, sent), (False, replies)):
        parts = denied_parts(vms.acl["Entries"], is_egress, packets)
        networks = collapse_addresses(network for network, dummy in parts)
        if sum(network.num_addresses for network in networks) > internet.num_addresses / 2:
            denials.append(_denial(vms, is_egress, packets, parts))
    return denials


def denied_parts(entries: Iterable[Mapping], is_egress: bool, packets: Packets) -> list[tuple[IPv4Network, str]]:
    """The addresses with which the rules deny some of the packets, each with the rule that denies them."""
    remaining = [(packets.network, packets.first, packets.last)]
    denied = []
    for entry in sorted(entries, key=lambda entry: entry["RuleNumber"]):
        is_of_protocol = entry["Protocol"] in (_ANY, _PROTOCOLS[packets.protocol])
        # Peer pods have IPv4 addresses only.
        if entry["Egress"] != is_egress or not is_of_protocol or "CidrBlock" not in entry:
            continue
        ports = entry.get("PortRange") if entry["Protocol"] != _ANY else None
        first, last = (ports["From"], ports["To"]) if ports else (0, 65535)
        block = IPv4Network(entry["CidrBlock"], strict=False)
        undecided: list[tuple[IPv4Network, int, int]] = []
        for part in remaining:
            network, low, high = part
            if not network.overlaps(block) or last < low or high < first:
                undecided.append(part)
                continue
            if network.subnet_of(block):
                matched = network
            else:
                matched = block
                undecided += [(rest, low, high) for rest in network.address_exclude(block)]
            if low < first:
                undecided.append((matched, low, first - 1))
            if last < high:
                undecided.append((matched, last + 1, high))
            if entry["RuleAction"] == "deny":
                denied.append((matched, _number(entry["RuleNumber"])))
        remaining = undecided
    return denied + [(network, _number(_LAST)) for network, dummy, dummy2 in remaining]


def _denied(sender: Subnet, receiver: Subnet, protocol: str, first: int, last: int) -> Iterator[dict]:
    for subnet, is_egress, other in ((sender, True, receiver), (receiver, False, sender)):
        packets = Packets(IPv4Network(other.cidr_block), protocol, first, last)
        parts = denied_parts(subnet.acl["Entries"], is_egress, packets)
        if parts:
            yield _denial(subnet, is_egress, packets, parts)


def _denial(subnet: Subnet, is_egress: bool, packets: Packets, parts: Sequence[tuple[IPv4Network, str]]) -> dict:
    return {
        "network_acl": subnet.acl["NetworkAclId"],
        "subnet": subnet.subnet_id,
        "direction": "outbound" if is_egress else "inbound",
        "peer": str(packets.network),
        "ports": str(packets),
        "rules": ", ".join(dict.fromkeys(number for dummy, number in parts)),
    }


def _number(number: int) -> str:
    return "*" if number == _LAST else str(number)
