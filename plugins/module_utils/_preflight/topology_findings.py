# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings about the topology of the cluster, its proxy and its mirrors (no I/O here).

What a finding states about the operator has its source in `_peerpods/deployment.py`. The configuration of the VMs is
the `cdh.toml` of their initdata (confidential-data-hub/hub/src/config.rs of confidential-containers/guest-components).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.credentials import REQUEST, TOKEN
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.deployment import (
    DAEMON_SET,
    KATA_POOL,
    WORKER_POOL,
    Deployment,
    explain_never_rolled,
    explain_reboot,
    is_converged,
    never_rolled,
    plan_deployment,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.generation import csv_version
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import INITDATA_KEY, PROXY_KEYS
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.cluster_findings import channel_head
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.credential_findings import (
    CREATE,
    chosen_credentials,
)
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import finding, unknown_finding
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

# The topologies of a control plane with one node, and of one outside of the cluster (config/v1 of openshift/api).
SINGLE, HOSTED = "SingleReplica", "External"

GUIDE = "The guide Topologies has an example."

# The repositories of the operator's images.
OPERATORS_IMAGES = "registry.redhat.io/openshift-sandboxed-containers"

# The first release that gives the proxy of the operator to cloud-api-adaptor (pull request 2839 of
# openshift/sandboxed-containers-operator: getProxyEnvVars in controllers/peerpods.go).
PASSES_PROXY = (1, 13)


def topology_findings(cluster: Mapping, settings: Mapping) -> Iterator[dict]:
    """The findings about what `cluster_info` returned, with the `settings` of the roles."""
    if not cluster["is_openshift"]:
        return
    details = cluster["details"]
    if "machine_configs" in details["unread"]:
        for check in ("control-plane", "kata-rollout", "machine-config-pools"):
            yield unknown_finding(check, cluster, "machine_configs")
    else:
        deployment = _deployment(cluster, settings)
        yield _control_plane(cluster, settings)
        yield _rollout(cluster, settings, deployment)
        yield _pools(cluster, settings, deployment)
    yield unknown_finding("proxy", cluster, "proxy") if "proxy" in details["unread"] else _proxy(cluster, settings)
    unread = next((reading for reading in ("mirrors", "operator_hub") if reading in details["unread"]), None)
    yield unknown_finding("mirrors", cluster, unread) if unread else _mirrors(cluster, settings)
    if "aro" in details["unread"]:
        yield unknown_finding("aro", cluster, "aro")
    elif details["aro"]:
        yield _aro(cluster, settings)


def _deployment(cluster: Mapping, settings: Mapping) -> Deployment:
    version = _version(cluster, settings)
    gate = settings["deployment_mode"] or (cluster["details"]["operator"] or {}).get("deployment_mode")
    return plan_deployment(version, gate, cluster["details"]["machine_configs"])


def _version(cluster: Mapping, settings: Mapping) -> str | None:
    """The installed version, or the version to install if the catalog has it."""
    details = cluster["details"]
    if details["operator"]:
        return details["operator"]["version"]
    csv = settings["starting_csv"] or channel_head(cluster, settings)
    return ".".join(map(str, csv_version(csv))) or None if csv else None


def _is_to_be_installed(cluster: Mapping, settings: Mapping) -> bool:
    """Whether this run enables peer pods, which changes the nodes."""
    return settings["installs"] and not cluster["details"]["runtime_class"]


def _control_plane(cluster: Mapping, settings: Mapping) -> dict:
    topology, pools = cluster["topology"], cluster["details"]["machine_configs"]["pools"]
    if topology["control_plane"] == HOSTED:
        found = "The control plane is hosted outside of the cluster, as on ROSA with hosted control planes."
        if not _is_to_be_installed(cluster, settings):
            return finding("control-plane", "ok", found)
        documented = "on AWS, as a Technology Preview" if cluster["platform"] == "AWS" else "on AWS only"
        return finding(
            "control-plane",
            "warning",
            found,
            f"The product documentation describes peer pods on hosted control planes {documented}.",
            "Try peer pods on a cluster that is not in production first. No cloud credential operator answers a "
            "CredentialsRequest there: choose other credentials for the VMs (operator_install_credentials).",
        )
    shared = [node["name"] for node in topology["control_plane_workers"]]
    if topology["control_plane"] == SINGLE and pools is not None and is_converged(pools):
        return finding("control-plane", "ok", "The cluster has a single node.")
    if pools is not None and is_converged(pools):
        return finding("control-plane", "ok", "The nodes of the control plane are the workers: a compact cluster.")
    if shared:
        return finding("control-plane", "ok", f"Nodes of the control plane are also workers: {join_names(shared)}.")
    return finding("control-plane", "ok", "The control plane has nodes of its own.")


def _rollout(cluster: Mapping, settings: Mapping, deployment: Deployment) -> dict:
    """How kata gets onto the nodes, and what that does to them."""
    installs = _is_to_be_installed(cluster, settings)
    if deployment.mode is None:
        return finding(
            "kata-rollout",
            "error" if installs else "warning",
            deployment.problem,
            "Without kata on a node, the node runs no peer pods.",
            deployment.remedy,
        )
    if deployment.mode == DAEMON_SET:
        return finding(
            "kata-rollout",
            "ok",
            "A DaemonSet of the operator installs kata on the nodes and restarts CRI-O, without a reboot. After a "
            "removal of kata, the nodes must be rebooted or replaced by an administrator.",
        )
    topology, pools = cluster["topology"], cluster["details"]["machine_configs"]["pools"]
    waiting = never_rolled(deployment, topology["control_plane_workers"], settings["pool_selector"])
    if waiting and installs:
        return finding(
            "kata-rollout",
            "error",
            explain_never_rolled(waiting),
            "The installation would end with a timeout, and these nodes run no peer pods.",
            _select_others(cluster, pools),
        )
    reboot = explain_reboot(deployment, pools)
    if not reboot:
        return finding(
            "kata-rollout",
            "ok",
            f"The nodes of a KataConfig join the MachineConfigPool {KATA_POOL} and are rebooted one after the other.",
        )
    if installs and settings["confirm"] != cluster["infrastructure_name"]:
        return finding(
            "kata-rollout",
            "error",
            reboot,
            "A KataConfig installs kata by a MachineConfig of the pool master.",
            f"Set operator_install_confirm to {cluster['infrastructure_name']}, the infrastructure name of this "
            "cluster, to allow this.",
        )
    return finding("kata-rollout", "ok", f"For a new, changed or deleted KataConfig: {reboot}")


def _select_others(cluster: Mapping, pools: list[Mapping]) -> str:
    daemon_set = "set deploymentMode in operator_install_feature_gates to DaemonSet (operator 1.10.3 and newer)"
    if len(cluster["topology"]["control_plane_workers"]) < len(cluster["workers"]):
        return (
            "Set operator_install_kataconfig_pool_selector to a label that only the other workers have, or "
            f"{daemon_set}."
        )
    others = [pool["name"] for pool in pools if pool["name"] not in ("master", WORKER_POOL)]
    return (
        "The operator installs kata on nodes of the control plane only if the MachineConfigPools master and worker are "
        f"the only ones: delete {join_names(others) or 'the others'}, or {daemon_set}."
    )


def _pools(cluster: Mapping, settings: Mapping, deployment: Deployment) -> dict:
    """Whether the machine config operator can update the nodes."""
    pools = cluster["details"]["machine_configs"]["pools"]
    if pools is None:
        return finding("machine-config-pools", "ok", "The cluster serves no MachineConfigPools.")
    if deployment.pool is None:
        return finding("machine-config-pools", "ok", "The installation of kata does not use MachineConfigPools.")
    relevant = [pool for pool in pools if pool["name"] in {deployment.pool, WORKER_POOL}]
    broken = [pool for pool in relevant if pool["problem"]]
    # The nodes leave the pool worker for kata-oc. A pause of worker does not keep them, a degraded node does.
    blocks = any(pool["name"] == deployment.pool or not pool["paused"] for pool in broken)
    if broken:
        installs = _is_to_be_installed(cluster, settings)
        is_only_worker = all(pool["name"] != deployment.pool for pool in broken)
        is_excluded = is_only_worker and bool(settings["pool_selector"])
        return finding(
            "machine-config-pools",
            "error" if installs and blocks and not is_excluded else "warning",
            " ".join(pool["problem"] for pool in broken),
            "The machine config operator updates no node of such a pool: neither an installation of kata nor its "
            "removal would end.",
            "Fix the cause or set spec.paused to false. A KataConfig for other nodes "
            "(operator_install_kataconfig_pool_selector) can be installed meanwhile.",
        )
    updating = [
        f"{pool['name']} ({pool['updated']} of {pool['machines']} nodes)" for pool in relevant if pool["updating"]
    ]
    if updating:
        return finding(
            "machine-config-pools",
            "warning",
            f"The machine config operator is updating the MachineConfigPool {join_names(updating)}.",
            "Nodes are rebooted twice if kata is installed meanwhile.",
            "Wait until `oc get machineconfigpool` shows UPDATED for it.",
        )
    names = join_names([pool["name"] for pool in relevant])
    return finding("machine-config-pools", "ok", f"The nodes of {names} are updated, and no pool is paused.")


def _has_initdata(cluster: Mapping, settings: Mapping) -> bool:
    operator = cluster["details"]["operator"] or {}
    return bool(operator.get("has_initdata")) or INITDATA_KEY in settings["extra_keys"]


def _proxy(cluster: Mapping, settings: Mapping) -> dict:
    proxy, operator = cluster["details"]["proxy"], cluster["details"]["operator"] or {}
    authorities = (
        f" ConfigMap {proxy['trusted_ca']} has further certification authorities." if proxy["trusted_ca"] else ""
    )
    url = proxy["https_proxy"] or proxy["http_proxy"]
    if not url:
        return finding("proxy", "ok", f"The cluster has no cluster-wide proxy.{authorities}")
    version = _version(cluster, settings)
    is_new = version is None or csv_version(f".v{version}")[:2] >= PASSES_PROXY
    has_adaptor = is_new or operator.get("has_proxy") or {*PROXY_KEYS} & {*settings["extra_keys"]}
    found, steps = f"The cluster uses the proxy {url}.{authorities}", []
    if not has_adaptor:
        found += f" Operator {version} does not pass it to cloud-api-adaptor."
        steps.append(
            "Set HTTPS_PROXY and NO_PROXY in operator_install_extra_config to the values in the status of "
            "`oc get proxy cluster -o yaml`."
        )
    if not _has_initdata(cluster, settings):
        found += " The VMs of peer pods do not use it."
        steps.append(
            "If the subnet of the VMs reaches registries only through the proxy, set INITDATA in "
            "operator_install_extra_config, with image_pull_proxy"
            f"{' and extra_root_certificates' if authorities else ''} in its cdh.toml. {GUIDE}"
        )
    if not steps:
        return finding("proxy", "ok", found)
    return finding(
        "proxy",
        "warning",
        found,
        "cloud-api-adaptor calls the API of the cloud, and the VM of a peer pod pulls its images itself.",
        " ".join(steps),
    )


def _mirrors(cluster: Mapping, settings: Mapping) -> dict:
    mirrors, disabled = cluster["details"]["mirrors"], cluster["details"]["disabled_catalogs"]
    sources = sorted({entry["source"] for entry in mirrors})
    found, steps = [], []
    if sources:
        found.append(f"Images of {join_names(sources)} come from mirrors.")
    if disabled:
        found.append(f"Default catalogs are disabled: {join_names(disabled)}.")
    if not found:
        return finding("mirrors", "ok", "The cluster uses no image mirrors, and no default catalog is disabled.")
    if "redhat-operators" in disabled and not any(_covers(source) for source in sources):
        found.append(f"Images of {OPERATORS_IMAGES} have no mirror.")
        steps.append(
            "Mirror the operator with oc mirror, and apply the objects that it creates. The guide Disconnected "
            "clusters has the ImageSetConfiguration."
        )
    if sources and not _has_initdata(cluster, settings):
        steps.append(
            "Name the images of peer pods by the registry of the mirror, or set INITDATA in "
            f"operator_install_extra_config, with registry_config in its cdh.toml. {GUIDE}"
        )
    if not steps:
        return finding("mirrors", "ok", " ".join(found))
    return finding(
        "mirrors",
        "warning",
        " ".join(found),
        "Mirrors are settings of nodes. The VM of a peer pod pulls its images from the registry in their names.",
        " ".join(steps),
    )


def _covers(source: str) -> bool:
    """Whether the mirrors of this source have the operator's images."""
    return f"{OPERATORS_IMAGES}/".startswith(f"{source.rstrip('/')}/")


def _aro(cluster: Mapping, settings: Mapping) -> dict:
    aro = cluster["details"]["aro"]
    group = aro["resource_group"] or cluster["resource_group"]
    used = settings["azure_resource_group"] or cluster["resource_group"]
    found = f"This is Azure Red Hat OpenShift, which manages the resource group {group}."
    if aro["manages_nsgs"]:
        found += " It attaches its own network security group to the subnets of the cluster."
    way = chosen_credentials(cluster, settings).way
    creates_identity = way == TOKEN and CREATE in settings["credentials"]["token"]
    # A CredentialsRequest gets the identity of the cluster.
    if way == REQUEST or not _is_to_be_installed(cluster, settings):
        return finding("aro", "ok", found)
    if (used or "").lower() == (group or "").lower():
        return finding(
            "aro",
            "error" if creates_identity else "warning",
            f"{found} The VMs of peer pods{' and their identity' if creates_identity else ''} would be created in it.",
            "A deny assignment forbids every change in that resource group to other identities than those of the "
            "cluster, also for owners of the subscription. The same applies to rules of its network security group.",
            "Set operator_install_azure_resource_group to a resource group in which the VMs' identity may create VMs, "
            "and bring your own network security groups if ports must be opened (az aro create "
            "--enable-preconfigured-nsg).",
        )
    if creates_identity and aro["manages_nsgs"] and not settings["azure_nsg"]:
        return finding(
            "aro",
            "warning",
            f"{found} The VMs of peer pods would get it as well.",
            "A deny assignment forbids role assignments in that resource group. Without one, the identity that is "
            "created for the VMs may not use its network security groups.",
            "Set operator_install_azure_nsg_id to a network security group in another resource group, or assign "
            "Network Contributor on the subscription to the identity.",
        )
    return finding("aro", "ok", found)
