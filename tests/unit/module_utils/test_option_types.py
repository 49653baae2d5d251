"""What the templates make of an option is what Ansible validated, in each way to write it."""

from __future__ import annotations

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.osc.peerpods.plugins.module_utils._option_types import as_bool, as_dict, as_list

from tests.support import role_options

# What people write on a command line, in a survey and in a file of variables, with the same value as YAML reads it.
SPELLINGS: dict[str, list[tuple[object, object]]] = {
    "bool": [
        *((text, True) for text in ("true", "True", "TRUE", "yes", "Yes", "on", "y", "Y", "t", "1", " true ", 1)),
        *((text, False) for text in ("false", "False", "FALSE", "no", "No", "off", "n", "N", "f", "0", " false ", 0)),
    ],
    "int": [("7", 7), (" 7", 7), (7, 7)],
    "dict": [
        ('{"a": "b", "c": "d"}', {"a": "b", "c": "d"}),
        ("{'a': 'b'}", {"a": "b"}),
        ("a=b,c=d", {"a": "b", "c": "d"}),
        ("a=b c=d", {"a": "b", "c": "d"}),
        ("{}", {}),
    ],
    "list": [("a,b", ["a", "b"]), ("a", ["a"])],
    # Validation accepts these too, and only here they become what was meant.
    "list of text": [
        ("a, b", ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("['a', 'b']", ["a", "b"]),
        ("[a, b]", ["a", "b"]),
        ("a\nb\n", ["a", "b"]),
        ("- a\n- b\n", ["a", "b"]),
        ("[]", []),
        ("", []),
    ],
}
CONVERTERS = {"bool": as_bool, "dict": as_dict, "int": int, "list": as_list}
OPTIONS = role_options()


def validated(option: dict, value: object) -> object:
    """What Ansible makes of the value when it validates an option of this type."""
    specification = {"type": option["type"], **({"elements": option["elements"]} if "elements" in option else {})}
    result = ArgumentSpecValidator({"option": specification}).validate({"option": value})
    assert not result.error_messages, result.error_messages
    return result.validated_parameters["option"]


@pytest.mark.parametrize(
    "name", sorted(name for name, option in OPTIONS.items() if option.get("type", "str") in CONVERTERS)
)
def test_every_spelling_becomes_the_validated_value(name: str):
    option = OPTIONS[name]
    kind, elements = option["type"], option.get("elements")
    spellings = SPELLINGS[kind]
    if kind == "list":
        numbers = [("1,2", [1, 2]), ("1", [1])]
        spellings = {"dict": [('{"a": "b"}', [{"a": "b"}]), ("a=b", [{"a": "b"}])], "int": numbers}.get(
            elements or "str", spellings
        )
    for value, expected in spellings:
        converted = as_list(value, elements) if elements == "dict" else CONVERTERS[kind](value)
        assert validated(option, value) == validated(option, converted) == expected
        assert validated(option, expected) == expected


@pytest.mark.parametrize(("text", "expected"), SPELLINGS["list of text"])
def test_a_list_as_text_is_what_was_meant(text: str, expected: list):
    assert validated({"type": "list", "elements": "str"}, text)
    assert as_list(text) == expected


@pytest.mark.parametrize("name", sorted(name for name, option in OPTIONS.items() if option.get("type") == "list"))
def test_a_list_without_a_value_is_rejected_or_empty(name: str):
    """`option:` in a file of variables, which validation accepts if the option has no default."""
    option = OPTIONS[name]
    specification = {key: option[key] for key in ("type", "elements", "default") if key in option}
    result = ArgumentSpecValidator({"option": specification}).validate({"option": None})
    assert result.error_messages or as_list(None, option.get("elements", "str")) == []


@pytest.mark.parametrize("text", ["[a", "[a]: b", "- a\n b: c", "['a", "[a] b"])
def test_what_begins_like_a_list_is_one(text: str):
    with pytest.raises(TypeError, match="is not a list"):
        as_list(text)


@pytest.mark.parametrize("value", ["maybe", "", "2"])
def test_what_is_no_boolean_is_not_guessed(value: object):
    with pytest.raises(TypeError, match="not a valid boolean"):
        as_bool(value)


def test_a_list_in_a_text_of_a_file_is_read():
    """Ansible marks such a text with a class of its own."""

    class Tagged(str):
        __slots__ = ()

    assert as_list(Tagged('["a", "b"]')) == ["a", "b"]
    assert as_list(Tagged('[{"a": "b"}]'), "dict") == [{"a": "b"}]
