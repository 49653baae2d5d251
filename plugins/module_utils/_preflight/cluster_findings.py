# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the cluster (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import (
    FIRST,
    NEWEST_KNOWN,
    NEWEST_OF_FIRST_GENERATION,
    OPERATORS_MANAGERS,
    behaviour_of,
    csv_version,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.migration import explain_two_adaptors
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    LIMIT_KEY,
    OPERATORS_CONFIG,
    PEER_PODS_CM,
    UPDATE_STRATEGIES,
    UPDATE_STRATEGY_KEY,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pools import NEGATIVE_NUMBER, whole_number
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.features import OPERATORS_CONFIGURATION
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import (
    CLOUDS,
    finding,
    unknown_finding,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# The oldest OpenShift that a release of the operator supports, with peer pods on AWS and Azure. The source of each
# entry is the release's documentation, its bundle or its project.
NEEDED_OPENSHIFT = {
    # User guide of OpenShift sandboxed containers 1.4, section 3.3.1, the requirements of peer pods.
    "1.4": "4.13",
    # The bundles of 1.7.0, 1.8.1, 1.9.0, 1.10.1 and 1.11.0 in Red Hat's catalog: minKubeVersion 1.28.0,
    # which is OpenShift 4.15. Since 1.7 peer pods need the CRI-O of that release (pull request 458 of
    # openshift/sandboxed-containers-operator).
    **dict.fromkeys(("1.7", "1.8", "1.9", "1.10", "1.11"), "4.15"),
    # Pull request 1751 of the same: 1.12 drops OpenShift 4.17. Its bundle would still be installed there
    # (1.12.1 has the minKubeVersion of those above).
    "1.12": "4.18",
    # 1.13 does not support again what 1.12 dropped. Its project dropped 4.18 after 1.13, in September 2026
    # (pull request 84621 of openshift/release). The minKubeVersion of 1.13.1 is that of those above.
    "1.13": "4.18",
}
# The newest OpenShift for which the project has a catalog with the operator: fbc/v4.22, and the pull request.
NEWEST_OPENSHIFT = "4.22"

# The webhook configuration of the role webhook.
OUR_CONFIGURATION = "peerpods-webhook"


def cluster_findings(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    """The findings about what `cluster_info` returned, with the `settings` of the roles."""
    yield from _platform(cluster, settings)
    yield from _permissions(cluster)
    yield from _workers(cluster, settings)
    yield from _details(cluster, settings)


def _platform(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    platform, version, minimum = cluster["platform"], cluster["version"], settings["minimum"]
    if not cluster["is_openshift"]:
        yield finding(
            "platform",
            "error",
            "This is not an OpenShift cluster (it serves no config.openshift.io API).",
            "The operator for peer pods runs on OpenShift only.",
            f"Point the kubeconfig at a cluster with OpenShift {minimum} or newer on AWS or Azure.",
        )
        return
    if platform in CLOUDS:
        yield finding("platform", "ok", f"OpenShift on {platform}.")
    else:
        yield finding(
            "platform",
            "error",
            f"The cluster runs on {platform or 'an unknown platform'}; "
            "this collection sets up peer pods on AWS or Azure only.",
            "The VM of a peer pod is created with the API of its cloud.",
            "Point the kubeconfig at a cluster on AWS or Azure.",
        )
    if version and _version_numbers(version) >= _version_numbers(minimum):
        yield finding("version", "ok", f"OpenShift {version}; {minimum} or newer is needed.")
    else:
        yield finding(
            "version",
            "error",
            f"The cluster is OpenShift {version or 'of an unknown version'}; peer pods need {minimum} or newer.",
            "Older releases have no kata runtime with a remote hypervisor.",
            "Upgrade the cluster first.",
        )


def _version_numbers(version: str) -> list[int]:
    """The numbers of a version, without its suffix: 4.16.0-rc.1 counts as 4.16.0."""
    return [int(number) for number in re.findall(r"\d+", version.partition("-")[0])]


def _permissions(cluster: Mapping) -> Iterator[dict]:
    missing = cluster["missing_permissions"]
    log_in = "Log in as a user with the cluster-admin role."
    if cluster["is_cluster_admin"]:
        yield finding("cluster-admin", "ok", "The user is a cluster administrator.")
    elif missing:
        yield finding(
            "cluster-admin",
            "error",
            f"The user of this kubeconfig is not a cluster administrator, and may not {join_names(missing)}.",
            "The roles need these permissions.",
            log_in,
        )
    else:
        yield finding(
            "cluster-admin",
            "warning",
            "The user of this kubeconfig is not a cluster administrator, but may do what the roles do.",
            "Building images in the cluster, the cluster's own credentials and cert-manager need further permissions, "
            "which were not checked.",
            log_in,
        )


def _workers(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    workers, selector = cluster["workers"], settings["worker_selector"]
    leave_out = "exclude these nodes with cluster_prerequisites_worker_selector."
    if not workers:
        yield finding(
            "workers",
            "error",
            f"No node matches {selector}; peer pods need at least one worker node.",
            "Worker nodes start the VMs of peer pods.",
            "Add a worker node, or set cluster_prerequisites_worker_selector.",
        )
        return
    unready = [worker["name"] for worker in workers if not worker["ready"]]
    if unready:
        yield finding(
            "workers",
            "warning",
            f"{len(unready)} of {len(workers)} workers are not ready: {join_names(unready)}.",
            "A node that is not ready blocks the rollout to the other nodes, and runs no peer pods.",
            f"Make these nodes ready, or {leave_out}",
        )
    else:
        yield finding("workers", "ok", f"{len(workers)} workers, all ready.")
    without_id = [worker["name"] for worker in workers if not worker["provider_id"]]
    if without_id:
        yield finding(
            "provider-ids",
            "error",
            f"Nodes without a providerID, whose instances cannot be found in the cloud: {join_names(without_id)}.",
            "The ports are opened in the security groups of the workers' instances.",
            f"Check that the cloud controller manager runs, or {leave_out}",
        )
    else:
        yield finding("provider-ids", "ok", "All workers have a providerID.")
    if cluster["platform"] in CLOUDS:
        yield _region(cluster, leave_out)


def _region(cluster: Mapping, leave_out: str) -> dict:
    region = cluster["region"]
    elsewhere = [w["name"] for w in cluster["workers"] if w["region"] not in (region, None)]
    if not region:
        summary = "The labels topology.kubernetes.io/region of the worker nodes do not have one region in common."
        if cluster["platform"] == "AWS":
            summary = "The Infrastructure of the cluster names no region."
        return finding(
            "region",
            "error",
            summary,
            "Requests to the cloud need a region, and the VMs are created in it.",
            f"Check that the cloud controller manager runs, or {leave_out}",
        )
    if elsewhere:
        return finding(
            "region",
            "warning",
            "Worker nodes whose label topology.kubernetes.io/region differs from the region of the cluster, "
            f"{region}: {join_names(elsewhere)}.",
            "The VMs are created in the region of the cluster and must be able to connect to their workers.",
            f"Check the region of these nodes, or {leave_out}",
        )
    return finding("region", "ok", f"The cluster and its workers are in {region}.")


def _details(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    yield _runtime_class(cluster)
    if cluster["is_openshift"]:
        yield _channel(cluster, settings)
        yield from _operator_version(cluster, settings)
    yield _webhooks(cluster, settings["webhook_manager"])
    yield from _generation(cluster, settings["node_capacity_manager"])
    yield _advertisers(cluster, settings["node_capacity_manager"])
    yield _api_features(cluster)


def _runtime_class(cluster: Mapping) -> dict:
    runtime_class = cluster["details"]["runtime_class"]
    if "runtime_class" in cluster["details"]["unread"]:
        return unknown_finding("runtime-class", cluster, "runtime_class")
    if not runtime_class:
        return finding("runtime-class", "ok", "It does not exist yet: the operator creates it for a KataConfig.")
    overhead = " and ".join(f"{amount} {name}" for name, amount in sorted(runtime_class["overhead"].items()))
    if overhead:
        return finding("runtime-class", "ok", f"The overhead of a peer pod on its worker is {overhead}.")
    return finding(
        "runtime-class",
        "warning",
        "It has no overhead.podFixed.",
        (
            "The scheduler counts no CPU and memory for the processes of a peer pod on its worker, and overcommits the "
            "worker."
        ),
        "Set overhead.podFixed of the RuntimeClass, or delete the RuntimeClass so that the operator creates it again.",
    )


def _channel(cluster: Mapping, settings: Mapping) -> dict:
    catalogs = cluster["details"]["catalogs"]
    channel = _requested_channel(catalogs or (), settings)
    source, namespace = settings["source"], settings["source_namespace"]
    if "packages" in cluster["details"]["unread"]:
        return unknown_finding("operator-channel", cluster, "packages")
    if catalogs is None:
        return finding(
            "operator-channel",
            "unknown",
            "The cluster serves no PackageManifests, which list the channels of catalogs.",
            "If the catalog does not have the channel, OLM does not install the operator.",
            "Check that the Operator Lifecycle Manager (OLM) runs.",
        )
    channels = [catalog["channels"] for catalog in _requested_catalogs(catalogs, settings)]
    if any(channel in names for names in channels):
        return finding("operator-channel", "ok", f"{source} has the channel {channel}.")
    offered = [
        f"{catalog['name']} in {catalog['namespace']} ({', '.join(catalog['channels'])})" for catalog in catalogs
    ]
    status = "error" if settings["installs"] and not _keeps_operator(cluster["details"], settings) else "warning"
    lack = f"does not have the channel {channel}" if channels else "does not have the operator"
    return finding(
        "operator-channel",
        status,
        f"The catalog {source} in {namespace} {lack}.",
        "OLM installs the operator from this catalog and channel.",
        f"Set operator_install_source and operator_install_channel to one of: {join_names(offered)}."
        if offered
        else "Check that the CatalogSource exists and is ready, or set operator_install_source to that of a mirror.",
    )


def _operator_version(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    """Whether the version to install supports this OpenShift; other findings report an unknown version."""
    openshift, csv = cluster["version"], planned_csv(cluster, settings)
    if not csv or not openshift:
        return
    summary = f"operator_install_starting_csv is {csv}"
    if csv != settings["starting_csv"] or _is_installed(cluster["details"]):
        channel = _requested_channel(cluster["details"]["catalogs"] or (), settings)
        summary = f"{channel} of {settings['source']} has {csv}"
    release, newest = csv_version(csv)[:2], max(NEEDED_OPENSHIFT, key=_version_numbers)
    needed = NEEDED_OPENSHIFT.get(".".join(map(str, release)))
    if needed is None:
        summary += (
            f", newer than the newest release that this collection was tested with ({newest})"
            if [*release] > _version_numbers(newest)
            else ", a release that this collection does not know"
        )
        yield finding(
            "operator-version", "ok", f"{summary}. Its release notes list the OpenShift versions that it supports."
        )
        return
    summary += f", which needs OpenShift {needed} or newer"
    if _version_numbers(openshift) < _version_numbers(needed):
        yield finding(
            "operator-version",
            "warning",
            f"{summary}; the cluster is OpenShift {openshift}.",
            "On an older OpenShift the operator is not tested, and its installation may fail.",
            f"Upgrade the cluster to OpenShift {needed}, or install an older operator: from another "
            "operator_install_channel or operator_install_source, or with operator_install_starting_csv "
            "and operator_install_install_plan_approval=Manual.",
        )
        return
    if _version_numbers(openshift)[:2] > _version_numbers(NEWEST_OPENSHIFT):
        summary += (
            f". OpenShift {openshift} is newer than the newest version that this collection was tested with "
            f"({NEWEST_OPENSHIFT})"
        )
    yield finding("operator-version", "ok", f"{summary}.")


def planned_csv(cluster: Mapping, settings: Mapping) -> str | None:
    """The CSV that a run would install; of an installed operator, the head of its channel, to which it can be upgraded.

    None if it is not known.
    """
    if settings["starting_csv"] and not _is_installed(cluster["details"]):
        return settings["starting_csv"]
    return channel_head(cluster, settings)


def _is_installed(details: Mapping) -> bool:
    """Whether an operator is installed; without a Subscription, its RuntimeClass shows it."""
    subscription = details["subscription"]
    return bool(subscription["installed_csv"] if subscription else details["runtime_class"])


def _keeps_operator(details: Mapping, settings: Mapping) -> bool:
    """Whether a run leaves the installed operator in its channel. It then needs its catalog only for an upgrade."""
    subscription = details["subscription"] or settings
    names = ("channel", "source", "source_namespace")
    # The text of a null is empty in ansible-core before 2.19.
    return _is_installed(details) and all((subscription[name] or "") == (settings[name] or "") for name in names)


def _requested_catalogs(catalogs: Iterable[Mapping], settings: Mapping) -> list[Mapping]:
    requested = (settings["source"], settings["source_namespace"])
    return [catalog for catalog in catalogs if (catalog["name"], catalog["namespace"]) == requested]


def _requested_channel(catalogs: Iterable[Mapping], settings: Mapping) -> str | None:
    """The channel that is set, or else the default channel of the catalog; None if the catalog is unknown."""
    defaults = (catalog["default_channel"] for catalog in _requested_catalogs(catalogs, settings))
    return settings["channel"] or next(defaults, None)


def channel_head(cluster: Mapping, settings: Mapping) -> str | None:
    """The newest CSV of the requested channel."""
    catalogs = cluster["details"]["catalogs"] or ()
    channel = _requested_channel(catalogs, settings)
    return next((catalog["heads"].get(channel) for catalog in _requested_catalogs(catalogs, settings)), None)


def _webhooks(cluster: Mapping, manager: str) -> dict:
    if "webhooks" in cluster["details"]["unread"]:
        return unknown_finding("other-webhooks", cluster, "webhooks")
    configurations = sorted({webhook["configuration"] for webhook in cluster["details"]["webhooks"]})
    other_webhooks = [name for name in configurations if name not in (OUR_CONFIGURATION, OPERATORS_CONFIGURATION)]
    why = "Two webhooks mutate the same pods: the second computes the size of the VM from what the first has changed."
    if other_webhooks:
        return finding(
            "other-webhooks",
            "warning",
            (
                "Webhooks for peer pods exist that belong to neither the operator nor this collection: "
                f"{join_names(other_webhooks)}."
            ),
            why,
            "Delete these MutatingWebhookConfigurations, or keep them and set webhook_manager to operator.",
        )
    if OPERATORS_CONFIGURATION in configurations and manager == "collection":
        return finding(
            "other-webhooks",
            "warning",
            "The operator has its own webhook, and webhook_manager is collection.",
            why,
            "Set webhook_manager to auto: the collection then does not deploy its webhook.",
        )
    if OPERATORS_CONFIGURATION in configurations:
        return finding(
            "other-webhooks", "ok", "The operator has its own webhook; the collection does not deploy another."
        )
    return finding("other-webhooks", "ok", "No other webhook for peer pods exists.")


def _generation(cluster: Mapping, manager: str) -> Iterator[dict]:
    """Where the operator stores the limit, which program advertises it, and whether its settings have an effect."""
    if "operator" in cluster["details"]["unread"]:
        yield unknown_finding("limit-storage", cluster, "operator")
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
    summary = f"{name} stores the limit in {where}; {operator['advertiser']} advertises it."
    if has_agent and operator["limit_in"] == PEER_PODS_CM:
        summary += (
            " The agent of the role node_capacity sets what nodes advertise: the limits in the ConfigMap "
            "peerpods-limits, and this limit for nodes without one there."
        )
    if operator["known"]:
        return finding("limit-storage", "ok", summary)
    first, newest = (".".join(map(str, release)) for release in (FIRST.since, NEWEST_KNOWN))
    alike = newest if operator["limit_in"] == PEER_PODS_CM else first
    return finding(
        "limit-storage",
        "warning",
        f"Operator {version} is not one of the releases that this collection was tested with ({first} to {newest}). "
        f"It is treated as {alike}: {summary}",
        (
            "A release that stores the limit elsewhere, or restarts cloud-api-adaptor at other times, would lose peer "
            "pods."
        ),
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
            f"There are several PeerPodConfigs: {join_names(names)}. The operator runs cloud-api-adaptor only on the "
            "nodes of the one that was written last.",
            "No peer pod can start on the other nodes, and each write to another PeerPodConfig loses the running ones.",
            "Keep one PeerPodConfig, or upgrade the operator to 1.9 or newer, where the agent of the role "
            "node_capacity gives pools of nodes their limits.",
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
            f"{LIMIT_KEY} in peer-pods-cm is {limit!r}, which is not a whole number that Kubernetes supports.",
            "When it next starts, cloud-api-adaptor fails or advertises another number; this depends on its release.",
            f"Correct {LIMIT_KEY} in peer-pods-cm with osc.peerpods.adaptor_config.",
        )
    if strategy is not None and strategy not in UPDATE_STRATEGIES:
        return finding(
            "adaptor-settings",
            "warning",
            f"{UPDATE_STRATEGY_KEY} in osc-feature-gates is {strategy!r}. The operator ignores it and uses "
            "RollingUpdate.",
            (
                "A write to peer-pods-cm then replaces every cloud-api-adaptor pod, and the peer pods of each node are "
                "lost."
            ),
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
    summary = f"{LIMIT_KEY} is {limit.strip()}" if limit else f"{LIMIT_KEY} is not set, which means 10"
    if is_negative:
        summary += ": cloud-api-adaptor advertises nothing"
    return finding("adaptor-settings", "ok", f"{summary}.")


def _migration(operator: Mapping, manager: str) -> dict:
    """What an upgrade from a release with PeerPodConfigs left behind."""
    left, owner = operator["peer_pod_configs"], operator["older_daemon_set_of"]
    if OPERATORS_CONFIG in left:
        return finding(
            "migration",
            "warning",
            f"PeerPodConfig {OPERATORS_CONFIG} is left over from an older release: the operator has not yet moved its "
            "limit to peer-pods-cm.",
            "The operator moves the limit and deletes the PeerPodConfig when it next reconciles the KataConfig. Until "
            "then two limits exist.",
            "Check that the operator's pod runs: oc get pods -n openshift-sandboxed-containers-operator.",
        )
    if owner is not None:
        summary, remedy = explain_two_adaptors(owner)
        return finding(
            "migration",
            "warning",
            summary,
            "Each of the two serves peer pods and writes the node's slots.",
            remedy,
        )
    if left and manager == "operator":
        return finding(
            "migration",
            "warning",
            f"PeerPodConfigs are left over from an older release: {join_names(left)}. With "
            "node_capacity_manager=operator they have no effect.",
            "The nodes that they select advertise the limit of peer-pods-cm.",
            "Set node_capacity_manager to auto and run site.yml, or remove them with osc.peerpods.peerpod_limit and "
            "state=absent.",
        )
    if left:
        return finding(
            "migration",
            "ok",
            f"PeerPodConfigs are left over from an older release: {join_names(left)}. Only the agent of the role "
            "node_capacity applies them as limits of its pools.",
        )
    return finding(
        "migration",
        "ok",
        "The CustomResourceDefinition of PeerPodConfigs is left over from an older release. It has no effect.",
    )


def _advertisers(cluster: Mapping, manager: str) -> dict:
    """Field managers that write the extended resource besides the operator's own program and the agent."""
    if "advertisers" in cluster["details"]["unread"]:
        return unknown_finding("other-advertisers", cluster, "advertisers")
    expected = OPERATORS_MANAGERS.get((cluster["details"]["operator"] or {}).get("limit_in", ""))
    unexpected = [
        advertiser["summary"]
        for advertiser in cluster["details"]["advertisers"]
        if advertiser["kind"] in ("person", "controller") and advertiser["manager"] != expected
    ]
    if not unexpected:
        return finding("other-advertisers", "ok", "No other program advertises peer pods.")
    summary = f"kata.peerpods.io/vm is advertised by {'; '.join(unexpected)}."
    if manager == "operator":
        return finding("other-advertisers", "ok", summary)
    return finding(
        "other-advertisers",
        "warning",
        summary,
        "The agent of the role node_capacity advertises the limit too, and the two overwrite each other.",
        "Stop that program, or set node_capacity_manager to operator.",
    )


def _api_features(cluster: Mapping) -> dict:
    details = cluster["details"]
    for reading in ("version", "admission_apis"):
        if reading in details["unread"]:
            return unknown_finding("api-features", cluster, reading)
    policies = details["mutating_admission_policy"]
    validating = "" if details["validating_admission_policy"] else "no "
    summary = (
        f"Kubernetes {details['kubernetes_version']} serves {validating}ValidatingAdmissionPolicy, and "
        f"{f'MutatingAdmissionPolicy as {policies}' if policies else 'no MutatingAdmissionPolicy'}"
    )
    if details["match_conditions"]:
        return finding("api-features", "ok", f"{summary}. Webhooks can have matchConditions.")
    return finding(
        "api-features",
        "warning",
        f"{summary}. Webhooks cannot have matchConditions.",
        "The webhook is called for every pod outside of the excluded namespaces, not for peer pods alone.",
        "Upgrade to OpenShift 4.15 or newer.",
    )
