# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a new client gets an answer: this process connects to its own port, as the API server does."""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic

from .settings import Settings

# How long a new client waits for an answer. A webhook that has not answered for this time is not ready.
ANSWER_SECONDS = 5.0

# After this time without an answer, a restart is what helps.
RESTART_SECONDS = 60.0

REQUEST = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


class NewClient:
    """Opens a connection from time to time."""

    def __init__(self, settings: Settings):
        self._port = settings.port
        self._address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.address, settings.address)
        # The webhook requires a certificate of its clients: rejecting one without is an answer as well.
        self._is_rejected = settings.client_ca is not None
        # Without the CA certificates of the system, which take memory.
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        # The start of the first attempt that got no answer since the last answer, and the reason.
        self._unanswered_since = 0.0
        self._reason: str | None = None

    def why_not_ready(self) -> str | None:
        return self._reason

    def why_not_live(self) -> str | None:
        return self._reason if monotonic() - self._unanswered_since > RESTART_SECONDS else None

    async def connect(self) -> None:
        """Connect, and remember whether there was an answer."""
        began = monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._request()
        except OSError as error:
            if self._reason is None:
                self._unanswered_since = began
            why = error.strerror or str(error) or f"no answer within {ANSWER_SECONDS:.0f} seconds"
            self._reason = f"A new connection to port {self._port} failed: {why}."
        else:
            self._reason = None

    async def _request(self) -> None:
        """Raises OSError without an answer."""
        try:
            reader, writer = await asyncio.open_connection(self._address, self._port, ssl=self._tls)
            try:
                writer.write(REQUEST)
                answer = await reader.readline()
            finally:
                writer.transport.abort()
        except ssl.SSLError:
            if self._is_rejected:
                return
            raise
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise OSError(f"the answer was {answer[:100]!r}")
