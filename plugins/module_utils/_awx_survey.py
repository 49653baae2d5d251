# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Questions that AWX asks before a job, from the argument specifications of roles (no I/O here).

AWX knows no lists but of given choices. Any other is asked for as text, one element a line, in a
variable of its own, which the job template's extra variables split into the option.
"""

from __future__ import annotations

import re

_MARKUP = re.compile(r"\b[A-Z]\(([^()]*)\)")


class SurveyError(Exception):
    """An option that cannot be asked for, as a sentence."""


def survey(asks: list[dict], specs: dict[str, dict], name: str = "") -> dict:
    """What a job template needs to ask: its `survey_spec` and `extra_vars`."""
    questions, extra_vars = [], {}
    for ask in asks:
        questions.append(_question(ask, _option(ask, specs)))
        variable = questions[-1]["variable"]
        if variable != ask["option"]:
            extra_vars[ask["option"]] = f"{{{{ {variable} | split }}}}"
    return {
        "survey_spec": {"name": name, "description": "", "spec": questions},
        "extra_vars": extra_vars,
    }


def _option(ask: dict, specs: dict[str, dict]) -> dict:
    entry_point = ask.get("entry_point", "main")
    options = specs.get(ask["role"], {}).get(entry_point, {}).get("options", {})
    if ask["option"] not in options:
        raise SurveyError(
            f"The role {ask['role']} has no option {ask['option']} (entry point {entry_point})."
        )
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
    if "choices" in option:
        question["choices"] = [str(choice) for choice in option["choices"]]
    return question


def _kind(name: str, option: dict) -> tuple[str, str]:
    """(type of the question, variable that has its answer)."""
    kind, elements = option.get("type", "str"), option.get("elements", "str")
    if kind == "list" and elements == "str":
        return ("multiselect", name) if "choices" in option else ("textarea", f"{name}_lines")
    if option.get("no_log") and kind == "str":
        return "password", name
    if "choices" in option and kind == "str":
        return "multiplechoice", name
    known = {"str": "text", "path": "text", "int": "integer", "float": "float"}
    if kind not in known:
        raise SurveyError(f"AWX has no question for the option {name}, which is a {kind}.")
    return known[kind], name


def _default(value: object, *, secret: bool) -> object:
    if value is None or secret:
        return ""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return value


def _text(description: str | list[str]) -> str:
    """A description without its markup: V(x) → x, P(osc.peerpods.webhook#role) → webhook."""
    lines = [description] if isinstance(description, str) else description
    text = _MARKUP.sub(lambda found: found[1].partition("#")[0], " ".join(lines))
    return text.replace("osc.peerpods.", "")
