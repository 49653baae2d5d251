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
from time import monotonic
from typing import NamedTuple, NoReturn

from .application import BodyReader, ProbeApplication, ReviewApplication
from .certificate import Certificate, check, read
from .client import NewClient
from .connections import Bounds, Guard, Requests
from .listener import Files, Listener, listening_socket
from .log import log
from .metrics import CERTIFICATE_NOT_AFTER, CERTIFICATE_RELOADS
from .mutate import Policy
from .settings import Settings

# Reviews take milliseconds. A request that is pending after this time is abandoned.
DRAIN_SECONDS = 1.0

# The interval of checks of the certificate's files for changes.
POLL_SECONDS = 1.0

# The interval of connections of a new client.
CONNECT_SECONDS = 2.0

# How long the listener with the previous certificate keeps serving after a renewal, and asks its
# clients to reconnect. Connections that remain then have been idle all that time.
HANDOVER_SECONDS = 10.0


class Serving(NamedTuple):
    """A running listener for reviews, and its application."""

    listener: Listener
    application: ReviewApplication
    since: float


class Webhook:
    def __init__(self, policy: Policy, settings: Settings, bounds: Bounds):
        self._policy = policy
        self._settings = settings
        self._bounds = bounds
        self._requests: Requests = {}
        self._bodies = BodyReader(settings)
        self._new_client = NewClient(settings)
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
            probes = Listener(self._probe_application(metrics=True), health)
            self._start_listener(self._certificate)
            Guard((self._reviews, health), self._requests, self._bounds).start()
            await self._new_client.connect()
            log({"level": "info", "message": "Listening for admission reviews.", **self._configuration()})
            async with asyncio.TaskGroup() as tasks:
                reloading = tasks.create_task(self._reload_certificates())
                deadlines = tasks.create_task(self._bodies.enforce_deadlines())
                connecting = tasks.create_task(self._connect())
                await self._stopping.wait()
                reloading.cancel()
                connecting.cancel()
                await self._drain()
                await _stop([probes])
                deadlines.cancel()

    def why_not_ready(self) -> str | None:
        """The reason if the process must not receive reviews."""
        if self._stopping.is_set():
            return "The webhook is stopping."
        if reason := self._certificate.why_invalid(datetime.now(timezone.utc)):
            return f"The serving certificate {reason}"
        return self._new_client.why_not_ready()

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

    def _probe_application(self, *, metrics: bool) -> ProbeApplication:
        return ProbeApplication(self._new_client.why_not_live, self.why_not_ready, self._requests, metrics=metrics)

    def _start_listener(self, certificate: Certificate) -> None:
        """Raises OSError if the process has no file descriptor or memory left."""
        probes = self._probe_application(metrics=False)
        application = ReviewApplication(self._policy, self._settings, self._bodies, probes, self._requests)
        listener = Listener(
            application,
            self._reviews,
            certificate.files,
            tls_min_version=self._settings.tls_min_version,
            idle_seconds=self._settings.idle_seconds,
        )
        self._serving.append(Serving(listener, application, monotonic()))
        CERTIFICATE_NOT_AFTER.set(certificate.not_after.timestamp())

    async def _connect(self) -> NoReturn:
        while True:
            await asyncio.sleep(CONNECT_SECONDS)
            await self._new_client.connect()

    async def _reload_certificates(self) -> None:
        # The files at the last check, and their pair, until it replaces that in use.
        checked: Files | None = self._certificate.files
        candidate: Certificate | None = None
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                if monotonic() - self._serving[-1].since > self._settings.connection_seconds:
                    # With HTTP/2, only a listener that stops asks its clients to open a new connection.
                    await self._replace_listener(self._certificate)
                files = self._read_files()
                if files == self._certificate.files:
                    checked, candidate = files, None
                elif files != checked:
                    checked, candidate = files, await self._check(files)
                if candidate and self._why_worse(candidate) is None:
                    await self._replace_listener(candidate)
            except OSError as error:
                # For want of time, memory or file descriptors, not because of the files: tried again.
                reason = error.strerror or error
                log({"level": "error", "message": f"Loading the certificate failed: {reason}. It is tried again."})

    async def _check(self, files: Files | None) -> Certificate | None:
        """Check a new pair, and report if it does not replace that in use yet."""
        certificate: Certificate | None = None
        try:
            # If they could not be read, the second attempt raises the error.
            certificate = await check(files or read(self._settings), self._settings)
        except ValueError as error:
            reason = str(error)
        else:
            why = self._why_worse(certificate)
            if why is None:
                return certificate
            reason = f"The certificate in {self._settings.certificate} {why}"
        CERTIFICATE_RELOADS.labels("failure").inc()
        log({"level": "error", "message": f"{reason} The previous certificate stays in use."})
        return certificate

    def _why_worse(self, candidate: Certificate) -> str | None:
        """The reason if `candidate` is not valid, while the certificate in use is."""
        now = datetime.now(timezone.utc)
        return candidate.why_invalid(now) if self._certificate.why_invalid(now) is None else None

    def _read_files(self) -> Files | None:
        """The current files of the certificate, or None if they cannot be read."""
        try:
            return read(self._settings)
        except ValueError:
            return None

    async def _replace_listener(self, renewed: Certificate) -> None:
        old = self._serving[-1]
        self._start_listener(renewed)
        previous, self._certificate = self._certificate, renewed
        if renewed is not previous:
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
