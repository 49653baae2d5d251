# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Questions that AWX asks before a job, from the argument specifications of roles (no I/O here).

AWX knows no lists but of given choices, and no booleans. A list is asked for as text, one element a
line, and a boolean as a choice of true and false; either in a variable of its own, of which the job
template's extra variables make the option. The choice alone would be a string, and so true.
"""

from __future__ import annotations

import re

_MARKUP = re.compile(r"\b[A-Z]\(([^()]*)\)")

# The filter that makes an option of its answer, by the option's type.
_FILTERS = {"list": "split", "bool": "bool"}


class SurveyError(Exception):
    """An option that cannot be asked for, as a sentence."""


def survey(asks: list[dict], specs: dict[str, dict], name: str = "") -> dict:
    """What a job template needs to ask: its `survey_spec` and `extra_vars`."""
    questions, extra_vars = [], {}
    for ask in asks:
        option = _option(ask, specs)
        questions.append(_question(ask, option))
        variable = questions[-1]["variable"]
        if variable != ask["option"]:
            extra_vars[ask["option"]] = f"{{{{ {variable} | {_FILTERS[option['type']]} }}}}"
    return {
        "survey_spec": {"name": name, "description": "", "spec": questions},
        "extra_vars": extra_vars,
    }


def _option(ask: dict, specs: dict[str, dict]) -> dict:
    if "spec" in ask:
        return ask["spec"]
    entry_point = ask.get("entry_point", "main")
    options = specs.get(ask["role"], {}).get(entry_point, {}).get("options", {})
    if ask["option"] not in options:
        raise SurveyError(f"The role {ask['role']} has no option {ask['option']} (entry point {entry_point}).")
    return options[ask["option"]]


def _question(ask: dict, option: dict) -> dict:
    kind, variable = _kind(ask["option"], option)
    question = {
        "question_name": ask["question"],
        "question_description": _text(option["description"]),
        "variable": variable,
        "type": kind,
        "required": ask.get("required", option.get("required", False)),
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
        return ("multiselect", name) if "choices" in option else ("textarea", f"{name}_lines")
    # AWX leaves out unanswered questions, and an absent answer cannot be converted to a boolean.
    if kind == "bool" and "default" in option:
        return "multiplechoice", f"{name}_answer"
    if option.get("no_log") and kind == "str":
        return "password", name
    if "choices" in option and kind == "str":
        return "multiplechoice", name
    known = {"str": "text", "path": "text", "int": "integer", "float": "float"}
    if kind not in known:
        kind += " without a default" if kind == "bool" else ""
        raise SurveyError(f"AWX has no question for the option {name}, which is a {kind}.")
    return known[kind], name


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
    text = _MARKUP.sub(lambda found: found[1].partition("#")[0], " ".join(lines))
    return text.replace("osc.peerpods.", "")
