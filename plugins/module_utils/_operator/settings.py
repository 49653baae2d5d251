# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of cloud-api-adaptor, from the options of the role operator_install (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import PEER_PODS_CM, PEER_PODS_SECRET
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.ownership import REQUESTED

LAYERED_IMAGE_CM = "layered-image-deploy-cm"

# The known values of feature gates. Newer operators have more gates.
KNOWN_GATES = {
    "confidential": ("true", "false"),
    "layeredImageDeployment": ("true", "false"),
    "deploymentMode": ("MachineConfig", "DaemonSet", "DaemonSetFallback"),
    # The operator reads any other value as RollingUpdate, also if only the letter case differs.
    "caaUpdateStrategy": ("RollingUpdate", "OnDelete"),
}


def operator_settings(options: Mapping[str, Any]) -> dict:
    """The data of the ConfigMaps and the Secret, and the problems of these data."""
    settings, credentials = options["settings"], options["credentials"]
    gates = {name: _gate(value) for name, value in options["feature_gates"].items()}
    uses_variables = options["credentials_from"] == "variables"
    exists = any(entry["name"] == PEER_PODS_CM for entry in options["objects"])
    tags = ",".join(f"{name}={value}" for name, value in options["tags"].items())
    config = {entry["key"]: _text(entry["value"]) for entry in settings} | {"TAGS": tags}
    only_new = {entry["key"] for entry in settings if exists and entry.get("only_new")}
    written = {key: value for key, value in config.items() if key not in only_new} | dict(options["extra_config"])
    return {
        "config_map": {key: value for key, value in written.items() if value not in (None, "")},
        "secret": {entry["key"]: entry["value"] for entry in credentials} if uses_variables else {},
        "feature_gates": gates,
        "problems": [
            *(problem for entry in (credentials if uses_variables else []) for problem in _missing(entry)),
            *(problem for entry in settings for problem in (*_missing(entry), *_malformed(entry))),
            *_gate_problems(gates),
            *_tag_problems(options["tags"]),
            *_extra_problems(
                options["extra_config"],
                {key for key, value in config.items() if value},
                {entry["key"] for entry in credentials},
                gates,
            ),
            *_cluster_problems(options["namespace"], options["objects"], uses_variables, gates),
        ],
    }


def _gate(value: Any) -> str:
    """The value as the operator reads it: true, not Python's True."""
    return {"True": "true", "False": "false"}.get(str(value), str(value))


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _missing(entry: Mapping[str, Any]) -> Iterator[str]:
    if entry.get("remedy") and not entry["value"]:
        yield f"{entry['option']} is empty. {entry['remedy']}"


def _malformed(entry: Mapping[str, Any]) -> Iterator[str]:
    """Each element of a list must match."""
    if "pattern" not in entry:
        return
    value = entry["value"]
    values = value if isinstance(value, (list, tuple)) else [value]
    invalid = [str(element) for element in values if str(element) and not re.fullmatch(entry["pattern"], str(element))]
    if invalid:
        yield f"{entry['option']} must be {entry['expected']}; got '{_text(invalid)}'."


def _gate_problems(gates: Mapping[str, str]) -> Iterator[str]:
    for name, value in gates.items():
        if not re.fullmatch("[A-Za-z][A-Za-z0-9]*", name):
            yield (
                f"'{name}' in operator_install_feature_gates is not the name of a feature gate, such as confidential "
                "or deploymentMode."
            )
        values = KNOWN_GATES.get(name)
        if values and value not in values:
            yield f"{name} in operator_install_feature_gates must be one of {', '.join(values)}; got '{value}'."


def _tag_problems(tags: Mapping[str, Any]) -> Iterator[str]:
    for name, value in tags.items():
        if re.search("[,=]", f"{name}{value}"):
            yield (
                f"The tag '{name}' in operator_install_tags has a comma or an equals sign in its name or value, which "
                "separate tags in peer-pods-cm."
            )


def _extra_problems(
    extra: Mapping[str, Any], set_by_options: set[str], credentials: set[str], gates: Mapping[str, str]
) -> Iterator[str]:
    for key, value in extra.items():
        where = f"{key} in operator_install_extra_config"
        if not re.fullmatch("[A-Z][A-Z0-9_]*", key):
            yield f"{where} is not a key of peer-pods-cm: keys are written with A-Z, 0-9 and _."
        if key in set_by_options:
            yield f"{where} is set by another option of the role operator_install. Use that option."
        if key in credentials:
            yield f"{where} is a credential. The role operator_install writes it to peer-pods-secret."
        if not isinstance(value, (str, int, float)):
            yield f'{where} is not a single value. Write it as the operator reads it, such as "false" or "a,b".'
        # DISABLECVM is the negation.
        if key == "DISABLECVM" and gates.get("confidential") and str(value).lower() == gates["confidential"]:
            yield f"{where} contradicts the feature gate confidential, with which the operator sets it. Remove it."


def _cluster_problems(
    namespace: str, objects: Iterable[Mapping[str, Any]], uses_variables: bool, gates: Mapping[str, str]
) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for entry in objects:
        names.setdefault(entry["kind"], []).append(entry["name"])
    groups = names.get("OperatorGroup", [])
    if len(groups) > 1:
        yield (
            f"Namespace {namespace} has the OperatorGroups {', '.join(groups)}. OLM installs nothing in a namespace "
            "with more than one: delete all but one of them."
        )
    for entry in objects:
        if entry["kind"] != "Secret" or entry["name"] != PEER_PODS_SECRET:
            continue
        is_requested = entry["labels"].get(REQUESTED) == "true"
        if is_requested and uses_variables:
            yield (
                "The operator created peer-pods-secret from a CredentialsRequest and would overwrite other "
                "credentials. Set operator_install_credentials to credentials_request, or delete that "
                "CredentialsRequest and the Secret."
            )
        elif not is_requested and not uses_variables:
            yield (
                "peer-pods-secret was not created from a CredentialsRequest, and the operator does not change it. "
                "Delete it, or set operator_install_credentials to variables."
            )
    needs_image = gates.get("layeredImageDeployment") == "true" and "KataConfig" not in names
    if needs_image and LAYERED_IMAGE_CM not in names.get("ConfigMap", []):
        yield (
            f"The feature gate layeredImageDeployment needs the ConfigMap {LAYERED_IMAGE_CM} (osImageURL, "
            f"kernelArguments) in namespace {namespace}, which does not exist. Create it first."
        )


def pod_vm_image(settings: dict | None) -> dict:
    """The key of peer-pods-cm that holds the ID of the pod VM image, and the ID, empty if there is no image."""
    data = (settings or {}).get("data") or {}
    key = "AZURE_IMAGE_ID" if data.get("CLOUD_PROVIDER") == "azure" else "PODVM_AMI_ID"
    return {"key": key, "id": data.get(key, "")}
