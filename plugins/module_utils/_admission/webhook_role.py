# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why the role webhook cannot deploy or register the webhook with its options (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._admission.options import AdmissionError, namespaces

LAST_PORT = 65535


def webhook_problems(options: Mapping[str, Any]) -> list[str]:
    """The problems, each as a sentence. `serves_cert_manager` is None if it is not known."""
    return list(_problems(options))


def _problems(options: Mapping[str, Any]) -> Iterator[str]:
    if options["certificate"] == "cert_manager":
        yield from _cert_manager_problems(options["cert_manager_issuer"], options["serves_cert_manager"])
    ports = {name: int(options[name]) for name in ("port", "health_port")}
    for name, port in ports.items():
        if not 1 <= port <= LAST_PORT:
            yield f"webhook_{name} must be from 1 to {LAST_PORT}; got {port}."
    if ports["port"] == ports["health_port"]:
        yield f"webhook_port and webhook_health_port are both {ports['port']}. Set one of them to another port."
    if int(options["replicas"]) < 1:
        yield (
            f"webhook_replicas is {options['replicas']}: the API server would reject every peer pod. Set it to 1 or "
            "more."
        )
    if not options["target_runtime_classes"]:
        yield "webhook_target_runtime_classes is empty. Set at least one RuntimeClass."
    try:
        namespaces(options["extra_excluded_namespaces"])
    except AdmissionError as error:
        yield f"webhook_extra_excluded_namespaces is invalid: {error}"


def _cert_manager_problems(issuer: Mapping[str, Any], is_served: bool | None) -> Iterator[str]:
    if not issuer.get("name"):
        yield (
            "webhook_cert_manager_issuer does not name an issuer. Set it to the issuerRef of the cert-manager Issuer "
            'or ClusterIssuer that signs the webhook\'s certificate, such as {"kind": "ClusterIssuer", "name": '
            '"internal-ca"}.'
        )
    if is_served is False:
        yield (
            "webhook_certificate is cert_manager, but the cluster does not serve cert-manager.io. Install "
            "cert-manager, or set webhook_certificate to service_ca or own."
        )
