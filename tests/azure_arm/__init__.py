"""An Azure Resource Manager on this machine, with the part of Azure that peer pods use.

Networks, subnets, network interfaces, security groups and their rules, NAT gateways, public IP addresses, route tables,
machines, quota, locks and permissions behave as in Azure towards a client: API versions, ETags, long-running
operations, pages, error codes. No packets are sent, and no machines run.
"""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Self

from tests.cluster.pki import CertificateAuthority

from .app import Arm
from .wire import Server


class AzureArm(Arm):
    """A running Azure Resource Manager with TLS, as a context manager. Its certificates are in `directory`."""

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self.ca_file = directory / "ca.crt"
        authority = CertificateAuthority("emulated Azure")
        self.ca_file.write_bytes(authority.pair.certificate)
        serving = authority.server("127.0.0.1", "127.0.0.1")
        chain = directory / "serving.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(serving.certificate + serving.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        self._server = Server(context)
        super().__init__(self._server.url)
        self._server.answer = self.answer
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a client of this Azure."""
        return {
            "AZURE_CLOUD_ENVIRONMENT": self.endpoint_url,
            "AZURE_SUBSCRIPTION_ID": self.subscription_id,
            "AZURE_TENANT_ID": self.tenant_id,
            "AZURE_CLIENT_ID": self.client_id,
            "AZURE_CLIENT_SECRET": self.client_secret,
            # The names of azure.azcollection for two of them.
            "AZURE_TENANT": self.tenant_id,
            "AZURE_SECRET": self.client_secret,
            "AZURE_DISABLE_INSTANCE_DISCOVERY": "true",
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
        }
