"""The reflector and objects that it cannot read.

They come from whoever may write objects, or from an API server that is newer than this program.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.kubernetes.support_reflecting import (
    Waits,
    added,
    deleted,
    heard,
    modified,
    watched_from,
)
from tests.kubernetes.support_scripted_server import (
    ScriptedServer,
    connected,
    event,
    page,
    scripted_server,
    thing,
)

from everynode_kubernetes.client import ApiServer


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


GARBAGE = {"size": "large"}


class TestUnreadable:
    """L3, S8: one object that cannot be read stops no other, and is not taken for gone."""

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (thing("bad", 5) | GARBAGE, "unreadable default/bad uid-bad"),
            (thing("bad", 0), "unreadable default/bad uid-bad"),
            (thing("bad", 5) | {"size": None}, "unreadable default/bad uid-bad"),
            ({"size": 1, "metadata": {"name": 5}}, "unreadable / "),
            (b"null", "unreadable / "),
            (b'"a"', "unreadable / "),
        ],
    )
    async def test_in_a_list(
        self, content: Any, expected: str, server: ScriptedServer, api: ApiServer
    ) -> None:
        """In a list it is said to be there, as far as it can be named, and logged."""
        server.then(page(10, thing("a", 1), content, thing("b", 2)))

        with structlog.testing.capture_logs() as logs:
            said = await heard(server, api, Waits())

        assert ["begun", "has a@1", expected, "has b@2", "ended"] == said
        assert ["object not readable, passed over"] == [entry["event"] for entry in logs]

    async def test_in_a_watch(self, server: ScriptedServer, api: ApiServer) -> None:
        """In a watch it is said to be there, once, and the next events are heard."""
        bad = modified("bad", 11, **GARBAGE)
        server.then(page(10), server.watch(bad, bad, added("a", 12)))

        said = await heard(server, api, Waits())

        assert ["begun", "ended", "unreadable default/bad uid-bad", "ADDED a@12"] == said
        assert ["list", "10", "12"] == watched_from(server)

    async def test_without_a_version(self, server: ScriptedServer, api: ApiServer) -> None:
        """If not even its version can be read, the watch goes on from the one before."""
        nothing = event("MODIFIED", {"metadata": 3})
        server.then(page(10), server.watch(nothing, added("a", 12)))

        assert ["begun", "ended", "unreadable / ", "ADDED a@12"] == await heard(
            server, api, Waits()
        )

    async def test_a_deletion(self, server: ScriptedServer, api: ApiServer) -> None:
        """A deletion that cannot be read is told by a list: what it does not name is gone."""
        server.then(
            page(10, thing("a", 1), thing("bad", 2)),
            server.watch(deleted("bad", 11, **GARBAGE)),
            page(11, thing("a", 1)),
        )

        said = await heard(server, api, Waits())

        assert ["begun", "has a@1", "has bad@2", "ended", "begun", "has a@1", "ended"] == said
        assert ["list", "10", "list", "11"] == watched_from(server)

    async def test_a_parser_that_raises_otherwise(
        self, server: ScriptedServer, api: ApiServer
    ) -> None:
        """A version that is no number is an object that cannot be read."""
        bad = thing("bad", 5)
        bad["metadata"]["resourceVersion"] = "five"
        server.then(page(10, bad), server.watch(event("ADDED", bad), added("a", 12)))

        unreadable = "unreadable default/bad uid-bad"
        assert ["begun", unreadable, "ended", unreadable, "ADDED a@12"] == await heard(
            server, api, Waits()
        )

    async def test_nested_deeper_than_usual(self, server: ScriptedServer, api: ApiServer) -> None:
        """An object that is nested as deep as Go allows hides neither its list nor its watch."""
        deep = b'{"a":' * 9_990 + b"1" + b"}" * 9_990
        metadata = b'"metadata": {"name": "%s", "uid": "u", "resourceVersion": "%d"}'
        listed = b'{"size": 1, %s, "data": %s}' % (metadata % (b"deep", 5), deep)
        watched = b'{"size": 1, %s, "data": %s}' % (metadata % (b"deep", 11), deep)
        line = b'{"type": "ADDED", "object": %s}\n' % watched
        server.then(page(10, listed, thing("a", 1)), server.watch(line, added("b", 12)))

        said = await heard(server, api, Waits())

        deep_said = "unreadable /deep u"
        assert ["begun", deep_said, "has a@1", "ended", deep_said, "ADDED b@12"] == said
