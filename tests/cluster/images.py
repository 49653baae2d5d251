"""Builds the shipped Containerfiles on a base image with the distribution of this machine.

No image registry is used: the base is a minimal Debian or Ubuntu with Python, which mmdebstrap builds from the packages
of the distribution. The base and the images stay in podman's store; their tags are digests of their contents.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.environments import CACHE, locked

from .kubelet import containers_conf

CONTAINERS = Path(__file__).parents[2] / "containers"
SBOMS = CONTAINERS.parent / "build" / "images"
IMAGES = ("webhook", "node_capacity")
BASE_PACKAGES = "ca-certificates,python3,python3-venv"
COMMANDS = ("podman", "buildah", "runc", "iptables", "catatonit", "mmdebstrap")


def why_no_podman() -> str | None:
    """The reason why containers cannot be built and run here, as a sentence, or None."""
    if os.geteuid() != 0:
        return "Containers that the API server can reach require root."
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        return f"Missing: {', '.join(missing)}. As root, `make packages` installs them."
    try:
        build_images()
    except subprocess.CalledProcessError as error:
        return f"`{' '.join(error.cmd)}` failed: {(error.stderr or '').strip()[-500:]}"
    return None


def build_images() -> dict[str, str]:
    """The tags of both images, by name in IMAGES; images that podman does not have are built."""
    tags = {name: f"localhost/osc-peerpods/{name}:{_key(name)}" for name in IMAGES}
    with locked(CACHE / ".images.lock"):
        for name, tag in tags.items():
            if not _exists(tag):
                _say(f"Building the image {tag} from containers/{name}.")
                build_image(CONTAINERS / name, tag, f"--build-arg=BASE_IMAGE={base_image()}")
    return tags


def build_image(folder: Path, tag: str, *arguments: str) -> str:
    """Build the Containerfile in `folder`, as in a checkout with the umask 077; returns the image's digest."""
    with tempfile.TemporaryDirectory() as directory:
        private = Path(directory, folder.name)
        shutil.copytree(folder, private, ignore=shutil.ignore_patterns("__pycache__", "tests"))
        for path in (private, *private.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)
        _podman(
            "build",
            "--quiet",
            "--isolation=chroot",
            "--network=host",
            # The base exists. A missing one is reported immediately; podman would try to pull it for six seconds.
            "--pull=never",
            *_registry_access(),
            *arguments,
            f"--tag={tag}",
            str(private),
        )
    return _inspect(tag)["Digest"]


def summary(tags: dict[str, str]) -> str:
    """The sizes of the base and of each image, in MB, as podman reports them."""
    base = _size(base_image())
    return "\n".join(
        [f"base {base:.0f} MB", *(f"{tag} {base:.0f} + {_size(tag) - base:.0f} MB" for tag in tags.values())]
    )


def export_sbom(tag: str, path: Path) -> None:
    """Write the bill of materials in an image, which lists everything except its base."""
    path.parent.mkdir(parents=True, exist_ok=True)
    container = _podman("create", tag).stdout.strip()
    try:
        _podman("cp", f"{container}:/opt/app/sbom.cdx.json", str(path))
    finally:
        _podman("rm", container)


def _size(tag: str) -> float:
    return _inspect(tag)["Size"] / 1e6


def _inspect(tag: str) -> dict:
    return json.loads(_podman("image", "inspect", tag).stdout)[0]


def base_image() -> str:
    """The tag of the base, which is made if podman does not have it."""
    codename = _codename()
    key = hashlib.sha256(BASE_PACKAGES.encode()).hexdigest()[:8]
    tag = f"localhost/osc-peerpods/base:{codename}-{key}"
    with locked(CACHE / ".base-image.lock"):
        if not _exists(tag):
            _say(f"Making the base image {tag} by mmdebstrap (about a minute).")
            _make_base(codename, tag)
    return tag


def _make_base(codename: str, tag: str) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={BASE_PACKAGES}", codename]
    with tempfile.TemporaryDirectory() as directory:
        tarball = str(Path(directory, "base.tar"))
        subprocess.run([*command, tarball], capture_output=True, text=True, check=True)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        _podman("import", "--quiet", f"--change=ENV PATH={path}", tarball, tag)


def _codename() -> str:
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def _registry_access() -> list[str]:
    """The access of this machine to its package index, mounted for the build and not part of the image."""
    return [f"--volume={path}:{path}:ro" for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]


def _key(name: str) -> str:
    """A digest of the sources of an image: its base, and its directory without tests and documentation."""
    digest = hashlib.sha256(f"{_codename()}\0{BASE_PACKAGES}\0".encode())
    folder = CONTAINERS / name
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[0] != "tests" and path.suffix in (".py", ".toml", ".txt", ""):
            digest.update(f"{relative}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _exists(tag: str) -> bool:
    return json.loads(_podman("images", "--format=json", tag).stdout or "[]") != []


def _podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as directory:
        return subprocess.run(
            ["podman", *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "CONTAINERS_CONF": str(containers_conf(Path(directory)))},
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    built = build_images()
    print(summary(built))
    for name, tag in built.items():
        export_sbom(tag, SBOMS / f"{name}.cdx.json")
        print(SBOMS / f"{name}.cdx.json")
