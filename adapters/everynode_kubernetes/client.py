"""The connection to an API server: raw bytes in and out.

The adapter, the reflector and the doctor talk to the cluster through ``ApiServer``. This is the only module that
uses kubernetes_asyncio: kubeconfig files with contexts, exec plugins and tokens and in-cluster credentials are its
work. Its model classes and its connections are not used. Nothing here knows what an object looks like.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import aiohttp
import msgspec
import structlog
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config
from yarl import URL

from everynode._version import __version__
from everynode.errors import ConfigurationError, OutcomeUnknownError, UnavailableError
from everynode_kubernetes.access import Access
from everynode_kubernetes.answers import continue_token_in, error_of, shortened_text
from everynode_kubernetes.connections import Connections, tls_context
from everynode_kubernetes.lines import Lines
from everynode_kubernetes.pacing import Pace
from everynode_kubernetes.proxies import Proxy, proxy_for

PAGE_ITEMS_MAX = 500
"""How many objects a page of a list has, if nobody says otherwise (client-go's default too)."""

ANSWER_BYTES_MAX = 512 * 1024 * 1024
"""The longest answer that is taken in: a page of 500 objects of 1 MiB each."""

READ_BUFFER_BYTES = 256 * 1024
"""How much of an answer is read ahead; also the largest piece of a watch that comes at once."""

RENEW_PAUSE_MS = 10_000
"""Credentials that are refused are renewed at most this often."""

CREDENTIALS_TIMEOUT_MS = 60_000
"""How long getting credentials may take (an exec plugin may ask a server of its own)."""

MS_PER_SECOND = 1000

_UNAUTHORIZED = 401
_SUCCESS = range(200, 300)

# The request had not been sent when these came: nothing can have happened.
_NOT_SENT = (
    aiohttp.ClientConnectorError,  # refused, no such host, no route, TLS
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)

__all__ = ["Access", "ApiServer"]

# It was sent, at least in part, and the answer did not come. The last two are how aiohttp takes being closed meanwhile.
_BROKEN = (TimeoutError, aiohttp.ClientError, OSError, AssertionError, RuntimeError)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One request."""

    verb: str
    path: str
    params: Mapping[str, str] | None = None
    body: bytes | None = None
    content_type: str = "application/json"

    @property
    def writes(self) -> bool:
        """It would change something."""
        return self.verb != "GET"

    def __str__(self) -> str:
        """Read as ``GET /api/v1/nodes``."""
        return f"{self.verb} {self.path}"


class ApiServer:
    """A cluster's API server. Made by ``ApiServer.connect``.

    Every request raises, besides what it says itself:
        UnavailableError: Nothing happened: no connection, too many requests, credentials that are not accepted now,
            or, when reading, no usable answer.
        OutcomeUnknownError: A write was sent, and no answer came that says what became of it.
        Refusal: The API server refused it for good.
    """

    def __init__(self, access: Access, session: _Session) -> None:
        """Talk through this session until its credentials are refused."""
        self._access = access
        self._session = session
        self._replaced: list[_Session] = []  # by one with newer credentials, but still in use
        self._pace = Pace(access.qps)
        self._renewing = asyncio.Lock()
        self._renewed_s = float("-inf")
        self._closed = False

    @classmethod
    async def connect(cls, access: Access) -> ApiServer:
        """Read the configuration and get credentials; the API server itself is not asked anything yet.

        Raises:
            ConfigurationError: The kubeconfig, the context or the credentials cannot be used.
        """
        return cls(access, await _load(access))

    @property
    def address(self) -> str:
        """Where the API server is, for people: without credentials."""
        return self._session.address

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """Read."""
        return await self._exchange(_Call(verb="GET", path=path, params=params))

    async def create(
        self, path: str, body: bytes, params: Mapping[str, str] | None = None
    ) -> bytes:
        """Make an object (or a review, which is an object that is answered and not kept)."""
        return await self._exchange(_Call(verb="POST", path=path, params=params, body=body))

    async def patch(
        self,
        path: str,
        body: bytes,
        content_type: str,
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        """Change part of an object, in the way that the content type names."""
        call = _Call(verb="PATCH", path=path, params=params, body=body, content_type=content_type)
        return await self._exchange(call)

    async def delete(self, path: str, body: bytes) -> bytes:
        """Delete an object; the body is DeleteOptions."""
        return await self._exchange(_Call(verb="DELETE", path=path, body=body))

    async def list_pages(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        items_max: int = PAGE_ITEMS_MAX,
    ) -> AsyncGenerator[bytes, None]:
        """Read a list in pages of at most ``items_max`` objects.

        Raises:
            Refusal: ``is_expired``: the rest of the list is no longer to be had; begin it anew.
        """
        query = {**(params or {}), "limit": str(items_max)}
        while True:
            page = await self.get(path, query)
            yield page
            token = self._continue_token(path, page)
            if not token:
                return
            query["continue"] = token

    async def watch(
        self, path: str, resource_version: int, params: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Read what changes after a resource version: one JSON document (a watch event) at a time.

        It ends when the server ends it (params may say when: ``timeoutSeconds``), and when nothing has come for
        ``watch_silence_ms``. Close the iterator to end it (``contextlib.aclosing``).

        Raises:
            Refusal: ``is_expired``: the resource version is too old; list again.
        """
        query = {
            **(params or {}),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(resource_version),
        }
        call = _Call(verb="GET", path=path, params=query)
        renewed = True
        while renewed:
            renewed = False
            session = self._session
            async with self._answer(session, call) as response:
                if response.status == _UNAUTHORIZED:
                    renewed = await self._renewed(session)
                if renewed:
                    continue
                if response.status not in _SUCCESS:
                    await self._raise_refusal(call, response)
                lines = Lines()
                while chunk := await self._next_chunk(call, response):
                    for line in lines.feed(chunk):
                        yield line

    async def close(self) -> None:
        """Close all connections. Requests under way fail; repeating this is harmless."""
        self._closed = True
        for session in (self._session, *self._replaced):
            await session.close()

    async def _exchange(self, call: _Call) -> bytes:
        """Send a request and return the body of the answer; with renewed credentials if the first are refused."""
        session = self._session
        renewed = False
        async with self._answer(session, call) as response:
            if response.status in _SUCCESS:
                return await self._read(response)
            if response.status == _UNAUTHORIZED:
                renewed = await self._renewed(session)
            if not renewed:
                await self._raise_refusal(call, response)
        async with self._answer(self._session, call) as response:
            if response.status not in _SUCCESS:
                await self._raise_refusal(call, response)
            return await self._read(response)

    @asynccontextmanager
    async def _answer(
        self, session: _Session, call: _Call
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give out the answer, whatever its code, with its body still to be read."""
        await self._wait_for_turn()
        if self._closed:
            raise UnavailableError(f"{call}: the connection to {self.address} is closed here")
        try:
            async with session.in_use():
                async with asyncio.timeout(self._access.request_timeout_ms / MS_PER_SECOND):
                    response = await session.send(call)
                async with response:
                    try:
                        yield response
                    finally:
                        _hang_up(response)
        except _NOT_SENT as error:
            message = f"{call}: cannot connect to {self.address}: {_told(error)}"
            raise UnavailableError(message) from error
        except _BROKEN as error:
            if isinstance(error, AssertionError | RuntimeError) and not session.http.closed:
                raise
            message = f"{call}: {self.address} gave no complete answer: {_told(error)}"
            if call.writes:
                raise OutcomeUnknownError(f"{message}; it may have been carried out") from error
            raise UnavailableError(message) from error

    async def _wait_for_turn(self) -> None:
        """Begin no more requests per second than agreed."""
        if self._access.qps:
            wait_s = self._pace.wait_s(asyncio.get_running_loop().time())
            if wait_s > 0:
                await asyncio.sleep(wait_s)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the rest of an answer."""
        pieces = []
        size_bytes = 0
        async with asyncio.timeout(self._access.request_timeout_ms / MS_PER_SECOND):
            async for piece in response.content.iter_any():
                pieces.append(piece)
                size_bytes += len(piece)
                if size_bytes > ANSWER_BYTES_MAX:
                    message = f"the answer is longer than {ANSWER_BYTES_MAX} bytes"
                    raise aiohttp.ClientPayloadError(message)
        return b"".join(pieces)

    async def _next_chunk(self, call: _Call, response: aiohttp.ClientResponse) -> bytes:
        """Read on in a watch; nothing if it has ended or is silent for too long."""
        try:
            async with asyncio.timeout(self._access.watch_silence_ms / MS_PER_SECOND):
                return await response.content.readany()
        except TimeoutError:
            log.info("watch was silent", path=call.path, silence_ms=self._access.watch_silence_ms)
            return b""

    async def _raise_refusal(self, call: _Call, response: aiohttp.ClientResponse) -> NoReturn:
        """Raise what an answer means that is not a success."""
        raise error_of(
            str(call),
            response.status,
            await self._read(response),
            writes=call.writes,
            retry_after=response.headers.get("Retry-After"),
        )

    async def _renewed(self, refused: _Session) -> bool:
        """Read the configuration again and get new credentials, unless someone just did.

        Returns:
            Whether there is another session now than the one whose credentials were refused.
        """
        async with self._renewing:
            if self._session is not refused:
                return True
            now_s = asyncio.get_running_loop().time()
            if self._closed or now_s - self._renewed_s < RENEW_PAUSE_MS / MS_PER_SECOND:
                return False
            self._renewed_s = now_s
            try:
                renewed = await _load(self._access)
            except ConfigurationError as error:
                log.warning("credentials not renewed", source=str(self._access), reason=str(error))
                return False
            await self._replace(renewed)
            log.info("credentials renewed", source=str(self._access))
            return True

    async def _replace(self, session: _Session) -> None:
        """Use another session from now on; what is under way in the old one goes on."""
        old, self._session = self._session, session
        await old.retire()
        self._replaced = [one for one in (*self._replaced, old) if not one.http.closed]
        if self._closed:  # in the meantime
            await session.close()

    def _continue_token(self, path: str, page: bytes) -> str:
        """The token that the next page is asked for with; empty after the last one."""
        try:
            return continue_token_in(page)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"GET {path}: {self.address} answered with no list: {error}"
            raise UnavailableError(f"{message} ({len(page)} bytes)") from error


@dataclass(eq=False)
class _Session:
    """Connections that are made with one reading of the configuration, and its credentials."""

    configuration: Configuration
    connections: Connections
    http: aiohttp.ClientSession
    base: URL
    proxy: Proxy | None
    _users: int = field(default=0, init=False)
    _retired: bool = field(default=False, init=False)

    @property
    def address(self) -> str:
        """Where the API server is, without credentials."""
        return str(self.base.with_user(None)).rstrip("/")

    async def send(self, call: _Call) -> aiohttp.ClientResponse:
        """Send a request; return when the head of the answer is there."""
        headers = {}
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        if token := await self._token():
            headers["Authorization"] = token
        if self.proxy and self.base.scheme == "http":  # no CONNECT that could tell the proxy
            headers.update(self.proxy.headers)
        return await self.http.request(
            call.verb,
            self.base.joinpath(call.path.lstrip("/"), encoded=True),
            params=call.params,
            data=call.body,
            headers=headers,
            proxy=self.proxy and self.proxy.url,
            proxy_headers=self.proxy and self.proxy.headers,
            server_hostname=self.configuration.tls_server_name,
            allow_redirects=False,  # an API server sends none, and a token must not follow one
        )

    async def _token(self) -> str | None:
        """What goes into the header Authorization. The library reads an in-cluster token again once a minute."""
        try:
            settings = await self.configuration.auth_settings()
        except (ConfigException, OSError) as error:
            message = f"cannot read the token for {self.address} again: {error}"
            raise UnavailableError(message) from error
        token = settings.get("BearerToken", {}).get("value")
        return str(token).strip() if token else None

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Keep it open for a while, even if another one takes its place."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._close_if_done()

    async def retire(self) -> None:
        """Close it as soon as nobody uses it any more."""
        self._retired = True
        await self._close_if_done()

    async def close(self) -> None:
        """Close its connections; repeating this is harmless."""
        await self.http.close()
        await self.connections.close()

    async def _close_if_done(self) -> None:
        """Close it if another one has taken its place and nobody uses it."""
        if self._retired and self._users == 0:
            await self.close()


async def _load(access: Access) -> _Session:
    """Read the configuration, get credentials and prepare connections; nothing is dialled.

    Raises:
        ConfigurationError: Something in it cannot be used.
    """
    configuration = Configuration()
    try:
        async with asyncio.timeout(CREDENTIALS_TIMEOUT_MS / MS_PER_SECOND):
            if access.in_cluster:
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call] # library
            else:
                await _load_kubeconfig(access, configuration)
        return _session(access, configuration)
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises whatever a wrong file makes it trip over
        raise ConfigurationError(f"{access} cannot be used: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Why a configuration cannot be used, without its secrets."""
    if isinstance(error, TypeError | AttributeError | AssertionError | LookupError):
        return "it is no kubeconfig, or something is missing in it; `kubectl config view` shows it"
    # The library may quote a whole entry, token and all, in braces.
    return _told(error).split("{", 1)[0]


async def _load_kubeconfig(access: Access, configuration: Configuration) -> None:
    """Read a kubeconfig and carry out what it says to get credentials."""
    if not access.kubeconfig_exists:
        message = f"{access}: there is no such file"
        hint = "give --kubeconfig, set KUBECONFIG, or use --in-cluster in a pod"
        raise ConfigurationError(f"{message}; {hint}")
    await load_kube_config(
        config_file=access.kubeconfig_paths,
        context=access.context or None,
        client_configuration=configuration,
        persist_config=False,
    )


def _session(access: Access, configuration: Configuration) -> _Session:
    """Prepare connections: TLS, pool and proxy."""
    base = URL(configuration.host or "")
    if base.scheme not in {"http", "https"} or not base.host:
        shown = (configuration.host or "").rsplit("@", 1)[-1]
        raise ConfigurationError(
            f"{access}: the cluster's server is {shown!r}; it must be an http(s) URL"
        )
    tls = tls_context(
        ca_file=configuration.ssl_ca_cert,
        cert_file=configuration.cert_file,
        key_file=configuration.key_file,
        verify=configuration.verify_ssl,
        # Since Python 3.13 certificates must have extensions that those of many clusters lack, which kubectl accepts.
        strict=False,
    )
    connections = Connections(access.connections_max, tls)
    http = aiohttp.ClientSession(
        connector=connections.connector,
        connector_owner=False,
        timeout=aiohttp.ClientTimeout(
            total=None,
            connect=access.connect_timeout_ms / MS_PER_SECOND,
            sock_connect=access.connect_timeout_ms / MS_PER_SECOND,
        ),
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # compressing costs both sides more than it saves in one network
            "User-Agent": f"everynode/{__version__}",
        },
        read_bufsize=READ_BUFFER_BYTES,
    )
    return _Session(
        configuration=configuration,
        connections=connections,
        http=http,
        base=base,
        proxy=proxy_for(base, configuration.proxy),
    )


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """End the connection of an answer that was not read to its end (a watch), without a word.

    A farewell would be waited for, and whoever is silent already does not answer it.
    """
    connection = response.connection  # nothing, if all was read: then it is used again
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


def _told(error: BaseException) -> str:
    """What an error says, or what it is if it says nothing."""
    if isinstance(error, TimeoutError) and not str(error):
        return "it took too long"
    return shortened_text(str(error).encode()) or type(error).__name__
