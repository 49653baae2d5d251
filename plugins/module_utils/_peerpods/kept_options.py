# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of a role that a later run keeps if it does not set them (no I/O here).

The role stores them in an annotation of an object that it creates. A default is not stored, so that it follows that of
the collection in use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.common.validation import check_type_int
from ansible_collections.osc.peerpods.plugins.module_utils._option_types import as_bool, as_dict, as_list
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import OPTIONS_ANNOTATION
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.object_owner import argument_of

# How much of a damaged annotation a message shows.
SHOWN_LENGTH = 60


class DamagedOptionsError(ValueError):
    """The annotation with the options was changed, and cannot be read."""


def stored_options(object_: Mapping[str, Any]) -> dict[str, Any]:
    """The options in the annotation of the object; empty without the object or the annotation."""
    metadata = object_.get("metadata") or {}
    text = (metadata.get("annotations") or {}).get(OPTIONS_ANNOTATION)
    if text is None:
        return {}
    try:
        options = json.loads(text)
    # RecursionError for deeply nested text.
    except (ValueError, RecursionError):
        options = None
    if isinstance(options, dict):
        return options
    namespace = f" in {metadata['namespace']}" if metadata.get("namespace") else ""
    shown = text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"
    raise DamagedOptionsError(
        f"The annotation {OPTIONS_ANNOTATION} of {object_['kind']} {metadata['name']}{namespace} is not a JSON object: "
        f"{shown!r}. An earlier run stored in it the options that a run keeps, and another user changed it. Correct "
        f"it. Or remove it, and set all options that differ from their defaults in the next run: oc annotate "
        f"{argument_of(object_)} {OPTIONS_ANNOTATION}-"
    )


def kept_options(
    given: Mapping[str, Any],
    role: str,
    names: Iterable[str],
    specification: Mapping[str, Mapping[str, Any]],
    stored: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """All `options`, and those that are `kept` for the next run, by their names without that of the role.

    `given` are variables, `names` the options that are kept, `specification` the options of the role by their full
    names. `stored` is what the run before kept. What it has of other options is left out.
    """
    options, kept = {}, {}
    for name in names:
        option, variable = specification[f"{role}_{name}"], given.get(f"{role}_{name}")
        default = option.get("default")
        if _is_set(variable, option):
            options[name] = _convert(variable, option)
        else:
            options[name] = (stored or {}).get(name, default)
        if options[name] != default:
            kept[name] = options[name]
    return {"options": options, "kept": kept}


def _is_set(value: Any, option: Mapping[str, Any]) -> bool:
    """An answer that was left out in a survey of AWX is an empty text, which is a value of a free text only."""
    is_free_text = option.get("type", "str") == "str" and "choices" not in option
    return value is not None and (value != "" or is_free_text)


def _convert(value: Any, option: Mapping[str, Any]) -> Any:
    kind, elements = option.get("type", "str"), option.get("elements", "str")
    if kind == "list":
        values = as_list(value, "dict" if elements == "dict" else "str")
        return [check_type_int(each) for each in values] if elements == "int" else values
    return {"bool": as_bool, "dict": as_dict, "int": check_type_int, "str": str}[kind](value)
