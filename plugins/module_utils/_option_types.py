# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of roles as the types that Ansible validates them as (private to this collection).

Validation does not change a variable: what is a string on a command line or in a survey stays one.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

from ansible.module_utils.common.validation import check_type_bool, check_type_dict, check_type_list
from ansible.module_utils.common.yaml import yaml_load

# Ansible reads YAML with it.
with contextlib.suppress(ImportError):
    from yaml import YAMLError


def as_bool(value: Any) -> bool:
    return check_type_bool(value)


def as_dict(value: Any) -> dict:
    return check_type_dict(value)


def as_list(value: Any, elements: str = "str") -> list:
    """Also of a list in JSON or YAML, which validation splits at its commas, and of one with an element per line.

    None, which validation accepts for an option without a default, is an empty list.
    """
    if value is None:
        return []
    converted = _split(value) if isinstance(value, str) else check_type_list(value)
    return [as_dict(element) for element in converted] if elements == "dict" else converted


def _split(text: str) -> list:
    if text.strip().startswith(("[", "- ")):
        return _of_yaml(text)
    return [part.strip() for part in re.split("[,\n]", text) if part.strip()]


def _of_yaml(text: str) -> list:
    try:
        # Not the subclass of str that Ansible makes of the text in a file, which libyaml rejects.
        value = yaml_load(text.encode().decode())
    except YAMLError:
        value = None
    if not isinstance(value, list):
        raise TypeError(f'{text!r} is not a list. Write it as a,b or as a list in JSON or YAML, such as ["a", "b"].')
    return value
