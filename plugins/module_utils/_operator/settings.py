# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of cloud-api-adaptor, from the options of the role operator_install (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._operator.credentials import plan_credentials
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_settings import NAMES as IMAGE_SETTINGS
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_settings import image_settings
from ansible_collections.osc.peerpods.plugins.module_utils._operator.option_rows import (
    UNSET,
    as_text,
    is_set,
    malformed,
    missing,
    value_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    FEATURE_GATES,
    KEPT_KATA_CONFIG,
    PACKAGE,
    PEER_PODS_CM,
    PEER_PODS_SECRET,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.ownership import REQUESTED, STS
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pod_vm_image import IMAGE_KEYS

LAYERED_IMAGE_CM = "layered-image-deploy-cm"

# Otherwise a new KataConfig would have other settings, such as another pool of nodes.
INTERRUPTED_RENEWAL = (
    "A renewal of the pod VM image was interrupted after it deleted the KataConfig, which the ConfigMap "
    f"{KEPT_KATA_CONFIG} keeps. Run the playbook upgrade with operator_install_renew_image=true again, which creates "
    "it again. To give the KataConfig up, delete the ConfigMap."
)

# What an object has if it does not set a field.
DEFAULTS = {"Subscription": {"installPlanApproval": "Automatic"}}

# The value of a setting that the role cloud_networking finds, before it runs.
PENDING = "what the role cloud_networking finds"

# What is shown of a value of a Secret.
HIDDEN = "(not shown)"

# The known values of feature gates. Newer operators have more gates.
KNOWN_GATES = {
    "confidential": ("true", "false"),
    "layeredImageDeployment": ("true", "false"),
    "deploymentMode": ("MachineConfig", "DaemonSet", "DaemonSetFallback"),
    # The operator reads any other value as RollingUpdate, also if only the letter case differs.
    "caaUpdateStrategy": ("RollingUpdate", "OnDelete"),
}


def operator_settings(options: Mapping[str, Any]) -> dict:
    """What is written to each object, the problems of that, and the changes of objects of other owners.

    An object that exists keeps what it has where no option is set. Only what the operator requires is added if it is
    missing.
    """
    settings = list(_known(options["settings"], options["before_networking"]))
    existing = _Existing(options["objects"])
    stored = existing.content(existing.settings)
    gates = {name: _as_read(value) for name, value in options["feature_gates"].items()}
    subscription = _spec(options, "subscription", existing.subscription)
    csv = options["installed_csv"] or _csv(options, subscription)
    credentials = plan_credentials(options, existing.secret, csv, stored)
    tags = ",".join(f"{name}={value}" for name, value in options["tags"].items())
    config = {entry["key"]: as_text(value_of(entry)) for entry in settings} | {"TAGS": tags}
    if existing.settings:
        kept = {entry["key"] for entry in settings if entry.get("only_new") or not is_set(entry)}
        required = {entry["key"] for entry in settings if entry.get("remedy") or "option" not in entry} & kept
    else:
        kept, required = set(), set()
    # With an empty one, cloud-api-adaptor does not start either.
    empty = {entry["key"] for entry in settings if entry.get("never_empty") and stored.get(entry["key"]) == ""}
    written = {key: value for key, value in config.items() if key not in kept or key in required}
    written |= {key: _as_read(value) for key, value in options["extra_config"].items() if value is not None}
    written = {key: value for key, value in written.items() if value}
    desired = {
        "subscription": {**subscription, **_with_env(existing.content(existing.subscription), credentials.env)},
        "kata_config": {"enablePeerPods": True, **_spec(options, "kata_config", existing.kata_config)},
    }
    changed = {key: value for key, value in written.items() if key not in (required & stored.keys()) - empty}
    known = {name: existing.content(entry) for name, entry in existing.image_settings.items()}
    # The next write to peer-pods-cm restores an image that an interrupted teardown has kept.
    # The image of another cloud is not that of this one.
    has_image = bool(
        options["image"].get("kept") or stored.get(IMAGE_KEYS.get((options["platform"] or "").lower(), ""))
    )
    image = image_settings(
        options["platform"],
        {**options["image"], "existing": known, "has_image": has_image},
        credentials.way,
        csv,
        keys_are_temporary=credentials.is_temporary,
    )
    of_image = existing.image_settings.get(image.name)
    takes_over = [
        *existing.changes(existing.subscription, desired["subscription"]),
        *existing.changes(existing.settings, changed),
        *existing.changes(existing.secret, dict.fromkeys(credentials.secret, HIDDEN)),
        *existing.changes(existing.ssh_key, {"id_rsa.pub": HIDDEN} if options["public_key"] else {}),
        *existing.changes(existing.gates, gates),
        *existing.changes(of_image, image.data),
        *existing.changes(existing.kata_config, desired["kata_config"]),
    ]
    return {
        **desired,
        "config_map": written,
        "only_missing": sorted(required - empty),
        "secret": credentials.secret,
        "credentials": {
            "way": credentials.way,
            "reason": credentials.reason,
            "warnings": list(credentials.warnings),
            "problems": list(credentials.problems),
        },
        "feature_gates": gates,
        "image_settings": {
            "name": image.name,
            "data": image.data,
            # A teardown removes what the operator has created and this collection changed.
            "is_own": not existing.is_foreign(of_image),
            "buckets": asdict(image.buckets),
        },
        "takes_over": takes_over,
        "changes_nodes": not _has(existing.content(existing.kata_config) or None, desired["kata_config"]),
        "closed": [sentence for entry in settings for sentence in _closed(entry, {**stored, **changed})],
        "problems": [
            *credentials.problems,
            *(problem for entry in settings if entry["key"] not in stored.keys() - empty for problem in missing(entry)),
            *(problem for entry in settings for problem in malformed(entry)),
            *image.problems,
            *_gate_problems(gates),
            *_tag_problems(options["tags"]),
            *_extra_problems(
                options["extra_config"],
                {key for key, value in config.items() if value},
                {entry["key"] for entry in options["credentials"]},
                gates,
            ),
            *_cluster_problems(options["namespace"], options["objects"], gates),
            *_take_over_problems(takes_over, options["take_over"]),
        ],
    }


def _known(settings: Iterable[Mapping[str, Any]], before_networking: bool) -> Iterator[Mapping[str, Any]]:
    """The settings, before the role cloud_networking runs with a text in place of what it finds."""
    for entry in settings:
        if before_networking and entry.get("of_networking") and value_of(entry) in UNSET:
            yield {**{key: value for key, value in entry.items() if key != "pattern"}, "initial": PENDING}
        else:
            yield entry


class _Existing:
    """The objects that the role may change, as `describe_object` describes them; None if one does not exist."""

    def __init__(self, objects: Iterable[Mapping[str, Any]]):
        by_name = {(entry["kind"], entry["name"]): entry for entry in objects}
        self.settings = by_name.get(("ConfigMap", PEER_PODS_CM))
        self.gates = by_name.get(("ConfigMap", FEATURE_GATES))
        self.secret = by_name.get(("Secret", PEER_PODS_SECRET))
        self.ssh_key = by_name.get(("Secret", "ssh-key-secret"))
        self.image_settings = {
            name: entry for (_kind, name), entry in by_name.items() if name in IMAGE_SETTINGS.values()
        }
        self.kata_config = next((entry for (kind, _name), entry in by_name.items() if kind == "KataConfig"), None)
        # Other Subscriptions in the namespace are those of other operators.
        self.subscription = next(
            (
                entry
                for (kind, _name), entry in by_name.items()
                if kind == "Subscription" and self.content(entry).get("name") == PACKAGE
            ),
            None,
        )

    @staticmethod
    def content(entry: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return (entry or {}).get("content") or {}

    @staticmethod
    def is_foreign(entry: Mapping[str, Any] | None) -> bool:
        """Whether the object exists, and neither this collection nor the operator created it."""
        if entry is None or entry["managed"] or entry["of_operator"]:
            return False
        return not {REQUESTED, STS} & entry["labels"].keys()

    def changes(self, entry: Mapping[str, Any] | None, desired: Mapping[str, Any]) -> Iterator[str]:
        """The changes of an object of another owner, each as a line for a message."""
        if entry is None or not self.is_foreign(entry):
            return
        content = {**DEFAULTS.get(entry["kind"], {}), **self.content(entry)}
        for key, value in desired.items():
            if not _has(content.get(key), value):
                before = HIDDEN if value == HIDDEN and key in content else _shown(content.get(key))
                yield f"{entry['kind']} {entry['name']}: {key} from {before} to {_shown(value)}"


def _has(current: Any, value: Any) -> bool:
    """Whether a merge patch with `value` changes nothing."""
    if isinstance(value, dict):
        return isinstance(current, dict) and all(_has(current.get(key), each) for key, each in value.items())
    return current == value


def _shown(value: Any) -> str:
    if value in (None, ""):
        return "not set"
    if isinstance(value, dict):
        value = _without_nulls(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _without_nulls(value: Any) -> Any:
    """What is left of an object after a merge patch of it."""
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(each) for key, each in value.items() if each is not None}


def _spec(options: Mapping[str, Any], name: str, existing: Mapping[str, Any] | None) -> dict:
    """The fields that are set; without the object also the others, and with it what it has of them."""
    content = _Existing.content(existing)
    values = {
        entry["key"]: _replacing(content.get(entry["key"]), value_of(entry))
        if existing is None or is_set(entry)
        else content.get(entry["key"])
        for entry in options[name]
    }
    return {key: value for key, value in values.items() if value not in (None, "", {})}


def _csv(options: Mapping[str, Any], subscription: Mapping[str, Any]) -> str:
    """The ClusterServiceVersion that OLM installs for the Subscription, empty if that is not known."""
    # With automatic approval, the operator does not stay at the version that it starts with.
    if subscription.get("startingCSV") and subscription.get("installPlanApproval") == "Manual":
        return subscription["startingCSV"]
    source = (subscription.get("source"), subscription.get("sourceNamespace"))
    heads = (
        channel["head"]
        for catalog in options["catalogs"] or ()
        if (catalog["name"], catalog["namespace"]) == source
        for channel in catalog["channels"]
        if channel["name"] == subscription.get("channel")
    )
    return next(heads, "")


def _with_env(subscription: Mapping[str, Any], env: Mapping[str, str]) -> dict:
    """spec.config with the variables, and with all others that it has: a merge patch replaces a list."""
    if not env:
        return {}
    entries = {entry["name"]: entry for entry in (subscription.get("config") or {}).get("env") or []}
    entries |= {name: {"name": name, "value": value} for name, value in env.items()}
    return {"config": {"env": list(entries.values())}}


def _replacing(current: Any, value: Any) -> Any:
    """The merge patch that leaves nothing of `current`, such as a label of a selector that was set before."""
    if not (isinstance(current, dict) and isinstance(value, dict)):
        return value
    return {key: _replacing(current.get(key), value.get(key)) for key in {**value, **current}}


def _take_over_problems(takes_over: list[str], is_allowed: bool) -> Iterator[str]:
    if takes_over and not is_allowed:
        yield (
            f"This run would change objects that this collection did not create: {'; '.join(takes_over)}. To keep what "
            "they have, leave the options out. To change them, set operator_install_take_over to true."
        )


def _as_read(value: Any) -> str:
    """The value as the operator reads it: true, not Python's True."""
    return {"True": "true", "False": "false"}.get(str(value), str(value))


def _closed(entry: Mapping[str, Any], data: Mapping[str, str]) -> Iterator[str]:
    """A sentence if the ports were opened for other groups or another subnet than those that peer-pods-cm, which keeps
    what it has, gives the VMs: the options of the role cloud_networking name others."""
    opened, actual = (
        {name.lower(): name for name in names if name}
        for names in (entry.get("opened_for") or (), (data.get(entry["key"]) or "").replace(" ", "").split(","))
    )
    if opened and actual and not opened.keys() & actual.keys():
        yield (
            f"The ports of peer pods were opened for {', '.join(opened.values())}, but {entry['key']} of peer-pods-cm "
            f"is {', '.join(actual.values())}. Unless another rule allows this traffic, workers do not reach the VMs. "
            f"Correct {entry['opened_by']}, then run the role cloud_networking again."
        )


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


def _cluster_problems(namespace: str, objects: Iterable[Mapping[str, Any]], gates: Mapping[str, str]) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for entry in objects:
        names.setdefault(entry["kind"], []).append(entry["name"])
    groups = names.get("OperatorGroup", [])
    if len(groups) > 1:
        yield (
            f"Namespace {namespace} has the OperatorGroups {', '.join(groups)}. OLM installs nothing in a namespace "
            "with more than one: delete all but one of them."
        )
    yield from (
        f"The KataConfig {entry['name']} is being deleted, for example by a teardown that was interrupted. Wait "
        f"until it is gone (oc wait --for=delete kataconfig/{entry['name']} --timeout=1h), then run this again."
        for entry in objects
        if entry["kind"] == "KataConfig" and entry["is_deleted"]
    )
    # A renewal ignores that of another owner.
    is_kept = any(entry["name"] == KEPT_KATA_CONFIG and entry["managed"] for entry in objects)
    if is_kept and "KataConfig" not in names:
        yield INTERRUPTED_RENEWAL
    needs_image = gates.get("layeredImageDeployment") == "true" and "KataConfig" not in names
    if needs_image and LAYERED_IMAGE_CM not in names.get("ConfigMap", []):
        yield (
            f"The feature gate layeredImageDeployment needs the ConfigMap {LAYERED_IMAGE_CM} (osImageURL, "
            f"kernelArguments) in namespace {namespace}, which does not exist. Create it first."
        )
