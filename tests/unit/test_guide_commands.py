"""The commands that a user copies from the guides: what they name exists, and is set before it is used."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise

import botocore.session
import pytest
from botocore import xform_name

from tests.support import ROOT, role_options

OPTIONS = role_options()
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "roles/*/README.md", "docs/docsite/rst/*.rst")
    for path in ROOT.glob(pattern)
)
# Those that a user sets to log in.
LOGIN = {"AZURE_CLIENT_ID"}


def commands(file: str) -> Iterator[str]:
    """What follows the prompts, with the lines that continue it."""
    text = (ROOT / file).read_text()
    for command in re.findall(r"^ *\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE):
        yield re.sub(r"\\\n *", " ", command)


def parts(command: str) -> list[str]:
    return shlex.split(command, comments=True)


RUN = [(file, command) for file in FILES for command in commands(file)]


def those_of(program: str) -> list:
    return [pytest.param(command, id=f"{file}: {command[:60]}") for file, command in RUN if command.startswith(program)]


@pytest.mark.parametrize("command", those_of("ansible-playbook osc.peerpods."))
def test_a_playbook_and_its_options_exist(command: str):
    _program, name, *arguments = parts(command)
    assert (ROOT / "playbooks" / f"{name.rpartition('.')[2]}.yml").exists()
    given = [value for flag, value in pairwise(arguments) if flag == "-e"]
    for value in given:
        # A file, a dictionary, or one option.
        names = re.findall(r'"(\w+)":', value) if value.startswith("{") else [value.partition("=")[0]]
        assert value.startswith("@") or set(names) <= OPTIONS.keys(), value


@pytest.mark.parametrize("command", those_of("ansible localhost -m osc.peerpods."))
def test_a_module_exists(command: str):
    name = parts(command)[3].rpartition(".")[2]
    assert (ROOT / "plugins" / "modules" / f"{name}.py").exists()


@pytest.mark.parametrize("command", those_of("aws "))
def test_a_command_of_the_aws_cli_exists(command: str):
    """The CLI makes them of the same model as botocore."""
    _program, service, operation, *arguments = parts(command)
    model = botocore.session.get_session().get_service_model(service)
    operations = {xform_name(name, "-"): name for name in model.operation_names}
    members = model.operation_model(operations[operation]).input_shape.members
    flags = {argument.removeprefix("--") for argument in arguments if argument.startswith("--")}
    # Short forms of the CLI for the rule of a security group, and options of all commands.
    flags -= {"protocol", "port", "source-group", "region", "query", "output"}
    assert flags <= {xform_name(name, "-") for name in members}


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_the_repository_exists(file: str):
    named = {match for command in commands(file) for match in re.findall(r"(?:file://|@)(docs/\S+)", command)}
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("file", FILES)
def test_a_variable_is_set_before_it_is_used(file: str):
    known = set(LOGIN)
    for command in commands(file):
        used = set(re.findall(r"\$\{?([A-Z][A-Z_]+)\b", command))
        # guide_by_hand.rst quotes the product documentation, which reads the region and the subnet with more commands.
        if not file.endswith("guide_by_hand.rst"):
            assert used <= known, command
        known |= set(re.findall(r"(?:^|\s)([A-Z][A-Z_]+)=", command))


def test_both_languages_have_the_same_commands():
    english, korean = ("docs/docsite/rst/guide_start.rst", "docs/docsite/rst/quickstart_ko.rst")
    shown = [[parts(command) for command in commands(file)] for file in (english, korean)]
    assert shown[0] == shown[1]
    assert "operator_install_create_identity: true" in (ROOT / korean).read_text()
