# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The permissions that a playbook needs in the cluster (no I/O here)."""

from __future__ import annotations

from collections.abc import Collection

# Whether the user may do everything to every resource, as the role cluster-admin allows.
ACCESS_REVIEWS_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CLUSTER_ADMIN_REVIEW = {
    "apiVersion": "authorization.k8s.io/v1",
    "kind": "SelfSubjectAccessReview",
    "spec": {"resourceAttributes": {"verb": "*", "group": "*", "resource": "*"}},
}

_READ = ("get", "list")
_WRITE = ("get", "create", "patch")
_REMOVE = (*_READ, "delete")

# The permissions that site.yml needs with any settings, by API group and resource. Left out are those that only some
# settings need (an image built in the cluster, a CredentialsRequest that site.yml creates) and resources that only some
# clusters have (cert-manager, the Prometheus operator).
SITE: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "configmaps"): ("list", *_WRITE, "delete"),
    # The job that creates the image of the pod VMs, and why it failed.
    ("", "events"): ("list",),
    ("", "namespaces"): ("list", *_WRITE),
    ("", "nodes"): ("get", "list", "watch"),
    ("", "pods/log"): ("get",),
    # A change of the settings replaces cloud-api-adaptor pods.
    ("", "pods"): ("list", "create", "watch", "delete"),
    ("", "secrets"): _WRITE,
    ("", "serviceaccounts"): _WRITE,
    ("", "services"): _WRITE,
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): (
        *_READ,
        "create",
        "update",
    ),
    ("apps", "controllerrevisions"): ("list",),
    ("apps", "daemonsets"): ("get", "list"),
    # Those of the webhook and of the agent are looked for in all namespaces.
    ("apps", "deployments"): ("list", *_WRITE),
    ("batch", "jobs"): ("get",),
    ("cloudcredential.openshift.io", "credentialsrequests"): ("get",),
    ("confidentialcontainers.org", "peerpodconfigs"): ("list", "patch"),
    ("config.openshift.io", "apiservers"): ("get",),
    ("config.openshift.io", "authentications"): ("get",),
    ("config.openshift.io", "clusterversions"): ("get",),
    # Preflight reads proxies, mirrors and catalogs.
    ("config.openshift.io", "imagedigestmirrorsets"): ("list",),
    ("config.openshift.io", "infrastructures"): ("get",),
    ("config.openshift.io", "operatorhubs"): ("get",),
    ("config.openshift.io", "proxies"): ("get",),
    ("discovery.k8s.io", "endpointslices"): ("list", "watch"),
    ("kataconfiguration.openshift.io", "kataconfigs"): ("list", *_WRITE),
    ("machineconfiguration.openshift.io", "machineconfigpools"): ("list",),
    ("networking.k8s.io", "networkpolicies"): _WRITE,
    ("node.k8s.io", "runtimeclasses"): ("get",),
    ("operator.openshift.io", "cloudcredentials"): ("get",),
    ("operator.openshift.io", "imagecontentsourcepolicies"): ("list",),
    ("operators.coreos.com", "catalogsources"): ("get",),
    ("operators.coreos.com", "clusterserviceversions"): _READ,
    ("operators.coreos.com", "installplans"): ("get", "patch"),
    ("operators.coreos.com", "operatorgroups"): ("list", *_WRITE),
    ("operators.coreos.com", "subscriptions"): ("list", *_WRITE),
    ("packages.operators.coreos.com", "packagemanifests"): ("list",),
    ("policy", "poddisruptionbudgets"): ("list", *_WRITE),
    # A user who grants permissions that they do not have themselves needs the verbs escalate and bind.
    ("rbac.authorization.k8s.io", "clusterroles"): (*_WRITE, "escalate", "bind"),
    # That of the agent keeps the options of an earlier run.
    ("rbac.authorization.k8s.io", "clusterrolebindings"): ("list", *_WRITE),
    ("rbac.authorization.k8s.io", "roles"): (*_WRITE, "escalate", "bind"),
    ("rbac.authorization.k8s.io", "rolebindings"): _WRITE,
}

# What the removal of a container needs.
_CONTAINER = {
    # A namespace is removed if nothing of another owner is in it, of any kind.
    ("*", "*"): ("list",),
    ("", "configmaps"): _REMOVE,
    ("", "namespaces"): ("get", "delete"),
    ("", "secrets"): _REMOVE,
    ("", "serviceaccounts"): _REMOVE,
    ("", "services"): _REMOVE,
    ("apps", "deployments"): _REMOVE,
    ("networking.k8s.io", "networkpolicies"): _REMOVE,
    ("policy", "poddisruptionbudgets"): _REMOVE,
    ("rbac.authorization.k8s.io", "roles"): _REMOVE,
    ("rbac.authorization.k8s.io", "rolebindings"): _REMOVE,
}

# The permissions of teardown.yml by its tags.
TEARDOWN: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {
    "always": {
        ("", "configmaps"): ("get",),
        ("", "nodes"): ("list",),
        ("", "pods"): ("list",),
        ("apps", "daemonsets"): ("list",),
        ("apps", "deployments"): ("get",),
        ("confidentialcontainers.org", "peerpodconfigs"): ("list",),
        ("config.openshift.io", "clusterversions"): ("get",),
        ("config.openshift.io", "infrastructures"): ("get",),
        ("operators.coreos.com", "clusterserviceversions"): ("list",),
        ("rbac.authorization.k8s.io", "clusterrolebindings"): ("get",),
    },
    "policy": {
        ("admissionregistration.k8s.io", "validatingadmissionpolicies"): _REMOVE,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"): _REMOVE,
    },
    "webhook": {
        **_CONTAINER,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): ("get", "update", "delete"),
    },
    "operator_install": {
        ("*", "*"): ("list",),
        ("", "configmaps"): ("get", "patch", "delete"),
        ("", "namespaces"): ("get", "delete"),
        ("", "secrets"): ("get", "delete"),
        # The settings of other owners are restored when cloud-api-adaptor is gone.
        ("apps", "daemonsets"): ("get",),
        ("batch", "jobs"): ("get", "delete"),
        ("cloudcredential.openshift.io", "credentialsrequests"): ("get", "delete"),
        ("kataconfiguration.openshift.io", "kataconfigs"): _REMOVE,
        ("machineconfiguration.openshift.io", "machineconfigpools"): ("list",),
        ("operators.coreos.com", "clusterserviceversions"): (*_REMOVE, "patch"),
        ("operators.coreos.com", "installplans"): ("get",),
        ("operators.coreos.com", "operatorgroups"): _REMOVE,
        ("operators.coreos.com", "subscriptions"): _REMOVE,
        ("packages.operators.coreos.com", "packagemanifests"): ("list",),
    },
    "peerpodconfig_rollout": {
        ("", "configmaps"): (*_REMOVE, "patch"),
        # Those that an earlier agent left.
        ("", "namespaces"): ("list",),
        ("apps", "deployments"): ("list",),
        ("policy", "poddisruptionbudgets"): ("list",),
        ("rbac.authorization.k8s.io", "clusterrolebindings"): ("get",),
        ("confidentialcontainers.org", "peerpodconfigs"): ("list",),
    },
    "node_capacity": {
        **_CONTAINER,
        ("", "nodes/status"): ("patch",),
        ("coordination.k8s.io", "leases"): _REMOVE,
        ("rbac.authorization.k8s.io", "clusterroles"): _REMOVE,
        ("rbac.authorization.k8s.io", "clusterrolebindings"): _REMOVE,
    },
}

# The same for kinds that only some clusters serve.
_CONTAINER_WHERE_SERVED = {
    ("build.openshift.io", "buildconfigs"): _REMOVE,
    ("cert-manager.io", "certificates"): _REMOVE,
    ("grafana.integreatly.org", "grafanadashboards"): _REMOVE,
    ("image.openshift.io", "imagestreams"): _REMOVE,
    ("monitoring.coreos.com", "prometheusrules"): _REMOVE,
    ("monitoring.coreos.com", "servicemonitors"): _REMOVE,
}
TEARDOWN_WHERE_SERVED = {"webhook": _CONTAINER_WHERE_SERVED, "node_capacity": _CONTAINER_WHERE_SERVED}


PLAYBOOKS = ("site", "teardown")


def needed(playbook: str, tags: Collection[str], groups: Collection[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The permissions for a run of the playbook with these tags, in a cluster that serves these API groups."""
    if playbook == "site":
        return SITE
    verbs: dict[tuple[str, str], dict[str, None]] = {}
    for table in (TEARDOWN, TEARDOWN_WHERE_SERVED):
        for tag, permissions in table.items():
            if tag != "always" and not {"all", tag} & {*tags}:
                continue
            for (group, resource), needed_verbs in permissions.items():
                if table is TEARDOWN or group in groups:
                    verbs.setdefault((group, resource), {}).update(dict.fromkeys(needed_verbs))
    return {key: tuple(each) for key, each in verbs.items()}


def access_review(verb: str, group: str, resource: str) -> dict:
    """A SelfSubjectAccessReview of this verb and resource in all namespaces."""
    attributes = {"verb": verb, "group": group, "resource": resource}
    return {**CLUSTER_ADMIN_REVIEW, "spec": {"resourceAttributes": attributes}}
