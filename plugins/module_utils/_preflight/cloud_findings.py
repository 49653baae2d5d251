# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the cloud (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import (
    CLOUDS,
    ONE_VM_EACH,
    finding,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# Results about the cloud: the identity, the rules that filter the workers' traffic, the permission to change them, the
# VM sizes and their quota, the available IP addresses of the VMs' subnet, and the running peer pods.
ANSWERS = ("caller", "ports", "port_permissions", "sizes", "subnet", "peer_pods")


def cloud_findings(cluster: Mapping, settings: Mapping, readings: Mapping) -> Iterator[dict]:
    """The findings about the limit and about the cloud; `readings` has the results that ANSWERS names."""
    yield from _limit_setting(settings)
    yield from _cloud(cluster, settings, readings)


def _limit_setting(settings: Mapping) -> Iterator[dict]:
    if _limit(settings) is None:
        yield finding(
            "limit",
            "error",
            f"peerpodconfig_rollout_limit must be a whole number of 0 or more; got {str(settings['limit'])!r}.",
            "The limit is the number of peer pods that a node may run.",
            "Set peerpodconfig_rollout_limit to a whole number of 0 or more.",
        )


def _cloud(cluster: Mapping, settings: Mapping, readings: Mapping) -> Iterator[dict]:
    platform = cluster["platform"]
    if platform not in CLOUDS:
        yield finding("cloud-credentials", "unknown", "Not checked: the cluster runs on neither AWS nor Azure.")
        return
    answers = {name: _answer(readings.get(name)) for name in ANSWERS}
    first = answers["caller" if platform == "AWS" else "sizes"]
    if first is None:
        yield finding("cloud-credentials", "unknown", f"Not checked: requests to {platform} need a region.")
        return
    login = _aws_identity(first) if platform == "AWS" else _azure_identity(first, cluster)
    yield login
    if login["status"] == "error":
        if settings["check_cloud_resources"]:
            for check in ("ports", "quota", "subnet-addresses"):
                yield finding(check, "unknown", f"Not checked: the login to {platform} failed.")
        return
    if answers["ports"]:
        yield (
            _aws_ports(answers["ports"])
            if platform == "AWS"
            else _azure_ports(answers["ports"], settings["on_shadowed"])
        )
        if answers["port_permissions"]:
            yield _port_permissions(answers["port_permissions"], platform)
    elif settings["check_cloud_resources"]:
        yield finding("ports", "unknown", "Not checked: no worker node has a providerID.")
    yield from _capacity(cluster, settings, answers)


def _answer(result: Mapping | None) -> Mapping | None:
    """The result of a module; None if its task was skipped or did not run."""
    return None if not result or result.get("skipped") else result


WHY_LOGIN = "These credentials are used to open the ports and to create the VMs."
FIX_CAUSE = "Fix the cause, then run preflight again."

# What botocore reports if no answer was received (botocore/botocore, botocore/exceptions.py).
NOT_REACHED = re.compile("endpoint URL|proxy URL|SSL validation failed|Connection was closed")


def _aws_identity(caller: Mapping) -> dict:
    if "account" in caller:
        return finding(
            "cloud-credentials", "ok", f"Authenticated to AWS as {caller['arn']} (account {caller['account']})."
        )
    reason = caller.get("msg", "no answer").strip().rstrip(".")
    return finding(
        "cloud-credentials",
        "error",
        f"Authenticating to AWS failed: {reason}.",
        WHY_LOGIN,
        "Check that this machine reaches AWS: DNS, HTTPS_PROXY and NO_PROXY, and that the CA bundle (AWS_CA_BUNDLE) "
        "exists and has the authority of the endpoint or proxy."
        if NOT_REACHED.search(reason)
        else "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to credentials of the account in which "
        "the cluster runs. If they are set, correct or renew what the message names: a profile, a file, an SSO session "
        "with aws sso login, a token, or the permission to assume a role.",
    )


def _azure_identity(sizes: Mapping, cluster: Mapping) -> dict:
    if "sizes" in sizes:
        return finding(
            "cloud-credentials",
            "ok",
            f"Authenticated to Azure for the subscription {cluster['subscription_id']}.",
        )
    return finding(
        "cloud-credentials",
        "error",
        sizes["msg"],
        WHY_LOGIN,
        "Set AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID to those of a service principal that "
        "has permission to read the subscription of the cluster."
        if sizes["msg"].startswith("Authenticating")
        else FIX_CAUSE,
    )


WHY_PORTS = "A worker connects to the VMs of its peer pods on these ports."


def _aws_ports(answer: Mapping) -> dict:
    if "groups" not in answer:
        return finding("ports", "error", answer["msg"], WHY_PORTS, FIX_CAUSE)
    opened = [
        f"{rule['port']}/{rule['protocol']}{' egress' if rule['direction'] == 'egress' else ''} of {group['group_id']}"
        for group in answer["groups"]
        for rule in group["opened"]
    ]
    already_open = [
        f"{port['port']}/{port['protocol']} of {group['group_id']} (by {port['covered_by']})"
        for group in answer["groups"]
        for port in group["already_open"]
    ]
    return finding("ports", "ok", _ports_summary(answer, already_open, opened))


def _port_permissions(answer: Mapping, platform: str) -> dict:
    if "groups" in answer or "network_security_groups" in answer:
        return finding("port-permissions", "ok", f"These credentials have permission to open the ports on {platform}.")
    # Opening the ports does not need the permission to list permissions.
    if platform == "Azure" and "missing_permissions" not in answer:
        return finding("port-permissions", "unknown", answer["msg"])
    return finding(
        "port-permissions",
        "error",
        answer["msg"],
        "The role cloud_networking opens the ports with these credentials.",
        "Or ask someone with the permission to open them, then run preflight again.",
    )


def _azure_ports(answer: Mapping, on_shadowed: str) -> dict:
    if "network_security_groups" not in answer:
        return finding("ports", "error", answer["msg"], WHY_PORTS, FIX_CAUSE)
    groups = answer["network_security_groups"]
    opened = [
        f"{rule['name']} of {group['name']}" for group in groups for rule in (*group["created"], *group["updated"])
    ]
    already_open = [
        *(
            f"{rule['name']} of {group['name']} (by {rule['covered_by']})"
            for group in groups
            for rule in group["covered"]
        ),
        *(f"{name} of {group['name']}" for group in groups for name in group["unchanged"]),
        *answer["unfiltered"],
    ]
    summary = " ".join([_ports_summary(answer, already_open, opened), *answer["unconnected"]])
    shadowed = [
        f"{rule['name']} would be shadowed in {group['name']}: {rule['shadowed_by']}"
        for group in groups
        for rule in group["shadowed"]
    ]
    if shadowed:
        return finding(
            "ports",
            "error" if on_shadowed == "fail" else "warning",
            f"{summary} {'; '.join(shadowed)}.",
            WHY_PORTS,
            "Move the rules that deny to larger priority numbers, or set smaller ones for the collection's rules in "
            "cloud_networking_security_rules.",
        )
    if answer["unconnected"]:
        return finding(
            "ports", "warning", summary, WHY_PORTS, "Peer the virtual networks, unless another route connects them."
        )
    return finding("ports", "ok", summary)


def _ports_summary(answer: Mapping, already_open: list[str], opened: list[str]) -> str:
    return " ".join(
        [
            answer["reason"],
            *([f"Already open: {join_names(already_open)}."] if already_open else []),
            *([f"Not open yet: {join_names(opened)}."] if opened else []),
        ]
    )


def _capacity(cluster: Mapping, settings: Mapping, answers: Mapping) -> Iterator[dict]:
    """Whether the cloud has room for the limit on all workers."""
    sizes, subnet, running = answers["sizes"], answers["subnet"], _running(answers["peer_pods"])
    unavailable = _aws_types(cluster, sizes, subnet) if cluster["platform"] == "AWS" else _azure_sizes(cluster, sizes)
    yield from unavailable
    if any(entry["status"] == "error" for entry in unavailable):
        sizes = None
    # An invalid limit is an error of its own, and cannot be compared.
    if settings["quota"] == "ignore" or not cluster["workers"] or _limit(settings) is None:
        return
    if sizes:
        yield _quota(cluster, settings, sizes, running)
    if not settings["check_cloud_resources"]:
        return
    if subnet:
        yield _addresses(cluster, settings, subnet, running)
    else:
        yield finding(
            "subnet-addresses",
            "unknown",
            "Not checked: the VMs use the subnet of the workers, which could not be read.",
        )


def _limit(settings: Mapping) -> int | None:
    limit = str(settings["limit"])
    return int(limit) if limit.isdecimal() else None


def _running(result: Mapping | None) -> int:
    """How many VMs of running peer pods the cloud counts as used, and the limit allows; 0 if that is not known.

    A pending peer pod may have no VM yet, and one that was not mutated does not count against the limit.
    """
    if not result or "totals" not in result:
        return 0
    totals = result["totals"]
    return totals["used"] - totals["unaccounted"] - sum(pod["node"] is not None for pod in result["pending"])


def _compare(
    cluster: Mapping, settings: Mapping, check: str, room: int, running: int, reading: str, otherwise: str
) -> dict:
    """Whether there is `room` for as many VMs as the limit allows on all workers and do not run yet.

    `reading` has the figures.
    """
    # Called with a valid limit only.
    limit, nodes = _limit(settings) or 0, len(cluster["workers"])
    if room + running >= limit * nodes:
        return finding(check, "ok", f"{reading[0].upper()}{reading[1:]}.")
    existing = f", of which {running} run" if running else ""
    return finding(
        check,
        {"fail": "error", "warn": "warning"}[settings["quota"]],
        f"{limit} peer pods on each of {nodes} nodes are {limit * nodes} VMs{existing}, but {reading}.",
        ONE_VM_EACH,
        f"Set peerpodconfig_rollout_limit to {(room + running) // nodes}, or {otherwise}.",
    )


def _aws_types(cluster: Mapping, sizes: Mapping | None, subnet: Mapping | None) -> list[dict]:
    """The findings about the instance types that the region, and in it the zone of the VMs, offers."""
    region, where = cluster["region"], (subnet or {}).get("subnet") or {}
    in_region = (sizes or {}).get("instance_types") or ()
    unknown = {entry["name"]: entry["reason"] for entry in in_region if entry["vcpus"] is None}
    zone, in_zone = where.get("availability_zone"), (subnet or {}).get("instance_types") or ()
    missing = [entry["name"] for entry in in_zone if not entry["offered"] and entry["name"] not in unknown]
    reasons = [*unknown.values()]
    if missing:
        reasons.append(f"{zone}, the zone of {where['id']}, does not offer {join_names(missing)}.")
    # That the subnet does not exist is a finding of its own.
    elif subnet and not (zone or unknown or subnet.get("problems")):
        return [finding("vm-sizes", "unknown", subnet.get("msg") or where["reason"])]
    command = f"aws ec2 describe-instance-type-offerings --region {region}"
    in_one_zone = f" --location-type availability-zone --filters Name=location,Values={zone}" if zone else ""
    return _vm_sizes(
        reasons,
        zone or region,
        in_zone or in_region,
        "operator_install_podvm_instance_type and operator_install_podvm_instance_types",
        f"{command}{in_one_zone}",
        ", or operator_install_aws_subnet_id to a subnet of another zone" if missing else "",
    )


def _azure_sizes(cluster: Mapping, sizes: Mapping | None) -> list[dict]:
    entries, region = (sizes or {}).get("sizes") or (), cluster["region"]
    return _vm_sizes(
        [entry["reason"] for entry in entries if not entry["available"]],
        region,
        entries,
        "operator_install_azure_instance_size and operator_install_azure_instance_sizes",
        f"az vm list-skus --location {region} --resource-type virtualMachines",
    )


def _vm_sizes(
    reasons: Sequence[str], place: str, sizes: Sequence[Mapping], options: str, command: str, otherwise: str = ""
) -> list[dict]:
    if reasons:
        return [
            finding(
                "vm-sizes",
                "error",
                " ".join(reasons),
                "The VMs of peer pods cannot be created.",
                f"Set {options} to sizes that `{command}` offers{otherwise}.",
            )
        ]
    offered = [size["name"] for size in sizes]
    return [finding("vm-sizes", "ok", f"{place} offers {join_names(offered)}.")] if offered else []


def _quota(cluster: Mapping, settings: Mapping, answer: Mapping, running: int) -> dict:
    platform, region = cluster["platform"], cluster["region"]
    size = next(iter(answer.get("instance_types") or answer.get("sizes") or ()), None)
    if size is None or size["instances"] is None:
        reason = answer["msg"] if size is None else size["reason"] or f"{platform} counts no vCPUs of {size['name']}."
        return finding(
            "quota",
            "unknown",
            reason,
            ONE_VM_EACH,
            "Check the quota in the console of the cloud.",
        )
    room = (
        f"{platform} has room for {size['instances']} more VMs of {size['name']} in {region}, "
        f"of {size['vcpus']} vCPUs each"
    )
    if platform == "AWS":
        subject = f"{size['quota_code']} in {region}"
        used = f"{size['used']} of {size['quota']} vCPUs of the quota {size['quota_code']} are in use"
    else:
        subject = f"of {size['family']} or of all vCPUs in {region}"
        used = (
            f"{size['family_used']} of {size['family_limit']} vCPUs of {size['family']} are in use, and "
            f"{size['regional_used']} of {size['regional_limit']} of all families"
        )
    return _compare(
        cluster, settings, "quota", size["instances"], running, f"{room} ({used})", f"request a higher quota {subject}"
    )


def _addresses(cluster: Mapping, settings: Mapping, answer: Mapping, running: int) -> dict:
    subnet = answer.get("subnet") or {"free": None, "reason": answer.get("msg")}
    if subnet["free"] is None:
        return finding(
            "subnet-addresses",
            "unknown",
            subnet["reason"],
            ONE_VM_EACH,
            "Check the subnet of the VMs, and that these credentials may read it.",
        )
    name = subnet["id"].rpartition("/")[2]
    return _compare(
        cluster,
        settings,
        "subnet-addresses",
        subnet["free"],
        running,
        f"the subnet {name} has {subnet['free']} free addresses",
        "give the VMs a larger subnet",
    )
