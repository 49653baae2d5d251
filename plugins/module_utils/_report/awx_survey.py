# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The questions of an AWX survey, from the argument specifications of roles (no I/O here).

AWX has no question types for lists of arbitrary strings and for booleans. A list becomes a text with one element per
line, which the roles split. A boolean becomes a choice of true and false in a variable of its own, which the extra
variables of the job template convert to the option. Without this conversion, the choice would be a string that is not
empty, and therefore true.
"""

from __future__ import annotations

import re

_MARKUP = re.compile(r"\b[A-Z]\(([^()]*)\)")


class SurveyError(Exception):
    """Why an option cannot be a question of a survey, as a sentence."""


def survey(entries: list[dict], specs: dict[str, dict], name: str = "") -> dict:
    """The `survey_spec` and `extra_vars` of a job template."""
    questions, extra_vars = [], {}
    for entry in entries:
        option = _option(entry, specs)
        questions.append(_question(entry, option))
        variable = questions[-1]["variable"]
        if variable != entry["option"]:
            extra_vars[entry["option"]] = f"{{{{ {variable} | bool }}}}"
    return {
        "survey_spec": {"name": name, "description": "", "spec": questions},
        "extra_vars": extra_vars,
    }


def _option(entry: dict, specs: dict[str, dict]) -> dict:
    if "spec" in entry:
        return entry["spec"]
    entry_point = entry.get("entry_point", "main")
    options = specs.get(entry["role"], {}).get(entry_point, {}).get("options", {})
    if entry["option"] not in options:
        raise SurveyError(f"The role {entry['role']} has no option {entry['option']} (entry point {entry_point}).")
    default = {"default": entry["default"]} if "default" in entry else {}
    return {**options[entry["option"]], **default}


def _question(entry: dict, option: dict) -> dict:
    kind, variable = _kind(entry["option"], option)
    question = {
        "question_name": entry["question"],
        "question_description": _text(option["description"]),
        "variable": variable,
        "type": kind,
        "required": entry.get("required", option.get("required", False)),
        "default": _default(option.get("default"), secret=kind == "password"),
    }
    choices = ["true", "false"] if option.get("type") == "bool" else option.get("choices")
    if choices:
        question["choices"] = [str(choice) for choice in choices]
    return question


def _kind(name: str, option: dict) -> tuple[str, str]:
    """(type of the question, variable that has its answer)."""
    kind, elements = option.get("type", "str"), option.get("elements", "str")
    if kind == "list" and elements == "str":
        return ("multiselect" if "choices" in option else "textarea"), name
    # AWX leaves out unanswered questions, and an absent answer cannot be converted to a boolean.
    if kind == "bool" and "default" in option:
        return "multiplechoice", f"{name}_answer"
    if option.get("no_log") and kind == "str":
        return "password", name
    if "choices" in option and kind == "str":
        return "multiplechoice", name
    types = {"str": "text", "path": "text", "int": "integer", "float": "float"}
    if kind not in types:
        kind += " without a default" if kind == "bool" else ""
        raise SurveyError(f"AWX has no question for the option {name}, which is a {kind}.")
    return types[kind], name


def _default(value: object, *, secret: bool) -> object:
    if value is None or secret:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return value


def _text(description: str | list[str]) -> str:
    """A description without its markup: V(x) → x, P(osc.peerpods.webhook#role) → webhook."""
    lines = [description] if isinstance(description, str) else description
    text = _MARKUP.sub(lambda match: match[1].partition("#")[0], " ".join(lines))
    return text.replace("osc.peerpods.", "")
