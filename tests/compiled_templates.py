"""Keeps the code that Jinja makes of the templates of playbooks, for the next run.

Each run compiles some hundred templates, mostly the same as every other run, in a quarter of its CPU time. The code
depends on the template, on the settings that are a part of its key, and on the versions and filters that are a part of
the name of the directory: Jinja looks at a filter for the arguments that it takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

from tests.environments import CACHE
from tests.support import ROOT


def keep_compiled_templates(directory: Path | None = None) -> None:
    """Let the Jinja of Ansible use the code in the directory, and write there what it compiles."""
    from ansible._internal._templating import _jinja_bits as bits
    from jinja2.environment import Environment, TemplateExpression
    from jinja2.nodes import Template

    environment = bits.AnsibleEnvironment
    original = environment.compile
    directory = directory or _directory()

    def path(self: Environment, kind: str, source: str) -> Path:
        context = bits._TemplateCompileContext.current(optional=True)
        settings = [getattr(self, field) for field in bits._TEMPLATE_OVERRIDE_FIELD_NAMES]
        escape = context is not None and context.escape_backslashes
        of = (
            kind,
            str(source),
            settings,
            escape,
            bits._TemplateConfig.allow_embedded_templates,
            sorted(self.extensions),
        )
        return directory / hashlib.sha256(repr(of).encode()).hexdigest()

    def compile_template(self: Environment, source: str | Template, *of_file: Any) -> CodeType:
        # A template that another one includes, and the tree of an expression.
        if of_file or not isinstance(source, str):
            return original(self, source, *of_file)
        return _kept(path(self, "template", source), lambda: original(self, source))

    def compile_expression(self: Environment, source: str, undefined_to_none: bool = True) -> TemplateExpression:
        def compile_tree() -> CodeType:
            # Jinja has no method that returns the code of an expression: it makes a template of the tree.
            codes = []
            self.from_string = lambda tree: codes.append(original(self, tree))
            try:
                Environment.compile_expression(self, source)
            finally:
                del self.from_string
            return codes[0]

        code = _kept(path(self, "expression", source), compile_tree)
        template = self.template_class.from_code(self, code, self.make_globals(None), None)
        return TemplateExpression(template, undefined_to_none)

    environment.compile = compile_template
    environment.compile_expression = compile_expression


def _kept(path: Path, compile_source: Callable[[], CodeType]) -> CodeType:
    # Another process may be writing the file: it appears when it is complete. After a crash of the machine, it may be
    # empty or truncated.
    with contextlib.suppress(FileNotFoundError, EOFError, ValueError, TypeError):
        return marshal.loads(path.read_bytes())
    code = compile_source()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        marshal.dump(code, file)
    os.rename(file.name, path)
    return code


def _directory() -> Path:
    import jinja2
    from ansible import release

    versions = [sys.version, release.__version__, jinja2.__version__]
    filters = [path.read_text() for path in sorted(ROOT.glob("plugins/filter/*.py"))]
    directory = CACHE / "templates" / hashlib.sha256(repr([versions, filters]).encode()).hexdigest()
    directory.mkdir(parents=True, exist_ok=True)
    return directory
