"""What a watch does when the log that it follows cannot be reached any more."""

import asyncio

import pytest

from everynode.cli import watching
from everynode.errors import UnavailableError
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import connect
from everynode.runtime.settings import Connection, StreamSettings


async def test_a_watch_ends_when_the_log_stays_away(
    own_server: EmbeddedServer,
    fleet: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """B1: an outage is said once, and the watch ends when it lasts too long."""
    monkeypatch.setattr(watching, "REACHED_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(watching, "OUTAGE_SECONDS_MAX", 1.0)
    connection = Connection(servers=(own_server.url,))
    settings = StreamSettings(log_max_bytes=16 * 1024**2)
    async with await connect(connection, fleet, create=settings) as bus:
        watched = asyncio.ensure_future(watching.end_when_cut_off(bus))
        await bus.log_position()
        assert not watched.done()
        await own_server.stop()
        with pytest.raises(UnavailableError, match="the watch ends"):
            await asyncio.wait_for(watched, 60)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert line.startswith("note: waiting up to 1 s for the log")
