# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lifecycle of the process: start, reload of certificates, and graceful shutdown.

It writes no files, and can run as PID 1 of a container with a read-only root file system.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from datetime import datetime, timezone
from typing import NamedTuple

from .application import BodyReader, ProbeApplication, ReviewApplication
from .certificate import Certificate, check, read
from .listener import Files, Listener, listening_socket
from .log import log
from .metrics import CERTIFICATE_NOT_AFTER, CERTIFICATE_RELOADS
from .mutate import Policy
from .settings import Settings

# Reviews take milliseconds. A request that is pending after this time is abandoned.
DRAIN_SECONDS = 1.0

# The interval of checks of the certificate's files for changes.
POLL_SECONDS = 1.0

# How long the listener with the previous certificate keeps serving after a renewal, and asks its
# clients to reconnect. Connections that remain then have been idle all that time.
HANDOVER_SECONDS = 10.0


class Serving(NamedTuple):
    """A running listener for reviews, and its application."""

    listener: Listener
    application: ReviewApplication


class Webhook:
    def __init__(self, policy: Policy, settings: Settings):
        self._policy = policy
        self._settings = settings
        self._bodies = BodyReader(settings)
        self._stopping = asyncio.Event()
        self._skip_delay = asyncio.Event()
        self._serving: list[Serving] = []

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. A second signal skips the shutdown delay.

        Raises ValueError or OSError with a sentence if it cannot start.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal)
        self._certificate = await check(read(settings), settings)
        with (
            listening_socket(settings.address, settings.port) as self._reviews,
            listening_socket(settings.address, settings.health_port) as health,
        ):
            probes = Listener(ProbeApplication(self.why_not_ready, metrics=True), health)
            self._start_listener()
            log({"level": "info", "message": "Listening for admission reviews.", **self._configuration()})
            async with asyncio.TaskGroup() as tasks:
                reloading = tasks.create_task(self._reload_certificates())
                deadlines = tasks.create_task(self._bodies.enforce_deadlines())
                await self._stopping.wait()
                reloading.cancel()
                await self._drain()
                await _stop([probes])
                deadlines.cancel()

    def why_not_ready(self) -> str | None:
        """The reason if the process must not receive reviews."""
        if self._stopping.is_set():
            return "The webhook is stopping."
        return self._certificate.why_invalid(datetime.now(timezone.utc))

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            self._skip_delay.set()
        self._stopping.set()

    def _configuration(self) -> dict[str, object]:
        return {
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

    async def _reload_certificates(self) -> None:
        checked: Files | None = self._certificate.files
        while True:
            await asyncio.sleep(POLL_SECONDS)
            files = self._read_files()
            if files in (checked, self._certificate.files):
                continue
            checked = files
            try:
                # If they could not be read, the second attempt raises the error.
                renewed = await check(files or read(self._settings), self._settings)
            except ValueError as error:
                CERTIFICATE_RELOADS.labels("failure").inc()
                log({"level": "error", "message": f"{error} The previous certificate stays in use."})
            else:
                await self._replace_listener(renewed)

    def _read_files(self) -> Files | None:
        """The current files of the certificate, or None if they cannot be read."""
        try:
            return read(self._settings)
        except ValueError:
            return None

    async def _replace_listener(self, renewed: Certificate) -> None:
        previous, self._certificate = self._certificate, renewed
        old = self._serving[-1]
        self._start_listener()
        CERTIFICATE_RELOADS.labels("success").inc()
        log({"level": "info", "message": "Certificate renewed.", "certificateNotAfter": renewed.not_after})
        old.application.closing = True
        # Clients of an expired certificate have failed already: no handover is needed.
        if previous.why_invalid(datetime.now(timezone.utc)) is None:
            await asyncio.sleep(HANDOVER_SECONDS)
        self._serving.remove(old)
        old.listener.stop()

    async def _drain(self) -> None:
        for serving in self._serving:
            serving.application.closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.shutdown_delay_seconds):
                await self._skip_delay.wait()
        await _stop([serving.listener for serving in self._serving])


async def _stop(listeners: list[Listener]) -> None:
    """Stop listeners, without waiting for clients that keep HTTP/2 connections open."""
    for listener in listeners:
        listener.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            for listener in listeners:
                await listener.stopped()
