"""Images are built once, by one of several processes, and again for another distribution. podman and mmdebstrap are
scripts."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import images

PODMAN = """#!/bin/bash
for last; do :; done
case "$1" in
  images) [ -e "$STORE/${last##*/}" ] && echo '[{}]' || echo '[]' ;;
  image) echo '[{"Digest": "sha256:0"}]' ;;
  build) tag=$(printf '%s\\n' "$@" | sed -n 's/^--tag=//p') ;;
  import) tag=$last ;;
esac
if [ -n "$tag" ]; then
  echo "$tag" >> "$STORE/log"
  sleep 0.05
  touch "$STORE/${tag##*/}"
fi
"""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """The tags that podman has made."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in (("podman", PODMAN), ("mmdebstrap", "#!/bin/sh\n")):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("STORE", str(tmp_path))
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    return lambda: (tmp_path / "log").read_text().splitlines()


def test_one_builds_while_others_wait(made: Callable[[], list[str]]):
    threads = [threading.Thread(target=images.build_images) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made()) == sorted([images.base_image(), *images.build_images().values()])


def test_another_distribution_has_other_images(made: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch):
    for codename in ("bookworm", "trixie"):
        monkeypatch.setattr(platform, "freedesktop_os_release", lambda name=codename: {"VERSION_CODENAME": name})
        images.build_images()
    assert len(set(made())) == 2 * (1 + len(images.IMAGES))
