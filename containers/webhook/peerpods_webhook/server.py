# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The life of the process: it listens, takes up renewed certificates, and leaves without a loss.

No files are written: fit for PID 1 in a container with a read-only root.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from datetime import datetime, timezone
from typing import NamedTuple

from .application import Bodies, ProbeApplication, ReviewApplication
from .certificate import Certificate, check, read
from .listener import Files, Listener, listening_socket
from .log import log
from .metrics import CERTIFICATE_NOT_AFTER, CERTIFICATE_RELOADS
from .mutate import Policy
from .settings import Settings

# A review takes milliseconds: what is not answered after this never will be.
DRAIN_SECONDS = 1.0

# How often the certificate's files are looked at.
POLL_SECONDS = 1.0

# For so long the listener with the old certificate answers beside the one with the new, and has
# its clients come back over new connections: those then left have been idle all that time.
HANDOVER_SECONDS = 10.0


class Serving(NamedTuple):
    """A listener for reviews at work."""

    listener: Listener
    application: ReviewApplication


class Webhook:
    def __init__(self, policy: Policy, settings: Settings):
        self._policy = policy
        self._settings = settings
        self._bodies = Bodies(settings)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._serving: list[Serving] = []

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; by a second one, without the shutdown delay.

        Raises ValueError or OSError, as a sentence, where it cannot start.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._asked_to_stop)
        self._certificate = await check(read(settings), settings)
        with (
            listening_socket(settings.address, settings.port) as self._reviews,
            listening_socket(settings.address, settings.health_port) as health,
        ):
            probes = Listener(ProbeApplication(self.why_not_ready, metrics=True), health)
            self._start_listener()
            log(self._listening())
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch_files())
                expiring = tasks.create_task(self._bodies.expire())
                await self._stopping.wait()
                watching.cancel()
                await self._drain()
                await _stop([probes])
                expiring.cancel()

    def why_not_ready(self) -> str | None:
        """A sentence where no review should be sent here."""
        if self._stopping.is_set():
            return "The webhook is stopping."
        return self._certificate.why_invalid(datetime.now(timezone.utc))

    def _asked_to_stop(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def _listening(self) -> dict[str, object]:
        return {
            "outcome": "listening",
            "address": self._settings.address,
            "port": self._settings.port,
            "healthPort": self._settings.health_port,
            "runtimeClassNames": sorted(self._policy.runtime_classes),
            "extendedResource": self._policy.extended_resource,
            "certificateNotAfter": self._certificate.not_after,
        }

    def _start_listener(self) -> None:
        application = ReviewApplication(self._policy, self._settings, self._bodies, self.why_not_ready)
        listener = Listener(application, self._reviews, self._certificate.files, self._settings.tls_min_version)
        self._serving.append(Serving(listener, application))
        CERTIFICATE_NOT_AFTER.set(self._certificate.not_after.timestamp())

    async def _watch_files(self) -> None:
        seen = self._certificate.files
        while True:
            await asyncio.sleep(POLL_SECONDS)
            found = self._look()
            if found in (seen, self._certificate.files):
                continue
            seen = found
            try:
                # Once more, for the sentence where they could not be read.
                renewed = await check(found or read(self._settings), self._settings)
            except ValueError as error:
                CERTIFICATE_RELOADS.labels("refused").inc()
                log({"level": "error", "message": f"{error} Until then the one before is served."})
            else:
                await self._renew(renewed)

    def _look(self) -> Files | None:
        """What the certificate's files hold; None where they cannot be read."""
        try:
            return read(self._settings)
        except ValueError:
            return None

    async def _renew(self, renewed: Certificate) -> None:
        before, self._certificate = self._certificate, renewed
        old = self._serving[-1]
        self._start_listener()
        CERTIFICATE_RELOADS.labels("served").inc()
        log({"outcome": "certificate renewed", "certificateNotAfter": renewed.not_after})
        old.application.closing = True
        # Nobody takes what has expired: then there is nothing to hand over.
        if before.why_invalid(datetime.now(timezone.utc)) is None:
            await asyncio.sleep(HANDOVER_SECONDS)
        self._serving.remove(old)
        old.listener.stop()

    async def _drain(self) -> None:
        for serving in self._serving:
            serving.application.closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.shutdown_delay_seconds):
                await self._hurry.wait()
        await _stop([serving.listener for serving in self._serving])


async def _stop(listeners: list[Listener]) -> None:
    """Some client may keep an HTTP/2 connection open that was told to go away: it is left."""
    for listener in listeners:
        listener.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            for listener in listeners:
                await listener.stopped()
