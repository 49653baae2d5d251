# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stands in the way of peer pods, out of what was read of a cluster and its cloud (no I/O here).

A finding says what was looked at, what was found, why that matters and what to do. Its status is
`ok`, `warning` (it goes on), `error` (it would stop a role later) or `unknown` (it could not be asked).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._containers import (
    OPERATORS_CONFIGURATION,
)
from ansible_collections.osc.peerpods.plugins.module_utils._generation import (
    FIRST,
    LIMIT_KEY,
    NEWEST_KNOWN,
    NEWEST_OF_FIRST_GENERATION,
    OPERATORS_CONFIG,
    OPERATORS_MANAGERS,
    PEER_PODS_CM,
    UPDATE_STRATEGIES,
    UPDATE_STRATEGY_KEY,
    behaviour_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._limits import (
    NEGATIVE_NUMBER,
    whole_number,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator import explain_two_adaptors
from ansible_collections.osc.peerpods.plugins.module_utils._operator import version as csv_version
from ansible_collections.osc.peerpods.plugins.module_utils._words import in_words

CLOUDS = ("AWS", "Azure")

# What the cloud is asked: who we are, what filters the workers' traffic, whether it would let us change
# that, which VMs there is room for, and how many addresses are free.
ANSWERS = ("caller", "ports", "port_rights", "sizes", "subnet")

TITLES = {
    "cluster": "Cluster",
    "platform": "Platform",
    "version": "Cluster version",
    "cluster-admin": "Rights in the cluster",
    "workers": "Worker nodes",
    "provider-ids": "Workers' instances",
    "region": "Region",
    "runtime-class": "RuntimeClass kata-remote",
    "operator-channel": "Operator's channel",
    "operator-version": "Operator's version",
    "limit-storage": "Storage of the limit",
    "limit-pools": "Pools of nodes",
    "adaptor-settings": "Settings of cloud-api-adaptor",
    "migration": "Migration of the limit",
    "other-webhooks": "Other webhooks for peer pods",
    "other-advertisers": "Other advertisers of peer pods",
    "api-features": "Features of the API server",
    "cloud-credentials": "Cloud credentials",
    "ports": "Ports between the workers",
    "port-rights": "Right to open the ports",
    "vm-sizes": "Sizes of the VMs",
    "quota": "Quota of vCPUs",
    "subnet-addresses": "Addresses of the subnet",
    "limit": "Limit of peer pods",
}

# The oldest OpenShift that a release of the operator is for, with peer pods on AWS and Azure. A release
# is in here only where its documentation, its bundle or its project was read to say so.
NEEDED_OPENSHIFT = {
    # User guide of OpenShift sandboxed containers 1.4, chapter 3.3.1, what peer pods by the CLI take.
    "1.4": "4.13",
    # The bundles of 1.7.0, 1.8.1, 1.9.0, 1.10.1 and 1.11.0 in Red Hat's catalog: minKubeVersion 1.28.0,
    # which is OpenShift 4.15. Since 1.7 peer pods take a CRI-O of that age, as pull request 458 of
    # openshift/sandboxed-containers-operator has it.
    **dict.fromkeys(("1.7", "1.8", "1.9", "1.10", "1.11"), "4.15"),
    # Pull request 1751 of the same: 1.12 drops OpenShift 4.17. Its bundle would still be installed there
    # (1.12.1 has the minKubeVersion of those above).
    "1.12": "4.18",
    # What 1.12 dropped 1.13 did not take up again; 4.18 its project dropped after that, in September 2026
    # (pull request 84621 of openshift/release). The minKubeVersion of 1.13.1 is that of those above.
    "1.13": "4.18",
}
# The newest OpenShift for which those have a catalog with the operator: fbc/v4.22, and the pull request.
NEWEST_OPENSHIFT = "4.22"

# The webhook configuration of the role webhook.
OUR_CONFIGURATION = "peerpods-webhook"

ONE_VM_EACH = "Every peer pod is a VM of its own: beyond this they stay pending or fail to start."


def finding(check: str, status: str, found: str, why: str = "", fix: str = "") -> dict[str, str]:
    return {
        "check": check,
        "title": TITLES[check],
        "status": status,
        "found": found,
        "why": why,
        "fix": fix,
    }


def findings(readings: Mapping[str, Any]) -> list[dict[str, str]]:
    """All findings, in the order in which they are best mended.

    `readings` has the module results `cluster` and, where they were asked for, those of ANSWERS, and
    the `settings` of the roles.
    """
    cluster, settings = readings["cluster"], readings["settings"]
    if "workers" not in cluster:
        return [
            finding(
                "cluster",
                "error",
                cluster["msg"],
                "Without the cluster nothing else can be looked at.",
                "Mend that and look again.",
            )
        ]
    return [
        *_platform(cluster, settings),
        *_rights(cluster),
        *_workers(cluster, settings),
        *_inside(cluster, settings),
        *_number(settings),
        *_cloud(cluster, settings, readings),
    ]


def _platform(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    platform, version, minimum = cluster["platform"], cluster["version"], settings["minimum"]
    if not cluster["is_openshift"]:
        yield finding(
            "platform",
            "error",
            "This is not an OpenShift cluster (it serves no config.openshift.io API).",
            "Peer pods come with an operator of OpenShift's.",
            f"Point the kubeconfig at an OpenShift {minimum} or newer on AWS or Azure.",
        )
        return
    if platform in CLOUDS:
        yield finding("platform", "ok", f"OpenShift on {platform}.")
    else:
        yield finding(
            "platform",
            "error",
            f"The cluster runs on {platform or 'no platform that it names'}; "
            "peer pods are set up here on AWS or Azure only.",
            "A peer pod's VM is made by the API of its cloud.",
            "Point the kubeconfig at a cluster on one of these.",
        )
    if version and _numbers(version) >= _numbers(minimum):
        yield finding("version", "ok", f"OpenShift {version}; {minimum} or newer is needed.")
    else:
        yield finding(
            "version",
            "error",
            f"The cluster is OpenShift {version or 'of an unknown version'}; peer pods need {minimum} or newer.",
            "Older releases have no kata runtime with a remote hypervisor.",
            "Upgrade the cluster first.",
        )


def _numbers(version: str) -> list[int]:
    """4.16.0-rc.1 is as good as 4.16.0."""
    return [int(number) for number in re.findall(r"\d+", version.partition("-")[0])]


def _rights(cluster: Mapping) -> Iterator[dict]:
    missing = cluster["missing_permissions"]
    log_in = "Log in as one that has the cluster-admin role."
    if cluster["is_cluster_admin"]:
        yield finding("cluster-admin", "ok", "The user is a cluster administrator.")
    elif missing:
        yield finding(
            "cluster-admin",
            "error",
            f"The user of this kubeconfig is not a cluster administrator, and may not {in_words(missing)}.",
            "The roles do that.",
            log_in,
        )
    else:
        yield finding(
            "cluster-admin",
            "warning",
            "The user of this kubeconfig is not a cluster administrator, but may do what the roles do.",
            "Building images in the cluster, credentials of the cluster's own and cert-manager take "
            "more, which was not asked for.",
            log_in,
        )


def _workers(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    workers, selector = cluster["workers"], settings["worker_selector"]
    leave_out = "leave these nodes out by cluster_prerequisites_worker_selector."
    if not workers:
        yield finding(
            "workers",
            "error",
            f"No node matches {selector}; peer pods need at least one worker node.",
            "Peer pods are started by worker nodes.",
            "Add one, or set cluster_prerequisites_worker_selector.",
        )
        return
    unready = [worker["name"] for worker in workers if not worker["ready"]]
    if unready:
        yield finding(
            "workers",
            "warning",
            f"{len(unready)} of {len(workers)} workers are not ready: {in_words(unready)}.",
            "A node that is not ready holds up the roll of the others, and runs no peer pods.",
            f"Mend them, or {leave_out}",
        )
    else:
        yield finding("workers", "ok", f"{len(workers)} workers, all ready.")
    nameless = [worker["name"] for worker in workers if not worker["provider_id"]]
    if nameless:
        yield finding(
            "provider-ids",
            "error",
            f"Without a providerID, so with no instance in the cloud that we could find: {in_words(nameless)}.",
            "The ports are opened on what filters the traffic of the workers' instances.",
            f"Check that the cloud controller manager runs, or {leave_out}",
        )
    else:
        yield finding("provider-ids", "ok", "All workers name their instance in the cloud.")
    if cluster["platform"] in CLOUDS:
        yield _region(cluster, leave_out)


def _region(cluster: Mapping, leave_out: str) -> dict:
    region = cluster["region"]
    label = "The worker nodes' labels topology.kubernetes.io/region"
    elsewhere = [w["name"] for w in cluster["workers"] if w["region"] not in (region, None)]
    if not region:
        found = f"{label} do not agree on one region."
        if cluster["platform"] == "AWS":
            found = "The Infrastructure of the cluster names no region."
        return finding(
            "region",
            "error",
            found,
            "The cloud is asked by region, and the VMs are made in one.",
            f"Check that the cloud controller manager runs, or {leave_out}",
        )
    if elsewhere:
        return finding(
            "region",
            "warning",
            f"{label} say another region than the cluster's, {region}: {in_words(elsewhere)}.",
            "The VMs are made in the cluster's region and have to reach their workers.",
            f"Check where these nodes are, or {leave_out}",
        )
    return finding("region", "ok", f"Everything is in {region}.")


def _inside(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    details = cluster["details"]
    yield _runtime_class(cluster)
    if cluster["is_openshift"]:
        yield _channel(cluster, settings)
        yield from _operator_version(cluster, settings)
    yield _webhooks(cluster, settings["webhook_manager"])
    yield from _generation(cluster, settings["node_capacity_manager"])
    yield _advertisers(details["operator"], details["advertisers"], settings["node_capacity_manager"])
    yield _api_features(cluster)


def _runtime_class(cluster: Mapping) -> dict:
    found = cluster["details"]["runtime_class"]
    if "runtime_class" in cluster["details"]["unread"]:
        return _unknown("runtime-class", cluster, "runtime_class")
    if not found:
        return finding("runtime-class", "ok", "There is none yet: it comes with a KataConfig for peer pods.")
    overhead = " and ".join(f"{amount} {name}" for name, amount in sorted(found["overhead"].items()))
    if overhead:
        return finding("runtime-class", "ok", f"A peer pod costs its worker {overhead}.")
    return finding(
        "runtime-class",
        "warning",
        "It says no overhead.",
        "The scheduler takes peer pods to cost their workers nothing, and fills these up.",
        "Set overhead.podFixed of the RuntimeClass, or have the operator make it anew.",
    )


def _channel(cluster: Mapping, settings: Mapping) -> dict:
    catalogs = cluster["details"]["catalogs"]
    channel = settings["channel"]
    source, namespace = settings["source"], settings["source_namespace"]
    if "packages" in cluster["details"]["unread"]:
        return _unknown("operator-channel", cluster, "packages")
    if catalogs is None:
        return finding(
            "operator-channel",
            "unknown",
            "The cluster serves no PackageManifests, which tell what catalogs have.",
            "Where the catalog has no such channel nothing is installed.",
            "Check that the operator lifecycle manager runs.",
        )
    channels = [one["channels"] for one in catalogs if (one["name"], one["namespace"]) == (source, namespace)]
    if any(channel in these for these in channels):
        return finding("operator-channel", "ok", f"{source} has the channel {channel}.")
    offered = [f"{one['name']} in {one['namespace']} ({', '.join(one['channels'])})" for one in catalogs]
    # What is installed already needs no catalog, until it is to be upgraded.
    needed = settings["installs"] and not cluster["details"]["runtime_class"]
    status = "error" if needed else "warning"
    has = f"has the operator, but not in {channel}" if channels else "has no such operator"
    return finding(
        "operator-channel",
        status,
        f"The catalog {source} in {namespace} {has}.",
        "The operator is installed from there.",
        f"Set operator_install_source and operator_install_channel to what there is: {in_words(offered)}."
        if offered
        else "Check that the CatalogSource is there and ready, or name a mirror's by operator_install_source.",
    )


def _operator_version(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    """Whether what would be installed is for this OpenShift; what cannot be told is said elsewhere."""
    openshift, channel, source = cluster["version"], settings["channel"], settings["source"]
    # What is installed already is not installed anew: the channel tells what it would be upgraded to.
    csv = None if cluster["details"]["runtime_class"] else settings["starting_csv"]
    told = f"operator_install_starting_csv is {csv}"
    if not csv:
        csv = _head(cluster["details"]["catalogs"] or (), settings)
        told = f"{channel} of {source} has {csv}"
    if not csv or not openshift:
        return
    release, newest = csv_version(csv)[:2], max(NEEDED_OPENSHIFT, key=_numbers)
    needed = NEEDED_OPENSHIFT.get(".".join(map(str, release)))
    if needed is None:
        told += (
            f", newer than what this collection's table knows ({newest})"
            if [*release] > _numbers(newest)
            else ", which this collection's table does not have"
        )
        yield finding("operator-version", "ok", f"{told}: its release notes say which OpenShift it is for.")
        return
    told += f", which is for OpenShift {needed} and newer"
    if _numbers(openshift) < _numbers(needed):
        yield finding(
            "operator-version",
            "warning",
            f"{told}; the cluster is OpenShift {openshift}.",
            "On an older one it may not be installed, and nobody tests it there.",
            f"Upgrade the cluster to OpenShift {needed}, or have an older operator: from another "
            "operator_install_channel or operator_install_source, or by operator_install_starting_csv "
            "with operator_install_install_plan_approval=Manual.",
        )
        return
    if _numbers(openshift)[:2] > _numbers(NEWEST_OPENSHIFT):
        told += f". OpenShift {openshift} is newer than what this collection's table knows ({NEWEST_OPENSHIFT})"
    yield finding("operator-version", "ok", f"{told}.")


def _head(catalogs: Iterable[Mapping], settings: Mapping) -> str | None:
    """What the channel that is asked for would install."""
    wanted = (settings["source"], settings["source_namespace"])
    heads = (one["heads"] for one in catalogs if (one["name"], one["namespace"]) == wanted)
    return next((these[settings["channel"]] for these in heads if settings["channel"] in these), None)


def _webhooks(cluster: Mapping, manager: str) -> dict:
    if "webhooks" in cluster["details"]["unread"]:
        return _unknown("other-webhooks", cluster, "webhooks")
    of = sorted({one["configuration"] for one in cluster["details"]["webhooks"]})
    strangers = [name for name in of if name not in (OUR_CONFIGURATION, OPERATORS_CONFIGURATION)]
    why = "Two webhooks change the same pods: the second one sizes the VM by what the first one left."
    if strangers:
        return finding(
            "other-webhooks",
            "warning",
            f"There are webhooks for peer pods of neither the operator nor this collection: {in_words(strangers)}.",
            why,
            "Delete these MutatingWebhookConfigurations, or keep them and set webhook_manager to operator.",
        )
    if OPERATORS_CONFIGURATION in of and manager == "collection":
        return finding(
            "other-webhooks",
            "warning",
            "The operator has its own webhook, and webhook_manager is collection.",
            why,
            "Set webhook_manager to auto, by which the collection's stands aside.",
        )
    if OPERATORS_CONFIGURATION in of:
        return finding("other-webhooks", "ok", "The operator has its own; the collection's stands aside.")
    return finding("other-webhooks", "ok", "There are none.")


def _generation(cluster: Mapping, manager: str) -> Iterator[dict]:
    """Where the operator stores the limit, what advertises it, and whether its settings are ones that it honours."""
    if "operator" in cluster["details"]["unread"]:
        yield _unknown("limit-storage", cluster, "operator")
        return
    operator = cluster["details"]["operator"]
    if operator is None:
        yield finding("limit-storage", "ok", "The operator is not installed yet.")
        return
    limits = cluster["details"]["limits"] or {"agent_deployed": None, "problems": []}
    yield _limit_storage(operator, limits["agent_deployed"])
    if operator["limit_in"] != PEER_PODS_CM:
        yield from _pools(operator)
    else:
        yield _adaptor_settings(operator)
        yield from _entries(limits)
        if operator["peer_pod_configs"] is not None:
            yield _migration(operator, manager)


def _limit_storage(operator: Mapping, has_agent: bool | None) -> dict:
    version = operator["version"]
    name = f"Operator {version}" if version else "The operator, whose version cannot be read,"
    where = (
        "the ConfigMap peer-pods-cm"
        if operator["limit_in"] == PEER_PODS_CM
        else "PeerPodConfig peerpodconfig-openshift"
    )
    found = f"{name} stores the limit in {where}; {operator['advertiser']} advertises it."
    if has_agent and operator["limit_in"] == PEER_PODS_CM:
        found += (
            " The agent of the role node_capacity sets what nodes advertise: the limits in the ConfigMap peerpods-limits, "
            "or this one where that has none."
        )
    if operator["known"]:
        return finding("limit-storage", "ok", found)
    first, newest = (".".join(map(str, release)) for release in (FIRST.since, NEWEST_KNOWN))
    alike = newest if operator["limit_in"] == PEER_PODS_CM else first
    return finding(
        "limit-storage",
        "warning",
        f"Operator {version} is not a release that this collection knows ({first} to {newest}). It is treated as "
        f"{alike}: {found}",
        "A release that stores the limit elsewhere, or restarts cloud-api-adaptor at other times, would lose peer pods.",
        "Update this collection, or try a limit change on a test cluster first.",
    )


def _pools(operator: Mapping) -> Iterator[dict]:
    """Several PeerPodConfigs, of which some releases serve only one."""
    names, version = operator["peer_pod_configs"] or (), operator["version"]
    behaviour = behaviour_of(version) if version else NEWEST_OF_FIRST_GENERATION
    if len(names) > 1 and behaviour.moves_adaptor:
        yield finding(
            "limit-pools",
            "warning",
            f"There are several PeerPodConfigs: {in_words(names)}. The operator runs cloud-api-adaptor only on the nodes of "
            "the one that was written last.",
            "No peer pod can start on the other nodes, and each write to another PeerPodConfig loses the running ones.",
            "Keep one PeerPodConfig, or upgrade the operator to 1.9 or newer, where the agent of the role node_capacity gives "
            "pools of nodes their limits.",
        )


def _entries(limits: Mapping) -> Iterator[dict]:
    """Limits of pools that the node capacity agent cannot enforce."""
    if limits["agent_deployed"] and limits["problems"]:
        yield finding(
            "limit-pools",
            "warning",
            " ".join(limits["problems"]),
            "No node gets a limit by such an entry: it keeps what it advertises, or has another pool's limit.",
            "Set the limit of the pool with osc.peerpods.peerpod_limit, or remove it with state=absent.",
        )


def _adaptor_settings(operator: Mapping) -> dict:
    """Values that cloud-api-adaptor or the operator cannot read."""
    limit, strategy = operator["limit"], operator["update_strategy"]
    is_negative = limit is not None and NEGATIVE_NUMBER.fullmatch(limit.strip())
    if limit and whole_number(limit) is None and not is_negative:
        return finding(
            "adaptor-settings",
            "warning",
            f"{LIMIT_KEY} in peer-pods-cm is {limit!r}, which is not a whole number that Kubernetes can count with.",
            "At its next start cloud-api-adaptor does not run, or advertises another number, as its release does.",
            f"Correct {LIMIT_KEY} in peer-pods-cm with osc.peerpods.adaptor_config.",
        )
    if strategy is not None and strategy not in UPDATE_STRATEGIES:
        return finding(
            "adaptor-settings",
            "warning",
            f"{UPDATE_STRATEGY_KEY} in osc-feature-gates is {strategy!r}. The operator ignores it and uses "
            "RollingUpdate.",
            "A write to peer-pods-cm then replaces every cloud-api-adaptor pod, and the peer pods of each node are lost.",
            f"Set {UPDATE_STRATEGY_KEY} to {' or '.join(UPDATE_STRATEGIES)}; the values are case-sensitive.",
        )
    if operator["strategy_is_held"]:
        return finding(
            "adaptor-settings",
            "warning",
            f"{UPDATE_STRATEGY_KEY} in osc-feature-gates is {strategy}: a run of this collection set it, and has not "
            "restored it, because it was interrupted or left cloud-api-adaptor pods with older settings.",
            "The operator replaces no cloud-api-adaptor pod until it is restored, not even after an upgrade.",
            "Run osc.peerpods.adaptor_config with resume=true: it replaces these pods and restores the strategy.",
        )
    told = f"{LIMIT_KEY} is {limit.strip()}" if limit else f"{LIMIT_KEY} is not set, which means 10"
    if is_negative:
        told += ": cloud-api-adaptor advertises nothing"
    return finding("adaptor-settings", "ok", f"{told}.")


def _migration(operator: Mapping, manager: str) -> dict:
    """What an upgrade from a release with PeerPodConfigs left behind."""
    left, owner = operator["peer_pod_configs"], operator["older_daemon_set_of"]
    if OPERATORS_CONFIG in left:
        return finding(
            "migration",
            "warning",
            f"PeerPodConfig {OPERATORS_CONFIG} is left over from an older release: the operator has not yet moved its "
            "limit to peer-pods-cm.",
            "The operator moves the limit and deletes the PeerPodConfig when it next reconciles the KataConfig. Until then "
            "two limits exist.",
            "Check that the operator's pod runs: oc get pods -n openshift-sandboxed-containers-operator.",
        )
    if owner is not None:
        found, remedy = explain_two_adaptors(owner)
        return finding(
            "migration",
            "warning",
            found,
            "Each of the two serves peer pods and writes the node's slots.",
            remedy,
        )
    if left and manager == "operator":
        return finding(
            "migration",
            "warning",
            f"PeerPodConfigs are left over from an older release: {in_words(left)}. With node_capacity_manager=operator "
            "nothing honours them.",
            "The nodes that they select advertise the limit of peer-pods-cm.",
            "Set node_capacity_manager to auto and run site.yml, or remove them with osc.peerpods.peerpod_limit and "
            "state=absent.",
        )
    if left:
        return finding(
            "migration",
            "ok",
            f"PeerPodConfigs are left over from an older release: {in_words(left)}. Only the agent of the role "
            "node_capacity honours them, as limits of its pools.",
        )
    return finding(
        "migration",
        "ok",
        "The CustomResourceDefinition of PeerPodConfigs is left over from an older release. It has no effect.",
    )


def _advertisers(operator: Mapping | None, advertisers: Iterable[Mapping], manager: str) -> dict:
    """Field managers that write the extended resource besides the operator's own program and the agent."""
    expected = OPERATORS_MANAGERS.get((operator or {}).get("limit_in"))
    others = [
        one["summary"] for one in advertisers if one["kind"] in ("person", "controller") and one["manager"] != expected
    ]
    if not others:
        return finding("other-advertisers", "ok", "No other program advertises peer pods.")
    found = f"kata.peerpods.io/vm is advertised by {'; '.join(others)}."
    if manager == "operator":
        return finding("other-advertisers", "ok", found)
    return finding(
        "other-advertisers",
        "warning",
        found,
        "The agent of the role node_capacity advertises the limit too, and the two overwrite each other.",
        "Stop that program, or set node_capacity_manager to operator.",
    )


def _api_features(cluster: Mapping) -> dict:
    details = cluster["details"]
    for reading in ("version", "admission_apis"):
        if reading in details["unread"]:
            return _unknown("api-features", cluster, reading)
    policies = details["mutating_admission_policy"]
    validating = "" if details["validating_admission_policy"] else "no "
    found = (
        f"Kubernetes {details['kubernetes_version']} serves {validating}ValidatingAdmissionPolicy, and "
        f"{f'MutatingAdmissionPolicy as {policies}' if policies else 'no MutatingAdmissionPolicy'}"
    )
    if details["match_conditions"]:
        return finding("api-features", "ok", f"{found}. Webhooks can have matchConditions.")
    return finding(
        "api-features",
        "warning",
        f"{found}. Webhooks cannot have matchConditions.",
        "The webhook is called for every pod outside of the excluded namespaces, not for peer pods alone.",
        "Upgrade to OpenShift 4.15 or newer.",
    )


def _number(settings: Mapping) -> Iterator[dict]:
    if _limit(settings) is None:
        yield finding(
            "limit",
            "error",
            f"peerpodconfig_rollout_limit is {str(settings['limit'])!r}, which is no number.",
            "It is how many peer pods a node may have.",
            "Set it to a whole number.",
        )


def _cloud(cluster: Mapping, settings: Mapping, readings: Mapping) -> Iterator[dict]:
    platform = cluster["platform"]
    if platform not in CLOUDS:
        yield finding("cloud-credentials", "unknown", "Not asked: it is not known which cloud.")
        return
    answers = {name: _answer(readings.get(name)) for name in ANSWERS}
    first = answers["caller" if platform == "AWS" else "sizes"]
    if first is None:
        yield finding("cloud-credentials", "unknown", f"Not asked: {platform} is asked by region.")
        return
    who = _aws_identity(first) if platform == "AWS" else _azure_identity(first, cluster)
    yield who
    if who["status"] == "error":
        if settings["thorough"]:
            for check in ("ports", "quota", "subnet-addresses"):
                yield finding(check, "unknown", f"{platform} was not asked for want of credentials.")
        return
    if answers["ports"]:
        yield (
            _aws_ports(answers["ports"])
            if platform == "AWS"
            else _azure_ports(answers["ports"], settings["when_shadowed"])
        )
        if answers["port_rights"]:
            yield _port_rights(answers["port_rights"], platform)
    elif settings["thorough"]:
        yield finding("ports", "unknown", "No worker names an instance to look at.")
    yield from _room(cluster, settings, answers)


def _answer(result: Mapping | None) -> Mapping | None:
    """A module's result, None where the task was skipped or not there."""
    return None if not result or result.get("skipped") else result


def _aws_identity(caller: Mapping) -> dict:
    if "account" in caller:
        return finding("cloud-credentials", "ok", f"AWS takes us for {caller['arn']} of {caller['account']}.")
    said = caller.get("msg", "no answer").strip().rstrip(".")
    return finding(
        "cloud-credentials",
        "error",
        f"AWS did not accept who we are ({said}).",
        "The ports are opened, and the VMs made, with these credentials.",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to credentials of the "
        "account the cluster runs in.",
    )


def _azure_identity(sizes: Mapping, cluster: Mapping) -> dict:
    if "sizes" in sizes:
        return finding(
            "cloud-credentials",
            "ok",
            f"Azure accepts who we are in the subscription {cluster['subscription_id']}.",
        )
    return finding(
        "cloud-credentials",
        "error",
        sizes["msg"],
        "The ports are opened, and the VMs made, with these credentials.",
        "Set AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID to a service principal that "
        "may read the cluster's subscription.",
    )


WHY_PORTS = "A worker talks to its peer pods' VMs on these ports."


def _aws_ports(answer: Mapping) -> dict:
    if "groups" not in answer:
        return finding("ports", "error", answer["msg"], WHY_PORTS, "Mend that; then look again.")
    opened = [
        f"{port['port']}/{port['protocol']} of {group['group_id']}"
        for group in answer["groups"]
        for port in group["opened"]
    ]
    there = [
        f"{port['port']}/{port['protocol']} of {group['group_id']} (by {port['covered_by']})"
        for group in answer["groups"]
        for port in group["already_open"]
    ]
    return finding("ports", "ok", _ports_found(answer, there, opened))


def _port_rights(answer: Mapping, platform: str) -> dict:
    if "groups" in answer or "network_security_groups" in answer:
        return finding("port-rights", "ok", f"{platform} would let these credentials open the ports.")
    # A right to look at rights is none that the ports need.
    if platform == "Azure" and "missing_permissions" not in answer:
        return finding("port-rights", "unknown", answer["msg"])
    return finding(
        "port-rights",
        "error",
        answer["msg"],
        "The role cloud_networking opens the ports with these credentials.",
        "Or have somebody open the ports who may, and look again.",
    )


def _azure_ports(answer: Mapping, when_shadowed: str) -> dict:
    if "network_security_groups" not in answer:
        return finding("ports", "error", answer["msg"], WHY_PORTS, "Mend that; then look again.")
    groups = answer["network_security_groups"]
    opened = [
        f"{rule['name']} of {group['name']}" for group in groups for rule in (*group["created"], *group["updated"])
    ]
    there = [
        *(f"{one['name']} of {group['name']} (by {one['covered_by']})" for group in groups for one in group["covered"]),
        *(f"{name} of {group['name']}" for group in groups for name in group["unchanged"]),
        *answer["unfiltered"],
    ]
    found = _ports_found(answer, there, opened)
    shadowed = [
        f"{one['name']} would come too late in {group['name']}: {one['shadowed_by']}"
        for group in groups
        for one in group["shadowed"]
    ]
    if shadowed:
        return finding(
            "ports",
            "error" if when_shadowed == "fail" else "warning",
            f"{found} {'; '.join(shadowed)}.",
            WHY_PORTS,
            "Move the rules that deny to larger priority numbers, or give ours smaller ones by "
            "cloud_networking_security_rules.",
        )
    return finding("ports", "ok", found)


def _ports_found(answer: Mapping, there: list[str], opened: list[str]) -> str:
    return " ".join(
        [
            answer["chosen_because"],
            *([f"Open already: {in_words(there)}."] if there else []),
            *([f"To be opened: {in_words(opened)}."] if opened else []),
        ]
    )


def _room(cluster: Mapping, settings: Mapping, answers: Mapping) -> Iterator[dict]:
    """Whether the cloud has room for the limit on all workers."""
    sizes, subnet = answers["sizes"], answers["subnet"]
    if sizes:
        unavailable = _unavailable(cluster, sizes)
        yield from unavailable
        if any(one["status"] == "error" for one in unavailable):
            sizes = None
    # An error of its own: what cannot be multiplied is not compared.
    if settings["quota"] == "ignore" or not cluster["workers"] or _limit(settings) is None:
        return
    if sizes:
        yield _quota(cluster, settings, sizes)
    if subnet:
        yield _addresses(cluster, settings, subnet)
    elif settings["thorough"]:
        yield finding(
            "subnet-addresses",
            "unknown",
            "Which subnet the VMs are to be in is not known, since the workers' is not.",
        )


def _limit(settings: Mapping) -> int | None:
    limit = str(settings["limit"])
    return int(limit) if limit.isdecimal() else None


def _compare(cluster: Mapping, settings: Mapping, check: str, room: int, said: str, otherwise: str) -> dict:
    """Whether so many VMs as the limit on all workers may come to have room."""
    limit, nodes = _limit(settings), len(cluster["workers"])
    if room >= limit * nodes:
        return finding(check, "ok", f"{said[0].upper()}{said[1:]}.")
    return finding(
        check,
        {"fail": "error", "warn": "warning"}[settings["quota"]],
        f"{limit} peer pods on each of {nodes} nodes are {limit * nodes} VMs, but {said}.",
        ONE_VM_EACH,
        f"Set peerpodconfig_rollout_limit to {room // nodes}, or {otherwise}.",
    )


def _unavailable(cluster: Mapping, answer: Mapping) -> list[dict]:
    """What there is to say of VM sizes that the cloud does not have, or that nothing is known of."""
    region = cluster["region"]
    if cluster["platform"] == "AWS":
        missing = [one for one in answer.get("instance_types", ()) if one["vcpus"] is None]
        names, how = (
            "operator_install_podvm_instance_type and operator_install_podvm_instance_types",
            (f"`aws ec2 describe-instance-type-offerings --region {region}`"),
        )
    else:
        missing = [one for one in answer["sizes"] if not one["available"]]
        names, how = (
            "operator_install_azure_instance_size and operator_install_azure_instance_sizes",
            (f"`az vm list-skus --location {region} --resource-type virtualMachines`"),
        )
    if missing:
        return [
            finding(
                "vm-sizes",
                "error",
                " ".join(one["reason"] for one in missing),
                "The VMs of peer pods cannot be made.",
                f"Set {names} to sizes that {how} offers.",
            )
        ]
    there = [one["name"] for one in answer.get("instance_types", answer.get("sizes", ()))]
    return [finding("vm-sizes", "ok", f"{region} has {in_words(there)}.")] if there else []


def _quota(cluster: Mapping, settings: Mapping, answer: Mapping) -> dict:
    platform, region = cluster["platform"], cluster["region"]
    one = next(iter(answer.get("instance_types") or answer.get("sizes") or ()), None)
    if one is None or one["instances"] is None:
        reason = answer["msg"] if one is None else one["reason"]
        return finding(
            "quota",
            "unknown",
            reason or f"{platform} counts no vCPUs of {one['name']}.",
            ONE_VM_EACH,
            "Look at the quota by hand.",
        )
    room = (
        f"{platform} has room for {one['instances']} more VMs of {one['name']} in {region}, "
        f"of {one['vcpus']} vCPUs each"
    )
    if platform == "AWS":
        which = f"{one['quota_code']} in {region}"
        used = f"{one['used']} of {one['quota']} vCPUs of the quota {one['quota_code']} are in use"
    else:
        which = f"of {one['family']} or of all vCPUs in {region}"
        used = (
            f"{one['family_used']} of {one['family_limit']} vCPUs of {one['family']} are in use, and "
            f"{one['regional_used']} of {one['regional_limit']} of all families"
        )
    return _compare(cluster, settings, "quota", one["instances"], f"{room} ({used})", f"request a higher quota {which}")


def _addresses(cluster: Mapping, settings: Mapping, answer: Mapping) -> dict:
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
        f"the subnet {name} has {subnet['free']} free addresses",
        "give the VMs a larger subnet",
    )


def _unknown(check: str, cluster: Mapping, reading: str) -> dict:
    return finding(check, "unknown", _unread(cluster, reading))


def _unread(cluster: Mapping, reading: str) -> str:
    return cluster["details"]["unread"][reading]
