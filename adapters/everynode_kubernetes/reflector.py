"""What a cluster has of one resource, and what becomes of it: a list, then a watch, for ever.

The adapter runs one for each resource that it follows. Like client-go's reflector it never loses a change and never
goes back in time; unlike it, one object that cannot be read hides no other. It keeps no objects: what it says has to
be compared by whoever listens. It knows nothing of what the objects are for.

Facts that it leans on: resource versions are whole numbers that grow and may be compared within a resource (since
Kubernetes 1.35); a list without ``resourceVersion`` is the most recent; a bookmark moves the version on without an
object (api/meta/v1 types.go, ListOptions, WatchEvent).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, cast

import msgspec
import structlog

from everynode.errors import EverynodeError, RefusedError, UnavailableError
from everynode_kubernetes.answers import Refusal, error_in_watch
from everynode_kubernetes.client import PAGE_ITEMS_MAX, ApiServer
from everynode_kubernetes.nesting import decoded

MS_PER_SECOND = 1000

log = structlog.get_logger(__name__)


class Kept(Protocol):
    """What a reflector has to know of an object."""

    @property
    def resource_version(self) -> int:
        """Counts up with each change of any object of the resource."""
        ...

    @property
    def uid(self) -> str:
        """The identity."""
        ...


T = TypeVar("T", bound=Kept)


@dataclass(frozen=True)
class Resource(Generic[T]):
    """What is listed and watched.

    Attributes:
        path: Of the list: ``/api/v1/pods``.
        parse: Reads one object; raises ``msgspec.MsgspecError``, ``ValueError`` or ``RecursionError`` if it cannot be
            read, as may its ``resource_version``.
        params: More of the query: ``fieldSelector``, ``labelSelector``.
    """

    path: str
    parse: Callable[[msgspec.Raw], T]
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people: ``pods``."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class ReflectLimits:
    """How patient a reflector is.

    Attributes:
        page_items_max: How many objects are asked for at once.
        retry_first_ms: How long to wait before the second try (the first comes at once); doubled each time.
        retry_last_ms: The longest wait, unless the server asks for a longer one.
        watch_seconds_min: A watch ends after at least so long; each one at a time of its own, so that they spread.
        watch_seconds_max: And after at most so long.
        stale_lists_max: After so many lists in a row that are older than what was seen, the past is given up.
    """

    page_items_max: int = PAGE_ITEMS_MAX
    retry_first_ms: int = 500
    retry_last_ms: int = 30_000
    watch_seconds_min: int = 240
    watch_seconds_max: int = 480
    stale_lists_max: int = 10


class Begun(NamedTuple):
    """A list begins. What was said since an earlier ``Begun`` without an ``Ended`` is void: compare with this one."""


class Present(NamedTuple, Generic[T]):
    """An object that the list has."""

    item: T


class Ended(NamedTuple):
    """The list is complete: what it did not name is gone, or never was."""


class Changed(NamedTuple, Generic[T]):
    """An object that was added, changed or deleted after the list."""

    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    item: T


class Unreadable(NamedTuple):
    """An object is there (in a list, or changed after it) that cannot be read; it was logged.

    What is known of it stays as it is: it must not be taken for gone because the list has no ``Present`` of it. If
    even its name cannot be read, nothing may be taken for gone by this list.

    Attributes:
        namespace: Empty if it has none, or if it cannot be read either.
        name: Empty if it cannot be read either.
        uid: Empty if it cannot be read either.
    """

    namespace: str
    name: str
    uid: str


Said = Begun | Present[T] | Ended | Changed[T] | Unreadable


async def sleep_ms(duration_ms: int) -> None:
    """Wait in real time."""
    await asyncio.sleep(duration_ms / MS_PER_SECOND)


async def reflect(
    server: ApiServer,
    resource: Resource[T],
    limits: ReflectLimits | None = None,
    sleep_ms: Callable[[int], Awaitable[None]] = sleep_ms,
) -> AsyncGenerator[Said[T], None]:
    """Say what is there, then what changes, for ever; say what is there again after any doubt.

    A watch that ends, breaks or is silent is taken up where it was; an API server that is away is waited for.
    Close the iterator to end it (``contextlib.aclosing``).

    Args:
        server: Where to look.
        resource: What to look at.
        limits: How patiently; ``None`` for the defaults.
        sleep_ms: Waits between tries.

    Raises:
        UnavailableError: The first list could not be had; or the API server has gone back in time for good (its
            store was restored from a copy). Wait and begin again, with no memory of what was seen.
        RefusedError: The first list was refused (``Refusal``).
    """
    reflection = _Reflection(server, resource, limits or ReflectLimits(), sleep_ms)
    async with aclosing(reflection.run()) as said:
        async for one in said:
            yield one


class _OlderListError(EverynodeError):
    """A list is older than what was already seen."""


class _ListAgainError(EverynodeError):
    """Only a new list can say what is there."""


class _Metadata(msgspec.Struct, rename="camel"):
    """The part of meta/v1 ObjectMeta or ListMeta that matters here."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Anything(msgspec.Struct):
    """Any object."""

    metadata: _Metadata


class _Page(msgspec.Struct):
    """One page of a list. Go writes an empty list as null."""

    metadata: _Metadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    """meta/v1 WatchEvent."""

    type: str
    object: msgspec.Raw


_anything = msgspec.json.Decoder(_Anything)
_page = msgspec.json.Decoder(_Page)
_event = msgspec.json.Decoder(_Event)

_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class _Reflection(Generic[T]):
    """One resource, followed."""

    def __init__(
        self,
        server: ApiServer,
        resource: Resource[T],
        limits: ReflectLimits,
        sleep_ms: Callable[[int], Awaitable[None]],
    ) -> None:
        """Begin with nothing seen."""
        self._server = server
        self._resource = resource
        self._limits = limits
        self._sleep_ms = sleep_ms
        self._seen = 0  # the newest resource version
        self._listed = False  # a list was complete once
        self._failures = 0  # in a row, nothing having come in between
        self._away = False  # it has been logged that nothing can be had
        self._stale_lists = 0  # in a row

    async def run(self) -> AsyncGenerator[Said[T], None]:
        """List, watch for as long as that can be trusted, and again."""
        while True:
            async with aclosing(self._list()) as said:
                async for one in said:
                    yield one
            async with aclosing(self._watch()) as changes:
                async for change in changes:
                    yield change

    async def _list(self) -> AsyncGenerator[Said[T], None]:
        """Say everything that is there, as often as it takes until it is complete."""
        while True:
            try:
                async with aclosing(self._list_once()) as said:
                    async for one in said:
                        yield one
            except _OlderListError as error:
                await self._wait(self._stale(error))
            except (UnavailableError, RefusedError) as error:
                if not self._listed and not _is_expired(error):
                    raise
                await self._wait(error)
            else:
                self._listed = True
                self._stale_lists = 0
                self._there()  # but failures still count: list and watch may fail in turns
                return

    async def _list_once(self) -> AsyncGenerator[Said[T], None]:
        """Say everything that is there, page by page."""
        pages = self._server.list_pages(
            self._resource.path, self._resource.params, self._limits.page_items_max
        )
        begun = False
        async with aclosing(pages) as read:
            async for body in read:
                page = self._decoded_page(body)
                if not begun:
                    self._believe(page)
                    begun = True
                    yield Begun()
                for raw in page.items or ():
                    yield self._present(raw)
        yield Ended()

    def _decoded_page(self, body: bytes) -> _Page:
        """Read a page, but not yet its items."""
        try:
            return decoded(_page, body)
        except _UNREADABLE as error:
            message = f"GET {self._resource.path}: the answer is no list: {error}"
            raise UnavailableError(f"{message} ({len(body)} bytes)") from error

    def _believe(self, page: _Page) -> None:
        """Take a list's version, if it is not older than what was seen."""
        version = self._version(page.metadata)
        if version < self._seen:
            message = f"the list is of version {version}, version {self._seen} was already seen"
            raise _OlderListError(f"GET {self._resource.path}: {message}")
        self._seen = version

    def _version(self, metadata: _Metadata) -> int:
        """A resource version as a number."""
        if not metadata.resource_version.isdecimal():
            message = f"the resource version {metadata.resource_version!r} is no number"
            raise UnavailableError(f"{self._resource.path}: {message}")
        return int(metadata.resource_version)

    def _present(self, raw: msgspec.Raw) -> Said[T]:
        """An object of a list."""
        try:
            return Present(self._parsed(raw))
        except _UNREADABLE as error:
            return self._unreadable(raw, error)

    def _parsed(self, raw: msgspec.Raw) -> T:
        """Read an object; its version belongs to what must be readable."""
        item = self._resource.parse(raw)
        if item.resource_version <= 0:
            raise ValueError("metadata.resourceVersion is no whole number greater than 0")
        return item

    def _stale(self, error: _OlderListError) -> EverynodeError:
        """Count a list that is not believed; after too many it is the past that is not believed any more."""
        self._stale_lists += 1
        if self._stale_lists >= self._limits.stale_lists_max:
            message = f"{error}, {self._stale_lists} times in a row"
            raise UnavailableError(f"{message}; was the store restored from a copy?") from error
        return error

    async def _watch(self) -> AsyncGenerator[Said[T], None]:
        """Say what changes; return when only a list can tell what is there."""
        while True:
            began_s = asyncio.get_running_loop().time()
            trouble: EverynodeError | None = None
            try:
                async with aclosing(self._watch_once()) as changes:
                    async for change in changes:
                        yield change
            except _ListAgainError:
                return
            except (UnavailableError, RefusedError) as error:
                trouble = error
            lasted_ms = (asyncio.get_running_loop().time() - began_s) * MS_PER_SECOND
            if trouble is None and lasted_ms >= self._limits.retry_last_ms:
                self._arrived()  # it was there, and had nothing to say
            await self._wait(trouble)
            if trouble is not None and _is_expired(trouble):
                return

    async def _watch_once(self) -> AsyncGenerator[Said[T], None]:
        """Say what one watch says."""
        seconds = random.randint(  # noqa: S311 - spreads load, protects nothing
            self._limits.watch_seconds_min, self._limits.watch_seconds_max
        )
        params = {**self._resource.params, "timeoutSeconds": str(seconds)}
        watch = self._server.watch(self._resource.path, self._seen, params)
        async with aclosing(watch) as lines:
            async for line in lines:
                change = self._heard(line)
                if change is not None:
                    yield change

    def _heard(self, line: bytes) -> Said[T] | None:
        """Read one event of a watch; ``None`` if there is nothing to say."""
        try:
            event = decoded(_event, line)
        except _UNREADABLE as error:
            message = f"WATCH {self._resource.path}: a line is no event: {error}"
            raise UnavailableError(f"{message} ({len(line)} bytes)") from error
        if event.type == "ERROR":
            raise error_in_watch(f"WATCH {self._resource.path}", event.object)
        self._arrived()
        if event.type == "BOOKMARK":
            self._moves_on(self._version(_metadata_in(event.object)))
            return None
        if event.type not in {"ADDED", "MODIFIED", "DELETED"}:
            log.warning("event passed over", resource=self._resource.name, type=event.type)
            return None
        kind = cast("Literal['ADDED', 'MODIFIED', 'DELETED']", event.type)
        try:
            item = self._parsed(event.object)
        except _UNREADABLE as error:
            return self._changed_unreadable(kind, event.object, error)
        return Changed(kind, item) if self._moves_on(item.resource_version) else None

    def _changed_unreadable(
        self, kind: str, raw: msgspec.Raw, error: Exception
    ) -> Unreadable | None:
        """An object changed, and cannot be read. One that is gone can only be told by a list."""
        version = _metadata_in(raw).resource_version
        if version.isdecimal() and not self._moves_on(int(version)):
            return None
        unreadable = self._unreadable(raw, error)
        if kind == "DELETED":
            raise _ListAgainError("a deletion cannot be read")
        return unreadable

    def _moves_on(self, version: int) -> bool:
        """Take an event's version, if it is newer than what was seen."""
        if version <= self._seen:
            return False
        self._seen = version
        return True

    def _unreadable(self, raw: msgspec.Raw, error: Exception) -> Unreadable:
        """Log an object that cannot be read."""
        known = _metadata_in(raw)
        log.warning(
            "object not readable, passed over",
            resource=self._resource.name,
            namespace=known.namespace,
            name=known.name,
            reason=str(error),
        )
        return Unreadable(known.namespace, known.name, known.uid)

    def _arrived(self) -> None:
        """Something came: the API server is there."""
        self._failures = 0
        self._there()

    def _there(self) -> None:
        """Log that the API server is there again, if it was away."""
        if self._away:
            self._away = False
            log.info("followed again", resource=self._resource.name, server=self._server.address)

    async def _wait(self, trouble: EverynodeError | None) -> None:
        """Wait before the next try: not at all after the first failure, then longer and longer."""
        self._failures += 1
        if trouble is not None and not self._away and not _is_expired(trouble):
            self._away = True
            log.warning(
                "not followed; trying again", resource=self._resource.name, reason=str(trouble)
            )
        asked_ms = trouble.retry_after_ms if isinstance(trouble, UnavailableError) else None
        wait_ms = max(self._backoff_ms(), asked_ms or 0)
        if wait_ms:
            await self._sleep_ms(wait_ms)

    def _backoff_ms(self) -> int:
        """How long to wait after so many failures in a row, with jitter."""
        if self._failures <= 1:
            return 0
        doubled_ms = self._limits.retry_first_ms << min(self._failures - 2, 16)
        ceiling_ms = min(doubled_ms, self._limits.retry_last_ms)
        return random.randint(ceiling_ms // 2, ceiling_ms)  # noqa: S311 - spreads load, protects nothing


def _is_expired(error: EverynodeError) -> bool:
    """A resource version or a continue token is too old."""
    return isinstance(error, Refusal) and error.is_expired


def _metadata_in(raw: msgspec.Raw) -> _Metadata:
    """What can be read of an object that cannot be read otherwise."""
    try:
        return decoded(_anything, raw).metadata
    except _UNREADABLE:
        return _Metadata()
