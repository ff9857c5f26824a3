"""One connection to NATS that comes back by itself, and JetStream's API over it.

The bus and what it is made of (``following``, ``delivering``, ``publishing``) share one ``Link``. It translates the
library's exceptions into ours, tells who watches when the connection has come back, and opens a new
connection when the library has given the old one up. It knows nothing of fleets or messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everynode.errors import ConfigurationError, OutcomeUnknownError, UnavailableError
from everynode.runtime.counts import LinkCounts
from everynode.runtime.credentials import client_options
from everynode.runtime.exchange import Exchange
from everynode.runtime.intake import Intake, IntakeClient, Take
from everynode.runtime.serving import Serving, cancellations
from everynode.runtime.settings import Connection

SERVER_VERSION_MIN = (2, 12)
API_TIMEOUT_MS = 5_000
CONNECT_ROUNDS = 2  # how often each server is tried before a connection is given up
CONNECT_PAUSE_MS = 100  # between two tries of the same server
PING_INTERVAL_SECONDS = 5
PINGS_OUTSTANDING_MAX = 2  # a connection that is dead without a word is noticed after 15 s
OVERSEE_INTERVAL_MS = 1_000
CLOSE_TIMEOUT_MS = 1_000
FLUSH_TIMEOUT_SECONDS = 2
RECONNECT_DELAY_MIN_MS = 50
RECONNECT_DELAY_MAX_MS = 2_000
PENDING_SEND_BYTES_MAX = 8 * 1024**2
HEADER_BYTES_MAX = (
    1_024  # what the headers that we set take at most; they count against max_payload
)

log = structlog.get_logger(__name__)


class ApiRefusal(Exception):  # noqa: N818 - it never leaves the runtime: whoever calls translates it
    """JetStream said no.

    Args:
        code: Its number for this very error (``err_code``).
        description: Its words.
    """

    def __init__(self, code: int, description: str) -> None:
        """Keep the number: it says what to do."""
        super().__init__(f"{description} (JetStream error {code})")
        self.code = code
        self.description = description


def check_server_version(version: str) -> None:
    """Refuse a server that has no atomic batches.

    Raises:
        ConfigurationError: It is older than 2.12, or does not say how old it is.
    """
    needed = ".".join(map(str, SERVER_VERSION_MIN))
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if match is None:
        message = f"nats-server says its version is {version!r}; {needed} or newer is needed"
        raise ConfigurationError(message)
    if (int(match[1]), int(match[2])) < SERVER_VERSION_MIN:
        message = f"nats-server has version {version}; {needed} or newer is needed: upgrade it"
        raise ConfigurationError(message)


def delay_ms(failures: int) -> int:
    """How long to wait after so many failures in a row: doubled each time, up to a limit, with jitter."""
    ceiling = min(RECONNECT_DELAY_MIN_MS << min(failures, 10), RECONNECT_DELAY_MAX_MS)
    return random.randint(ceiling // 2, ceiling)  # noqa: S311 - spreads load, protects nothing


class Link:
    """A connection for the life of a bus. Made by ``Link.open``.

    A connection that is lost is replaced by a new one, and by nothing else: the library would also keep what could
    not be sent and send it later, when it may no longer be true.
    """

    def __init__(self, connection: Connection) -> None:
        """Hold no connection yet."""
        self.connection = connection
        self.epoch = 0
        """Raised with each new connection: consumers and subscriptions made before are gone."""
        self.counts = LinkCounts()
        self._client = IntakeClient()
        self._exchange = Exchange(self._client)
        self._closing = False
        self._lost = asyncio.Event()
        self._watchers: set[asyncio.Event] = set()
        self._serving = Serving(self.counts)
        self._overseer: asyncio.Task[None] | None = None
        self._last_error: Exception | None = None

    @classmethod
    async def open(cls, connection: Connection) -> Link:
        """Connect.

        Raises:
            UnavailableError: No server answers.
            ConfigurationError: The server is too old, or refuses who we are.
        """
        link = cls(connection)
        link._client, link._exchange = await link._connect()
        link._overseer = asyncio.get_running_loop().create_task(link._oversee())
        return link

    async def close(self) -> None:
        """End the connection for good; repeating this is harmless."""
        self._closing = True
        if self._overseer is not None:
            self._overseer.cancel()
            # The library may swallow that in the middle of connecting, which takes as long as it takes.
            await asyncio.wait([self._overseer], timeout=CLOSE_TIMEOUT_MS / 1000)
        self._exchange.lose()
        await _close(self._client)
        self._wake()

    @property
    def connected(self) -> bool:
        """Something that is sent now goes to a server."""
        return bool(self._client.is_connected)

    @property
    def server_version(self) -> str:
        """Version of the server that we are, or were last, connected to."""
        return _version_of(self._client)

    @property
    def payload_bytes_max(self) -> int:
        """What the server takes at most as one message's body, with room left for our headers."""
        return int(self._client.max_payload) - HEADER_BYTES_MAX

    def watch(self, event: asyncio.Event) -> None:
        """Set this event whenever the connection has come back or is closed."""
        self._watchers.add(event)

    def unwatch(self, event: asyncio.Event) -> None:
        """Leave this event alone from now on."""
        self._watchers.discard(event)

    def new_inbox(self) -> str:
        """Name a subject that nobody else uses."""
        return self._client.new_inbox()

    async def subscribe(
        self,
        subject: str,
        receive: Callable[[Msg], Awaitable[None]],
        *,
        messages_max: int,
        bytes_max: int,
    ) -> Subscription:
        """Hear messages until the connection is closed or the subscription ended.

        Raises:
            UnavailableError: There is no connection.
        """
        client = self._ready()
        return await client.subscribe(
            subject, cb=receive, pending_msgs_limit=messages_max, pending_bytes_limit=bytes_max
        )

    async def take_in(
        self, subject: str, take: Take, *, messages_max: int, bytes_max: int
    ) -> Intake:
        """Be handed messages until the connection is closed or the intake ended, as quickly as they come.

        Raises:
            UnavailableError: There is no connection.
        """
        return await self._ready().take_in(subject, take, messages_max, bytes_max)

    async def serve(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> None:
        """Hear messages until ``stop_serving``, over this connection and those that replace it.

        Raises:
            UnavailableError: There is no connection.
        """
        await self._serving.start(self._ready(), subject, receive)

    async def stop_serving(self, subject: str) -> None:
        """Hear no more messages on a subject; repeating this is harmless."""
        await self._serving.stop(subject)

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        headers: dict[str, str] | None = None,
        reply: str = "",
    ) -> None:
        """Send without waiting for anything.

        Raises:
            UnavailableError: There is no connection; nothing was sent.
        """
        client, before = self._ready(), cancellations()
        try:
            await client.publish(subject, payload, reply=reply, headers=headers)
        except errors.Error as error:
            message = f"nothing was sent to {subject}: {error}"
            raise UnavailableError(message) from error
        if cancellations() > before:  # the library swallows one while it waits for room
            raise asyncio.CancelledError

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_ms: int,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """Send and wait for the answer.

        Raises:
            UnavailableError: There is no connection or nobody who listens; nothing was received there.
            OutcomeUnknownError: No answer came in time.
        """
        self._ready()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                answer = await self._exchange.ask(subject, payload, headers)
        except (TimeoutError, ConnectionError) as error:
            reason = f"within {timeout_ms} ms" if isinstance(error, TimeoutError) else f"({error})"
            message = f"no answer from {subject} {reason}"
            raise OutcomeUnknownError(message) from error
        except errors.Error as error:
            message = f"nothing was sent to {subject}: {error}"
            raise UnavailableError(message) from error
        if answer is None:
            message = f"nobody answers on {subject}"
            raise UnavailableError(message)
        return answer.data

    async def call(
        self, operation: str, body: dict[str, Any] | None = None, timeout_ms: int = API_TIMEOUT_MS
    ) -> dict[str, Any]:
        """Call JetStream's API with something that may be repeated, such as ``STREAM.INFO.<name>``.

        Raises:
            ApiRefusal: JetStream said no.
            UnavailableError: There was no answer.
        """
        payload = msgspec.json.encode(body) if body is not None else b""
        try:
            answer = await self.request(self.api_subject(operation), payload, timeout_ms)
        except OutcomeUnknownError as error:
            raise UnavailableError(str(error)) from error
        return read_answer(answer)

    def api_subject(self, operation: str) -> str:
        """Name the subject on which JetStream's API is asked for something."""
        return f"{self.connection.api_prefix}.{operation}"

    def _ready(self) -> IntakeClient:
        if not self._client.is_connected:
            message = f"no connection to NATS at {self.connection.shown}"
            raise UnavailableError(message)
        return self._client

    async def _oversee(self) -> None:
        """Replace the connection whenever it is lost. The library's word is enough, but not waited for alone."""
        while not self._closing:  # the library may swallow the cancellation
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OVERSEE_INTERVAL_MS / 1000):
                    await self._lost.wait()
            self._lost.clear()
            if self._client.is_connected and not self._exchange.is_deaf:
                with contextlib.suppress(errors.Error):  # it has gone meanwhile, and is seen next
                    await self._serving.revive(self._client)
                continue
            shown = self.connection.shown
            log.warning("connection to NATS lost", servers=shown, error=repr(self._last_error))
            await self._replace()

    async def _replace(self) -> None:
        self._exchange.lose()
        await _close(self._client)
        failures = 0
        while not self._closing:
            await asyncio.sleep(delay_ms(failures) / 1000)
            try:
                client, exchange = await self._connect()
                await self._move_to(client)
            except Exception as error:  # noqa: BLE001 - whatever it is: who stops trying is dead for good
                failures += 1
                self.counts.reconnect_failures += 1
                log.warning("cannot connect to NATS again yet", error=str(error) or repr(error))
            else:
                await self._take_over(client, exchange)
                return

    async def _take_over(self, client: IntakeClient, exchange: Exchange) -> None:
        if self._closing:
            await _close(client)
            return
        self._client, self._exchange = client, exchange
        self.epoch += 1
        self.counts.reconnects += 1
        log.info("connection to NATS is back", servers=self.connection.shown)
        self._wake()

    async def _move_to(self, client: Client) -> None:
        try:
            await self._serving.move_to(client)
        except BaseException:
            await _close(client)
            raise

    async def _connect(self) -> tuple[IntakeClient, Exchange]:
        client = IntakeClient()
        options = self._options()
        try:
            await client.connect(**options)
            check_server_version(_version_of(client))
            exchange = await Exchange.open(client)
        except (OSError, errors.Error, TimeoutError) as error:
            await _close(client)
            met = self._last_error if isinstance(error, errors.NoServersError) else None
            raise self._translated(error if met is None else met) from error
        except BaseException:
            await _close(client)
            raise
        return client, exchange

    def _options(self) -> dict[str, Any]:
        connection = self.connection
        options: dict[str, Any] = {
            "servers": list(connection.servers),
            "name": connection.name,
            "connect_timeout": connection.connect_timeout_ms / 1000,
            "allow_reconnect": False,
            "max_reconnect_attempts": CONNECT_ROUNDS - 1,
            "reconnect_time_wait": CONNECT_PAUSE_MS / 1000,
            "ping_interval": PING_INTERVAL_SECONDS,
            "max_outstanding_pings": PINGS_OUTSTANDING_MAX,
            "pending_size": PENDING_SEND_BYTES_MAX,
            "flush_timeout": FLUSH_TIMEOUT_SECONDS,
            "error_cb": self._on_error,
            "closed_cb": self._on_closed,
        }
        options |= client_options(connection)
        if connection.tls_ca is not None or connection.tls_cert is not None:
            options["tls"] = self._tls()
        return options

    def _tls(self) -> ssl.SSLContext:
        connection = self.connection
        try:
            context = ssl.create_default_context(
                cafile=str(connection.tls_ca) if connection.tls_ca else None
            )
            if connection.tls_cert is not None and connection.tls_key is not None:
                context.load_cert_chain(connection.tls_cert, connection.tls_key)
        except (OSError, ssl.SSLError) as error:
            message = (
                f"tls_ca, tls_cert or tls_key: {error}; they must be PEM files that belong together"
            )
            raise ConfigurationError(message) from error
        return context

    def _translated(self, error: Exception) -> ConfigurationError | UnavailableError:
        """Say what kept the first connection from being made."""
        shown = self.connection.shown
        text = str(error).lower()
        if isinstance(error, errors.AuthorizationError) or "authorization" in text:
            return ConfigurationError(
                f"NATS at {shown} refuses who we are: check user and password, creds or nkey_seed"
            )
        if isinstance(error, ssl.SSLError):
            return ConfigurationError(
                f"TLS with NATS at {shown}: {error}; check tls_ca and tls_cert"
            )
        return UnavailableError(f"NATS at {shown} cannot be reached: {_in_words(error)}")

    def _wake(self) -> None:
        for event in self._watchers:
            event.set()

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        if isinstance(error, errors.SlowConsumerError):
            self.counts.dropped += 1
        # Said aloud: whoever asked only sees that no answer comes.
        if "permissions violation" in str(error):
            log.warning("NATS does not allow this", error=str(error))
        log.debug("nats error", error=repr(error), servers=self.connection.shown)

    async def _on_closed(self) -> None:
        self._lost.set()


def _in_words(error: Exception) -> str:
    """Say for a person what went wrong, without Python's names for it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return f"{os.strerror(errno.ECONNREFUSED)}: is nats-server running there?"
    # A host with several addresses has failed once for each, and the numbers are in the text only.
    numbers = {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}
    if numbers == {errno.ECONNREFUSED}:
        return _in_words(ConnectionRefusedError())
    if numbers:
        return ", ".join(os.strerror(number) for number in sorted(numbers))
    return (
        getattr(error, "strerror", None)
        or str(error).removeprefix("nats: ")
        or type(error).__name__
    )


def _version_of(client: Client) -> str:
    """Read the server's version; what it says instead, if that is no version."""
    version = client.connected_server_version
    try:
        return f"{version.major}.{version.minor}.{version.patch}"
    except ValueError as error:
        return str(error)


async def _close(client: Client) -> None:
    """Close, but do not wait for ever: after a failed TLS handshake the library would."""
    with contextlib.suppress(Exception):  # whatever it is: there is nothing left to do with it
        async with asyncio.timeout(CLOSE_TIMEOUT_MS / 1000):
            await client.close()


class _Refusal(msgspec.Struct):
    """What JetStream says when it says no."""

    err_code: int = 0
    description: str = ""


def read_answer(answer: bytes) -> dict[str, Any]:
    """Read what JetStream answered.

    Raises:
        ApiRefusal: It said no.
        UnavailableError: It was no answer of JetStream's.
    """
    try:
        fields = msgspec.json.decode(answer, type=dict[str, Any])
        said = fields.get("error")
        refusal = None if said is None else msgspec.convert(said, _Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"JetStream's answer cannot be read: {error}"
        raise UnavailableError(message) from error
    if refusal is not None:
        raise ApiRefusal(refusal.err_code, refusal.description)
    return fields
