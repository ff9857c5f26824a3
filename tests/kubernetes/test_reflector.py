"""The reflector against a server that misbehaves: nothing is lost, nothing goes backwards, nothing stops it.

What a real API server does with it is in ``test_client_control_plane.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.kubernetes.support_reflecting import (
    LIMITS,
    RESOURCE,
    Waits,
    added,
    brief,
    deleted,
    heard,
    modified,
    watched_from,
)
from tests.kubernetes.support_scripted_server import (
    ScriptedServer,
    answer,
    bookmark,
    connected,
    cut_off,
    cut_off_in_body,
    event,
    page,
    refused,
    scripted_server,
    status,
    thing,
)

from everynode.errors import UnavailableError
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.reflector import Changed, ReflectLimits, reflect


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A server with an empty script."""
    async with scripted_server() as running:
        yield running


@pytest.fixture
async def api(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[ApiServer]:
    """A connection to it."""
    async with connected(server, tmp_path) as connection:
        yield connection


class TestOneRound:
    """A list, then a watch, when all goes well."""

    async def test_a_list_then_what_changes(self, server: ScriptedServer, api: ApiServer) -> None:
        """First everything in pages, then each change, in order."""
        waits = Waits()
        server.then(
            page(10, thing("a", 3), thing("b", 9), more="more"),
            page(10, thing("c", 5)),
            server.watch(added("d", 11), modified("a", 12), deleted("b", 13)),
        )

        said = await heard(server, api, waits)

        assert [
            "begun",
            *("has a@3", "has b@9", "has c@5"),
            "ended",
            *("ADDED d@11", "MODIFIED a@12", "DELETED b@13"),
        ] == said
        assert [] == waits.ms

    async def test_what_is_asked(self, server: ScriptedServer, api: ApiServer) -> None:
        """The list asks for the most recent state; the watch for bookmarks, and an end at a time of its own."""
        server.then(page(10), *[server.watch(bookmark(11 + count)) for count in range(20)])

        await heard(server, api, Waits())

        first, *watches = [asked.params for asked in server.asked]
        assert {"labelSelector": "a=b", "limit": "500"} == first
        assert {"a=b"} == {params["labelSelector"] for params in watches}
        assert {"true"} == {params["allowWatchBookmarks"] for params in watches}
        timeouts = {int(params["timeoutSeconds"]) for params in watches}
        assert timeouts <= set(range(240, 481))
        assert len(timeouts) > 1

    async def test_an_empty_list(self, server: ScriptedServer, api: ApiServer) -> None:
        """Nothing there is a complete list too; Go may write it as null."""
        server.then(answer(200, b'{"metadata": {"resourceVersion": "4"}, "items": null}'))

        assert ["begun", "ended"] == await heard(server, api, Waits())
        assert ["list", "4"] == watched_from(server)

    async def test_closing_it_ends_the_watch(self, server: ScriptedServer, tmp_path: Path) -> None:
        """Who has heard enough closes it, and the connection is free again."""
        server.then(page(1), server.watch(added("a", 2), then="hang"), answer(200))

        async with connected(server, tmp_path, connections_max=1) as api:
            async with aclosing(reflect(api, RESOURCE)) as saying:
                async for one in saying:
                    if isinstance(one, Changed):
                        break
            assert b"{}" == await api.get("/version")


class TestTakingUpAgain:
    """Watches end, break, fall silent; what changes is still heard, once."""

    async def test_from_where_it_was(self, server: ScriptedServer, api: ApiServer) -> None:
        """After each end the watch goes on from the last version seen, bookmarks included, at once."""
        waits = Waits()
        server.then(
            page(10),
            server.watch(added("a", 12)),
            server.watch(bookmark(20)),
            server.watch(modified("a", 21), then="cut"),
            server.watch(deleted("a", 22)),
        )

        said = await heard(server, api, waits)

        assert ["list", "10", "12", "20", "21", "22"] == watched_from(server)
        assert ["begun", "ended", "ADDED a@12", "MODIFIED a@21", "DELETED a@22"] == said
        assert [] == waits.ms

    async def test_silence(self, server: ScriptedServer, tmp_path: Path) -> None:
        """A watch that is silent for too long is taken up again."""
        server.then(page(10), server.watch(bookmark(11), then="hang"), server.watch(added("a", 12)))
        server.idle.clear()

        async with (
            connected(server, tmp_path, watch_silence_ms=100) as api,
            aclosing(reflect(api, RESOURCE, LIMITS)) as saying,
        ):
            said = [brief(await anext(saying)) for _ in range(3)]

        assert ["begun", "ended", "ADDED a@12"] == said
        assert ["list", "10", "11"] == watched_from(server)[:3]

    async def test_half_a_line(self, server: ScriptedServer, api: ApiServer) -> None:
        """A document that was cut is heard whole from the next watch."""
        line = added("a", 11)
        server.then(page(10), server.watch(line[:-9]), server.watch(line))

        assert ["begun", "ended", "ADDED a@11"] == await heard(server, api, Waits())
        assert ["list", "10", "10", "11"] == watched_from(server)

    async def test_longer_and_longer(self, server: ScriptedServer, api: ApiServer) -> None:
        """The first try comes at once, the next ones after growing waits with jitter, up to a limit (B1)."""
        waits = Waits()
        server.then(page(10), *[cut_off()] * 16, server.watch(bookmark(11)), cut_off(), cut_off())

        await heard(server, api, waits)

        # The HTTP library sends a read once more itself when a connection that was kept is cut.
        *growing, after = waits.ms
        assert all(
            min(100 << count, 1_000) // 2 <= wait_ms <= min(100 << count, 1_000)
            for count, wait_ms in enumerate(growing)
        )
        assert growing[-1] >= 500
        assert after <= 100

    async def test_the_server_is_away(self, server: ScriptedServer, api: ApiServer) -> None:
        """A server that is away for long does not end it; that it is away is logged once, and that it is back."""
        waits = Waits()
        server.then(page(10), *[answer(503)] * 50, server.watch(added("a", 11)))

        with structlog.testing.capture_logs() as logs:
            said = await heard(server, api, waits)

        assert ["begun", "ended", "ADDED a@11"] == said
        assert ["not followed; trying again", "followed again"] == [
            entry["event"] for entry in logs if entry.get("resource") == "things"
        ]
        assert 49 == len(waits.ms)

    @pytest.mark.parametrize("in_watch", [True, False])
    async def test_as_long_as_the_server_asks(
        self, server: ScriptedServer, api: ApiServer, *, in_watch: bool
    ) -> None:
        """Retry-After counts, even if it is longer than the longest wait, and before the first try too."""
        waits = Waits()
        too_many = answer(429, b"too many", {"Retry-After": "7"})
        expired = refused(410, "Expired")
        server.then(page(10), *([too_many] if in_watch else [expired, too_many, page(11)]))

        await heard(server, api, waits)

        assert [7_000] == waits.ms

    async def test_watches_that_end_at_once(self, server: ScriptedServer, api: ApiServer) -> None:
        """A server that ends each watch at once is not asked again and again without a pause."""
        waits = Waits()
        server.then(page(10), *[server.watch()] * 5)

        await heard(server, api, waits)

        assert 4 == len(waits.ms)

    async def test_a_watch_that_had_nothing_to_say(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """A watch that lasted is no failure, though nothing came: the next one begins at once."""
        waits = Waits()
        limits = ReflectLimits(retry_first_ms=1, retry_last_ms=50)
        server.then(page(10), *[server.hangs_quietly()] * 4)

        async with connected(server, tmp_path, watch_silence_ms=80) as api:
            await heard(server, api, waits, limits)

        assert [] == waits.ms

    @pytest.mark.parametrize(
        "error",
        [status(500, "InternalError"), status(504, "Timeout"), status(403, "Forbidden"), {}],
    )
    async def test_an_error_in_the_watch(
        self, error: dict[str, Any], server: ScriptedServer, api: ApiServer
    ) -> None:
        """An ERROR that is not about age: the watch is taken up again where it was, with growing waits."""
        waits = Waits()
        failing = server.watch(event("ERROR", error))
        server.then(page(10), server.watch(added("a", 11)), *[failing] * 3)

        said = await heard(server, api, waits)

        assert ["begun", "ended", "ADDED a@11"] == said
        assert ["list", "10", "11", "11", "11", "11"] == watched_from(server)
        assert 3 == len(waits.ms)

    async def test_a_line_that_is_no_event(self, server: ScriptedServer, api: ApiServer) -> None:
        """A line that is no JSON may have been anything: it is asked for again."""
        server.then(page(10), server.watch(b"<html>\n"), server.watch(added("a", 11)))

        assert ["begun", "ended", "ADDED a@11"] == await heard(server, api, Waits())
        assert ["list", "10", "10", "11"] == watched_from(server)

    async def test_an_event_of_an_unknown_type(
        self, server: ScriptedServer, api: ApiServer
    ) -> None:
        """A type of event that is not known is passed over, as is a bookmark without a version's number."""
        server.then(page(10), server.watch(event("RENAMED", thing("a", 11)), added("b", 12)))

        assert ["begun", "ended", "ADDED b@12"] == await heard(server, api, Waits())


class TestListingAgain:
    """410 Gone: only a new list can say what is there."""

    @pytest.mark.parametrize("as_event", [True, False])
    async def test_too_old(self, server: ScriptedServer, api: ApiServer, *, as_event: bool) -> None:
        """A version that is too old, as an answer or in the watch: everything is said again, and the watch goes on."""
        waits = Waits()
        gone = refused(410, "Expired")
        if as_event:
            gone = server.watch(event("ERROR", status(410, "Expired")))
        server.then(page(10, thing("a", 9)), gone, page(50, thing("b", 40)))

        said = await heard(server, api, waits)

        assert ["begun", "has a@9", "ended", "begun", "has b@40", "ended"] == said
        assert ["list", "10", "list", "50"] == watched_from(server)
        assert [] == waits.ms

    async def test_too_old_again_and_again(self, server: ScriptedServer, api: ApiServer) -> None:
        """List and 410 in turns: each round waits longer, although each list was complete."""
        waits = Waits()
        rounds = [(page(10 + count), refused(410, "Expired")) for count in range(6)]
        server.then(*itertools.chain(*rounds))

        await heard(server, api, waits)

        assert 5 <= len(waits.ms)
        assert waits.ms[4] > waits.ms[0]

    async def test_an_expired_token(self, server: ScriptedServer, api: ApiServer) -> None:
        """A list whose rest is no longer to be had is begun anew, also the first one."""
        waits = Waits()
        server.then(
            page(10, thing("a", 9), more="more"),
            refused(410, "Expired"),
            page(20, thing("a", 9)),
        )

        assert ["begun", "has a@9", "begun", "has a@9", "ended"] == await heard(server, api, waits)
        assert ["list", "list", "list", "20"] == watched_from(server)
        assert [] == waits.ms

    async def test_a_later_list_fails(self, server: ScriptedServer, api: ApiServer) -> None:
        """After the first list no failure ends it: the list is tried until it is complete."""
        server.then(
            page(10),
            refused(410, "Expired"),
            answer(503),
            refused(403, "Forbidden"),
            answer(200, b"<html>"),
            answer(200, b'{"metadata": {"resourceVersion": "new"}}'),
            page(20, thing("a", 9), more="more"),
            cut_off_in_body(),
            page(30, thing("a", 9)),
        )

        said = await heard(server, api, Waits())

        assert ["begun", "ended", "begun", "has a@9", "begun", "has a@9", "ended"] == said
        assert "30" == watched_from(server)[-1]

    @pytest.mark.parametrize(
        ("first", "expected"),
        [
            ([answer(503)], UnavailableError),
            ([answer(200, b"<html>")], UnavailableError),
            ([answer(200, b'{"metadata": {"resourceVersion": "x"}}')], UnavailableError),
            ([refused(403, "Forbidden")], Refusal),
            ([refused(404, "NotFound")], Refusal),
            ([page(10, more="more"), answer(503)], UnavailableError),
            ([refused(410, "Expired"), answer(503)], UnavailableError),
        ],
    )
    async def test_the_first_list_fails(
        self, first: list[Any], expected: type[Exception], server: ScriptedServer, api: ApiServer
    ) -> None:
        """Without a first list there is nothing to say: whoever asked is told why."""
        server.then(*first)

        with pytest.raises(expected):
            await heard(server, api, Waits())


class TestNeverBackwards:
    """Two API servers of different age must not move an object back."""

    async def test_old_events(self, server: ScriptedServer, api: ApiServer) -> None:
        """An event that is not newer than what was seen is not said, wherever the newer one came from."""
        server.then(
            page(10, thing("a", 10)),
            server.watch(modified("a", 10), deleted("a", 9), modified("a", 12), deleted("b", 12)),
            server.watch(bookmark(20), bookmark(15), added("c", 19), added("d", 21)),
        )

        said = await heard(server, api, Waits())

        assert ["begun", "has a@10", "ended", "MODIFIED a@12", "ADDED d@21"] == said
        assert ["list", "10", "12", "21"] == watched_from(server)

    async def test_an_old_list(self, server: ScriptedServer, api: ApiServer) -> None:
        """A list that is older than what was seen is not said at all; it is asked for again, after a wait."""
        waits = Waits()
        server.then(
            page(10),
            server.watch(added("a", 100), event("ERROR", status(410, "Gone"))),
            page(99),
            page(99),
            page(100, thing("a", 100)),
        )

        said = await heard(server, api, waits)

        assert ["begun", "ended", "ADDED a@100", "begun", "has a@100", "ended"] == said
        assert 2 == len(waits.ms)

    async def test_old_lists_for_good(self, server: ScriptedServer, api: ApiServer) -> None:
        """B1: a store that was restored from a copy stays behind; after so many lists we begin from nothing."""
        server.then(page(10), refused(410, "Gone"), *[page(9)] * LIMITS.stale_lists_max)

        with pytest.raises(
            UnavailableError, match=r"version 9, version 10 was already seen.*3 times"
        ):
            await heard(server, api, Waits())

    async def test_old_lists_for_a_while(self, server: ScriptedServer, api: ApiServer) -> None:
        """Old lists are counted in a row only."""
        gone = refused(410, "Gone")
        server.then(page(10), gone, page(9), page(9), page(11), gone, page(9), page(9), page(12))

        assert ["begun", "ended"] * 3 == await heard(server, api, Waits())
