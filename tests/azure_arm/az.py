"""The real Azure CLI, in its own virtual environment, logged in at the emulated ARM."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.environments import own_environment

from . import AzureArm

# It pins most packages of the SDK, so it requires its own environment.
AZURE_CLI = "azure-cli==2.91.0"

# The timeout of a call in seconds. The first call compiles the modules of the CLI.
TIMEOUT = 180


class Az:
    """`az` with a configuration in `directory`; `environment` is for shells that call it."""

    def __init__(self, arm: AzureArm, directory: Path):
        bin_directory = own_environment(AZURE_CLI)
        self.environment = {
            **os.environ,
            "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}",
            "AZURE_CONFIG_DIR": str(directory),
            "AZURE_CORE_COLLECT_TELEMETRY": "false",
            "AZURE_CORE_SURVEY_MESSAGE": "false",
            "AZURE_CORE_NO_COLOR": "true",
            "AZURE_CORE_INSTANCE_DISCOVERY": "false",
            "AZURE_AUTO_UPGRADE_ENABLE": "false",
            "AZURE_EXTENSION_USE_DYNAMIC_INSTALL": "no",
            "REQUESTS_CA_BUNDLE": str(arm.ca_file),
        }
        endpoints = {
            "resource-manager": arm.endpoint_url,
            "management": arm.endpoint_url,
            "active-directory": arm.endpoint_url,
            "active-directory-resource-id": arm.endpoint_url,
            "active-directory-graph-resource-id": f"{arm.endpoint_url}/graph",
            "microsoft-graph-resource-id": f"{arm.endpoint_url}/graph",
        }
        self.run(
            "cloud",
            "register",
            "--name",
            "Emulated",
            *(part for name, url in endpoints.items() for part in (f"--endpoint-{name}", url)),
        )
        self.run("cloud", "set", "--name", "Emulated")
        self.run(
            "login",
            "--service-principal",
            "--username",
            arm.client_id,
            "--password",
            arm.client_secret,
            "--tenant",
            arm.tenant_id,
        )

    def run(self, *args: str) -> str:
        """The output of `az`; CalledProcessError with its error output if it fails."""
        return subprocess.run(
            ["az", *args],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
        ).stdout
