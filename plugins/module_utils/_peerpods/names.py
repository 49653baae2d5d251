# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The names of the product's and the collection's own objects (no I/O here)."""

from __future__ import annotations

# The operator's name in a catalog, and its namespace.
PACKAGE = "sandboxed-containers-operator"
NAMESPACE = "openshift-sandboxed-containers-operator"

OLM = "/apis/operators.coreos.com/v1alpha1"

# The label of every object that this collection creates.
PART_OF = ("app.kubernetes.io/part-of", "osc.peerpods")

# The annotation with the options of the role that wrote an object, as JSON: the next run keeps those that it does not
# set.
OPTIONS_ANNOTATION = "osc.peerpods.io/options"

EXTENDED_RESOURCE = "kata.peerpods.io/vm"
RUNTIME_CLASS = "kata-remote"

# Where the limit of the operator's own pool is stored, by generation.
PEER_POD_CONFIG = "PeerPodConfig"
PEER_PODS_CM = "peer-pods-cm"

KATA_CONFIGS = "/apis/kataconfiguration.openshift.io/v1/kataconfigs"

# The ConfigMap that keeps the KataConfig while the role operator_install renews the image of the pod VMs.
KEPT_KATA_CONFIG = "peerpods-kataconfig"

CONFIGS_PATH = "/apis/confidentialcontainers.org/v1alpha1/peerpodconfigs"

# The key of the limit in peer-pods-cm.
LIMIT_KEY = "PEERPODS_LIMIT_PER_NODE"

# The credentials of the cloud that cloud-api-adaptor uses.
PEER_PODS_SECRET = "peer-pods-secret"

# The operator's configuration options, and the one that decides how cloud-api-adaptor pods are replaced.
FEATURE_GATES = "osc-feature-gates"
UPDATE_STRATEGY_KEY = "caaUpdateStrategy"
UPDATE_STRATEGIES = ("RollingUpdate", "OnDelete")

# The keys of peer-pods-cm with the proxy of cloud-api-adaptor and the configuration of the VMs. Each key is an
# environment variable of cloud-api-adaptor (controllers/peerpods.go in openshift/sandboxed-containers-operator).
PROXY_KEYS = ("HTTPS_PROXY", "https_proxy")
INITDATA_KEY = "INITDATA"

# The operator's own pool: the PeerPodConfig that it made for a KataConfig up to 1.8, and that 1.9 and newer migrate
# and delete (migrate.go in openshift/sandboxed-containers-operator, pull request 533); `default` from 1.9 on.
OPERATORS_CONFIG = "peerpodconfig-openshift"
DEFAULT_POOL = "default"

# The Deployment and the field manager of the node capacity agent, and the ConfigMap with the limits that it enforces
# on the second generation, one key by pool.
AGENT = "peerpods-node-capacity"
LIMITS = "peerpods-limits"


# The Service, the Deployment, the Certificate and the registration of the webhook.
WEBHOOK = "peerpods-webhook"


def configs_path(namespace: str) -> str:
    """The path of the PeerPodConfigs of one namespace."""
    group_version, dummy, plural = CONFIGS_PATH.rpartition("/")
    return f"{group_version}/namespaces/{namespace}/{plural}"
