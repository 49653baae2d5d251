# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The permissions that a playbook needs in the cluster (no I/O here)."""

from __future__ import annotations

# Whether the user may do everything to every resource, as the role cluster-admin allows.
ACCESS_REVIEWS_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CLUSTER_ADMIN_REVIEW = {
    "apiVersion": "authorization.k8s.io/v1",
    "kind": "SelfSubjectAccessReview",
    "spec": {"resourceAttributes": {"verb": "*", "group": "*", "resource": "*"}},
}

# The permissions that a playbook needs with any settings, by API group and resource. Left out are those that only some
# settings need (an image built in the cluster, a CredentialsRequest that site.yml creates) and resources that only some
# clusters have (cert-manager, the Prometheus operator).
_READ = ("get", "list")
_WRITE = ("get", "create", "patch")
_REMOVE = (*_READ, "delete")
NEEDED = {
    "site": {
        ("", "configmaps"): (*_WRITE, "delete"),
        ("", "namespaces"): _WRITE,
        ("", "nodes"): ("get", "list", "watch"),
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
        ("apps", "deployments"): _WRITE,
        ("cloudcredential.openshift.io", "credentialsrequests"): ("get",),
        ("confidentialcontainers.org", "peerpodconfigs"): ("list", "patch"),
        ("config.openshift.io", "apiservers"): ("get",),
        ("config.openshift.io", "clusterversions"): ("get",),
        ("config.openshift.io", "infrastructures"): ("get",),
        ("discovery.k8s.io", "endpointslices"): ("list", "watch"),
        ("kataconfiguration.openshift.io", "kataconfigs"): ("list", *_WRITE),
        ("machineconfiguration.openshift.io", "machineconfigpools"): ("list",),
        ("networking.k8s.io", "networkpolicies"): _WRITE,
        ("node.k8s.io", "runtimeclasses"): ("get",),
        ("operators.coreos.com", "catalogsources"): ("get",),
        ("operators.coreos.com", "clusterserviceversions"): _READ,
        ("operators.coreos.com", "installplans"): ("get", "patch"),
        ("operators.coreos.com", "operatorgroups"): ("list", *_WRITE),
        ("operators.coreos.com", "subscriptions"): ("list", *_WRITE),
        ("packages.operators.coreos.com", "packagemanifests"): ("list",),
        ("policy", "poddisruptionbudgets"): _WRITE,
        # A user who grants permissions that they do not have themselves needs the verbs escalate and bind.
        ("rbac.authorization.k8s.io", "clusterroles"): (*_WRITE, "escalate", "bind"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"): _WRITE,
        ("rbac.authorization.k8s.io", "roles"): (*_WRITE, "escalate", "bind"),
        ("rbac.authorization.k8s.io", "rolebindings"): _WRITE,
    },
    "teardown": {
        ("", "configmaps"): (*_REMOVE, "patch"),
        ("", "namespaces"): ("get", "delete"),
        ("", "nodes"): ("list",),
        ("", "nodes/status"): ("patch",),
        ("", "persistentvolumeclaims"): ("list",),
        ("", "pods"): ("list",),
        ("", "secrets"): _REMOVE,
        ("", "serviceaccounts"): _REMOVE,
        ("", "services"): _REMOVE,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): ("get", "delete"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies"): _REMOVE,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"): ("get", "delete"),
        ("apps", "daemonsets"): ("list",),
        ("apps", "deployments"): _REMOVE,
        ("cloudcredential.openshift.io", "credentialsrequests"): ("get", "delete"),
        ("confidentialcontainers.org", "peerpodconfigs"): ("list",),
        ("config.openshift.io", "clusterversions"): ("get",),
        ("config.openshift.io", "infrastructures"): ("get",),
        ("coordination.k8s.io", "leases"): ("get", "delete"),
        ("kataconfiguration.openshift.io", "kataconfigs"): _REMOVE,
        ("machineconfiguration.openshift.io", "machineconfigpools"): ("list",),
        ("networking.k8s.io", "networkpolicies"): _REMOVE,
        ("operators.coreos.com", "clusterserviceversions"): (*_REMOVE, "patch"),
        ("operators.coreos.com", "installplans"): ("get",),
        ("operators.coreos.com", "operatorgroups"): _REMOVE,
        ("operators.coreos.com", "subscriptions"): _REMOVE,
        ("packages.operators.coreos.com", "packagemanifests"): ("list",),
        ("policy", "poddisruptionbudgets"): _REMOVE,
        ("rbac.authorization.k8s.io", "clusterroles"): _REMOVE,
        ("rbac.authorization.k8s.io", "clusterrolebindings"): _REMOVE,
        ("rbac.authorization.k8s.io", "roles"): _REMOVE,
        ("rbac.authorization.k8s.io", "rolebindings"): _REMOVE,
    },
}


def access_review(verb: str, group: str, resource: str) -> dict:
    """A SelfSubjectAccessReview of this verb and resource in all namespaces."""
    attributes = {"verb": verb, "group": group, "resource": resource}
    return {**CLUSTER_ADMIN_REVIEW, "spec": {"resourceAttributes": attributes}}
