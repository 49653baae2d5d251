"""Rules of network security groups, as ARM stores them and as tasks have them, and their evaluation by brute force."""

from __future__ import annotations

from functools import cache
from ipaddress import ip_address, ip_network

from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_evaluation import (
    DIRECTIONS,
    ENDS,
    Flow,
    Path,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.nsg_plan import (
    DesiredRule,
    Owner,
    desired_rules,
)
from hypothesis import strategies as st

WORKERS = "10.0.128.0/17"
VNET = ("10.0.0.0/16", "fd00::/48")
NETWORK = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network"
NSG_ID = f"{NETWORK}/networkSecurityGroups/nsg"
ASG = {"id": f"{NETWORK}/applicationSecurityGroups/workers"}


def rule(name: str, priority: int, access: str = "Allow", **properties: object) -> dict:
    """A rule as ARM stores it, by default for all traffic; `source=` and `ports=` are abbreviations."""
    source, destination, ports = (properties.pop(key, "*") for key in ("source", "destination", "ports"))
    return {
        "id": f"{NSG_ID}/securityRules/{name}",
        "name": name,
        "etag": 'W/"1"',
        "type": "Microsoft.Network/networkSecurityGroups/securityRules",
        "properties": {
            "provisioningState": "Succeeded",
            "protocol": "*",
            "sourcePortRange": "*",
            "destinationPortRange": ports,
            "sourceAddressPrefix": source,
            "destinationAddressPrefix": destination,
            "sourcePortRanges": [],
            "destinationPortRanges": [],
            "sourceAddressPrefixes": [],
            "destinationAddressPrefixes": [],
            "access": access,
            "priority": priority,
            "direction": "Inbound",
        }
        | properties,
    }


OWNER, OTHER_CLUSTER = Owner("c", "id-1"), Owner("d", "id-2")

ALLOW_VNET = rule("AllowVnetInBound", 65000, source="VirtualNetwork", destination="VirtualNetwork")
ALLOW_PROBES = rule("AllowAzureLoadBalancerInBound", 65001, source="AzureLoadBalancer")
DENY_ALL = rule("DenyAllInBound", 65500, "Deny")
ALLOW_VNET_OUT = rule(
    "AllowVnetOutBound", 65000, source="VirtualNetwork", destination="VirtualNetwork", direction="Outbound"
)
ALLOW_INTERNET_OUT = rule("AllowInternetOutBound", 65001, destination="Internet", direction="Outbound")
DENY_ALL_OUT = rule("DenyAllOutBound", 65500, "Deny", direction="Outbound")
DEFAULTS = [ALLOW_VNET, ALLOW_PROBES, DENY_ALL, ALLOW_VNET_OUT, ALLOW_INTERNET_OUT, DENY_ALL_OUT]
DENY_VNET = rule("DenyVnet", 4096, "Deny", source="VirtualNetwork")


def nsg(*rules: dict) -> dict:
    return {
        "id": NSG_ID,
        "name": "nsg",
        "etag": 'W/"1"',
        "type": "Microsoft.Network/networkSecurityGroups",
        "location": "westeurope",
        "tags": {"a": "b"},
        "properties": {
            "provisioningState": "Succeeded",
            "resourceGuid": "g",
            "flushConnection": True,
            "securityRules": list(rules),
            "defaultSecurityRules": DEFAULTS,
            "subnets": [{"id": "x"}],
            "networkInterfaces": [],
        },
    }


def option(name: str = "Ours", priority: int = 111, ports: str = "9000", **changes: object) -> dict:
    return {
        "name": name,
        "priority": priority,
        "to": ["vms", "workers"],
        "protocol": "Tcp",
        "access": "Allow",
        "direction": "Inbound",
        "description": None,
        "source_port_ranges": ["*"],
        "destination_port_ranges": [ports],
        "source_address_prefixes": None,
        "destination_address_prefixes": None,
        "source_application_security_groups": None,
        "destination_application_security_groups": None,
    } | changes


def desired(
    *options: dict,
    workers: tuple[str, ...] = (WORKERS,),
    pod_vms: tuple[str, ...] | None = None,
    space: tuple[str, ...] = VNET,
    owner: Owner = OWNER,
) -> tuple[DesiredRule, ...]:
    """The rules of a group that filters all traffic, in one virtual network."""
    ends = workers, workers if pod_vms is None else pod_vms
    paths = [
        Path(to, direction, *between, space)
        for direction in DIRECTIONS
        for to, between in zip(ENDS, (ends, ends[::-1]), strict=True)
        if all(between)
    ]
    return desired_rules(options or [option()], paths, [space], owner)


def listed(*options: dict, **context: object) -> tuple[DesiredRule, ...]:
    """Those of `desired` in the direction of their option."""
    return tuple(desired_rule for desired_rule in desired(*options, **context) if desired_rule.is_listed)


# Small enough for brute force: 4 IPv4 and 2 IPv6 addresses. The tag VirtualNetwork stands for half of them.
ADDRESS_BLOCKS = [ip_network("10.0.0.0/30"), ip_network("fd00::/127")]
SPACE = ("10.0.0.0/31", "fd00::/128")

# Addresses outside of the blocks. A rule may select all of them except Azure's load balancer.
LOAD_BALANCER = ip_address("168.63.129.16")
OUTSIDE = [LOAD_BALANCER, ip_address("192.0.2.1"), ip_address("2001:db8::1")]
WORLD = [address for network in ADDRESS_BLOCKS for address in network] + OUTSIDE
BLOCKS = [
    str(block)
    for network in ADDRESS_BLOCKS
    for prefix in range(network.prefixlen, network.max_prefixlen + 1)
    for block in network.subnets(new_prefix=prefix)
]
TAGS = ["*", "VirtualNetwork", "Internet", "AzureLoadBalancer", "0.0.0.0/0", "::/0"]
V4, V6 = ([b for b in BLOCKS if (":" in b) == v6] for v6 in (False, True))
block_lists = st.sampled_from([V4, V6]).flatmap(
    lambda blocks: st.lists(st.sampled_from(blocks), min_size=1, max_size=3, unique=True)
)
sides = st.sampled_from(TAGS).map(lambda tag: [tag]) | block_lists
port_ranges = st.lists(st.sampled_from(["*", "1", "2", "3", "1-2", "2-4", "0-65535"]), min_size=1, max_size=2)


def as_rule(number, priority, access, direction, protocol, source, destination, ports) -> dict:
    return rule(
        f"R{number}",
        priority,
        access,
        direction=direction,
        protocol=protocol,
        sourceAddressPrefixes=source,
        destinationAddressPrefixes=destination,
        destinationPortRanges=ports,
    )


rule_lists = st.lists(
    st.tuples(
        st.sampled_from(range(100, 108)),
        st.sampled_from(["Allow", "Deny"]),
        st.sampled_from(["Inbound", "Inbound", "Outbound"]),
        st.sampled_from(["Tcp", "Udp", "*"]),
        sides,
        sides,
        port_ranges,
    ),
    max_size=6,
    unique_by=lambda r: (r[0], r[2]),
).map(lambda rules: [as_rule(number, *parts) for number, parts in enumerate(rules)])


@cache
def contains(prefixes: tuple[str, ...], address) -> bool:
    inside = any(address in ip_network(block) for block in SPACE)
    return any(
        prefix == "*"
        or (prefix == "VirtualNetwork" and inside)
        or (prefix == "Internet" and not inside)
        or (prefix == "AzureLoadBalancer" and address == LOAD_BALANCER)
        or ("/" in prefix and address in ip_network(prefix))
        for prefix in prefixes
    )


def one_or_more(properties: dict, key: str, plural: str) -> tuple[str, ...]:
    return tuple(properties.get(key + plural) or [properties[key]])


def in_ports(port: int, port_ranges: tuple[str, ...]) -> bool:
    bounds = [(text if text != "*" else "0-65535").split("-") for text in port_ranges]
    return any(int(low) <= port <= int(high[0] if high else low) for low, *high in bounds)


def first_match(rules: list[dict], traffic: Flow, source, destination) -> str:
    """The oracle: the rule that decides for a single source and destination address."""
    for candidate in sorted(rules, key=lambda r: r["properties"]["priority"]):
        properties = candidate["properties"]
        if (
            properties["direction"] == traffic.direction
            and properties["protocol"] in ("*", traffic.protocol)
            and contains(one_or_more(properties, "sourceAddressPrefix", "es"), source)
            and contains(one_or_more(properties, "destinationAddressPrefix", "es"), destination)
            and in_ports(traffic.port, one_or_more(properties, "destinationPortRange", "s"))
        ):
            return candidate["name"]
    return "no rule"
