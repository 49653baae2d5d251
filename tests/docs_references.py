"""`python -m tests.docs_references DIRECTORY`: provide what the documentation refers to in other collections.

The directory becomes a collections path. antsibull-docs reads all plugins of a collections path to check references:
those of azure.azcollection alone take 20 s of CPU time.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import ansible_collections

from tests.support import ROOT

COLLECTIONS = ("amazon.aws", "azure.azcollection", "kubernetes.core")
WITH_DOCUMENTATION = ("docs", "plugins", "roles")


def provide(directory: Path) -> None:
    """Provide the modules whose name occurs in a file with documentation, and the plugins that modules import."""
    paths = (path for folder in WITH_DOCUMENTATION for path in (ROOT / folder).rglob("*"))
    # Another command may write bytecode meanwhile.
    files = (path for path in paths if "__pycache__" not in path.parts and path.is_file())
    text = "\n".join(path.read_text(errors="replace") for path in files)
    (site_packages,) = (Path(path).parent for path in ansible_collections.__path__)
    for collection in COLLECTIONS:
        relative = Path("ansible_collections", *collection.split("."))
        source, target = site_packages / relative, directory / relative
        names = set(re.findall(rf"\b{re.escape(collection)}\.(\w+)", text))
        modules = [module for module in source.glob("plugins/modules/*.py") if module.stem in names]
        others = [kind for kind in source.glob("plugins/*") if kind.name != "modules"]
        (target / "plugins/modules").mkdir(parents=True)
        for path in (source / "MANIFEST.json", *others):
            (target / path.relative_to(source)).symlink_to(path)
        # ansible-doc takes a link to a module for another name of it.
        for module in modules:
            shutil.copy(module, target / "plugins/modules")


if __name__ == "__main__":
    provide(Path(sys.argv[1]))
