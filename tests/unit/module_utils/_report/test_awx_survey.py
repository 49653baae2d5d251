"""Surveys of AWX: the question of each option, and that the answers are valid options of the roles."""

from __future__ import annotations

import re

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.osc.peerpods.plugins.module_utils._report.awx_survey import SurveyError, survey

from tests.support import ROOT, ansible_yaml

VARIABLES = ansible_yaml(ROOT / "roles/awx/vars/main.yml")


def questions_of(template: dict) -> list[dict]:
    """The questions of a template, also if it names a variable that has them."""
    questions = template["questions"]
    return VARIABLES[questions.strip("{} ")] if isinstance(questions, str) else questions


TEMPLATES = {template["playbook"]: questions_of(template) for template in VARIABLES["awx_templates"]}
SPECS = {
    role: yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]
    for role in {
        question_spec["role"]
        for question_specs in TEMPLATES.values()
        for question_spec in question_specs
        if "role" in question_spec
    }
}


def option_of(question_spec: dict) -> dict:
    """The argument specification of an option."""
    if "spec" in question_spec:
        return question_spec["spec"]
    return SPECS[question_spec["role"]][question_spec.get("entry_point", "main")]["options"][question_spec["option"]]


def question(**option: object) -> dict:
    """The question of one option, whose name is `an_option`."""
    specs = {"a": {"main": {"options": {"an_option": {"description": "What.", **option}}}}}
    question_specs = [{"role": "a", "option": "an_option", "question": "Which?"}]
    return survey(question_specs, specs)["survey_spec"]["spec"][0]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"type": "str"}, {"type": "text", "default": ""}),
        ({"type": "str", "default": "x"}, {"type": "text", "default": "x"}),
        ({"type": "path"}, {"type": "text"}),
        ({"type": "int", "default": 0}, {"type": "integer", "default": 0}),
        ({"type": "float"}, {"type": "float", "default": ""}),
        ({"type": "str", "required": True}, {"required": True}),
        ({"type": "str"}, {"required": False}),
        (
            {"type": "str", "choices": ["a", "b"], "default": "b"},
            {"type": "multiplechoice", "choices": ["a", "b"], "default": "b"},
        ),
        (
            {"type": "list", "elements": "str", "choices": ["a", "b"], "default": ["b", "a"]},
            {"type": "multiselect", "choices": ["a", "b"], "default": "b\na"},
        ),
        (
            {"type": "list", "elements": "str", "default": ["x", "y"]},
            {"type": "textarea", "variable": "an_option", "default": "x\ny"},
        ),
        (
            {"type": "bool", "default": False},
            {
                "type": "multiplechoice",
                "variable": "an_option_answer",
                "choices": ["true", "false"],
                "default": "false",
            },
        ),
        ({"type": "bool", "default": True}, {"default": "true"}),
        ({"type": "str", "no_log": True}, {"type": "password", "default": ""}),
        # A secret is never shown, not even its default.
        ({"type": "str", "no_log": True, "default": "x"}, {"type": "password", "default": ""}),
    ],
)
def test_an_option_becomes_a_question(option: dict, expected: dict):
    assert question(**option).items() >= expected.items()


def test_a_question_may_have_a_default_of_its_own():
    specs = {"a": {"main": {"options": {"b": {"description": "What.", "type": "bool"}}}}}
    result = survey([{"role": "a", "option": "b", "question": "Which?", "default": True}], specs)
    (asked,) = result["survey_spec"]["spec"]
    assert (asked["variable"], asked["default"]) == ("b_answer", "true")
    assert result["extra_vars"] == {"b": "{{ b_answer | bool }}"}


def test_the_description_has_no_markup():
    text = question(
        type="str",
        description=["See O(other) or V(a b); C(oc get).", "From P(osc.peerpods.webhook#role)."],
    )["question_description"]
    assert text == "See other or a b; oc get. From webhook."


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"type": "list", "elements": "str"}, {}),
        ({"type": "bool", "default": True}, {"x": "{{ x_answer | bool }}"}),
        ({"type": "int"}, {}),
        ({"type": "list", "elements": "str", "choices": ["a"]}, {}),
    ],
)
def test_extra_variables_convert_answers_into_options(option: dict, expected: dict):
    """The option does not belong to a role, so the question contains its specification."""
    question_specs = [{"option": "x", "question": "Which?", "spec": {"description": "What.", **option}}]
    assert survey(question_specs, {})["extra_vars"] == expected


@pytest.mark.parametrize("option", [{"type": "bool"}, {"type": "dict"}, {"type": "list", "elements": "dict"}])
def test_option_types_without_a_question_in_awx_are_rejected(option: dict):
    with pytest.raises(SurveyError, match=r"^AWX has no question for the option an_option"):
        question(**option)


@pytest.mark.parametrize(
    "question_spec",
    [{"role": "a", "option": "b"}, {"role": "policy", "option": "policy_state", "entry_point": "teardown"}],
)
def test_unknown_options_are_rejected(question_spec: dict):
    with pytest.raises(SurveyError, match=f"The role {question_spec['role']} has no option {question_spec['option']} "):
        survey([{**question_spec, "question": "Which?"}], SPECS)


@pytest.mark.parametrize("playbook", TEMPLATES)
class TestTemplates:
    def test_each_template_runs_an_existing_playbook(self, playbook: str):
        assert (ROOT / f"playbooks/{playbook}.yml").exists()

    def test_the_default_answers_are_valid_options(self, playbook: str):
        """Ansible's validation of each role accepts the default answers of the survey."""
        question_specs = TEMPLATES[playbook]
        for question_spec, survey_question in zip(
            question_specs, survey(question_specs, SPECS)["survey_spec"]["spec"], strict=True
        ):
            answer = survey_question["default"]
            if survey_question["type"] == "multiselect":
                answer = answer.split()
            if answer == "" and (survey_question["required"] or survey_question["type"] == "integer"):
                continue  # The question has no default.
            validated = ArgumentSpecValidator({question_spec["option"]: option_of(question_spec)}).validate(
                {question_spec["option"]: answer}
            )
            assert validated.error_messages == []

    def test_the_default_answers_are_the_defaults_of_the_roles(self, playbook: str):
        for question_spec in TEMPLATES[playbook]:
            if "role" not in question_spec or "default" in question_spec:
                continue  # The option does not belong to a role, or keeps what exists.
            defaults = yaml.safe_load((ROOT / f"roles/{question_spec['role']}/defaults/main.yml").read_text())
            assert option_of(question_spec).get("default") == defaults.get(question_spec["option"])

    def test_secrets_are_password_questions(self, playbook: str):
        question_specs = TEMPLATES[playbook]
        for question_spec, survey_question in zip(
            question_specs, survey(question_specs, SPECS)["survey_spec"]["spec"], strict=True
        ):
            secret = option_of(question_spec).get("no_log") or re.search(
                "secret$|password|_key$|token", question_spec["option"]
            )
            assert (survey_question["type"] == "password") == bool(secret)
