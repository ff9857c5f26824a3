"""Metrics and probes: who may ask for what, and that a stranger who asks badly harms nobody."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from everynode.errors import ConfigurationError
from everynode.runtime import monitoring
from everynode.runtime.counts import Durations
from everynode.runtime.metrics import PREFIX, Source, _histogram, exposition
from everynode.runtime.monitoring import CONNECTIONS_MAX, REQUEST_BYTES_MAX, Watched, monitored

DEADLINE_SECONDS = 30
DOCUMENT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


class Part:
    """Something that is watched."""

    def __init__(self) -> None:
        """Not ready at first."""
        self.why = "not yet"
        self.broken = False

    def metrics(self) -> bytes:
        """Write them."""
        if self.broken:
            raise ZeroDivisionError
        return b"everynode_x 1\n"


@pytest.fixture
def part() -> Part:
    """What is watched."""
    return Part()


@pytest.fixture
async def address(part: Part) -> AsyncIterator[str]:
    """Where it is shown."""
    watched = Watched(part.metrics, lambda: part.why)
    async with monitored("127.0.0.1:0", watched) as shown:
        yield shown


async def say(address: str, request: bytes) -> bytes:
    """Send something, and read until the connection ends; what hangs fails."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(DEADLINE_SECONDS):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def get(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    """Ask for a path: the status, and the body."""
    answer = await say(address, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert f"Content-Length: {len(body)}" in head or method == "HEAD"
    return int(head.split(" ")[1]), body


async def test_what_is_shown(address: str) -> None:
    """Metrics and liveness are there; what is not says what is."""
    assert await get(address, "/metrics") == (200, "everynode_x 1\n")
    assert await get(address, "/metrics?name=x") == (200, "everynode_x 1\n")
    assert await get(address, "/healthz") == (200, "alive\n")
    status, body = await get(address, "/")
    assert status == 404
    assert "/metrics" in body
    assert await get(address, "/healthz", "HEAD") == (200, "")
    assert (await get(address, "/metrics", "POST"))[0] == 405


async def test_readiness(address: str, part: Part) -> None:
    """It is not ready for as long as it says why."""
    assert await get(address, "/readyz") == (503, "not yet\n")
    part.why = ""
    assert await get(address, "/readyz") == (200, "ready\n")


async def test_a_mistake_of_ours_is_told_and_stops_nobody(address: str, part: Part) -> None:
    """Metrics that cannot be shown are an answer and a line in the log (L3)."""
    part.broken = True
    with capture_logs() as entries:
        assert (await get(address, "/metrics"))[0] == 500
    assert "ZeroDivisionError" in entries[0]["traceback"]
    assert (await get(address, "/healthz"))[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\xff\xfe \xff\r\n\r\n",
        b"GET /metrics" + b"x" * 2 * REQUEST_BYTES_MAX + b"\r\n\r\n",
        b"x" * 100 * REQUEST_BYTES_MAX,
    ],
    ids=["empty", "one word", "no text", "long path", "endless"],
)
async def test_whatever_is_asked(address: str, request_: bytes) -> None:
    """What is no request has a refusal or no answer, and the next one is answered (S8, B1)."""
    answer = await say(address, request_)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 405", b"HTTP/1.1 404"))
    assert (await get(address, "/healthz"))[0] == 200


async def test_who_says_nothing_is_let_go(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing comes does not stay (B1)."""
    monkeypatch.setattr(monitoring, "REQUEST_SECONDS_MAX", 0.05)
    assert await say(address, b"GET /healthz") == b""


async def test_not_too_many_at_once(address: str) -> None:
    """Who comes when there are too many is turned away; when they have gone, there is room again (B1)."""
    host, _, port = address.rpartition(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS_MAX)]
    assert await say(address, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
    for reader, writer in opened:
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert b"200" in await reader.readline()
        writer.close()
    assert (await get(address, "/healthz"))[0] == 200


async def test_it_ends_with_what_it_shows(part: Part) -> None:
    """Nobody answers after the end, and who was connected is let go."""
    async with monitored("127.0.0.1:0", Watched(part.metrics, str)) as shown:
        host, _, port = shown.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert (await get(shown, "/healthz"))[0] == 200
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(
    "address", ["", "9464", ":9464", "host", "host:", "a b:1", "h:99999", "[::1:2"]
)
async def test_no_address(address: str, part: Part) -> None:
    """What is no address is refused with an example of one."""
    with pytest.raises(ConfigurationError, match=r"HOST:PORT, such as 127\.0\.0\.1:9464"):
        async with monitored(address, Watched(part.metrics, str)):
            pass


@pytest.mark.parametrize("host", ["[::1]", "::1"])
async def test_an_address_of_ipv6(host: str, part: Part) -> None:
    """It may be in brackets, or not, as a pod is told its own."""
    try:
        async with monitored(f"{host}:0", Watched(part.metrics, str)) as shown:
            assert re.fullmatch(r"\[::1\]:[1-9]\d*", shown)
    except ConfigurationError as error:
        if "cannot be listened at" in str(error):
            pytest.skip("this machine has no IPv6")
        raise


async def test_an_address_that_is_taken(address: str, part: Part) -> None:
    """Where somebody listens already, the error says so."""
    with pytest.raises(ConfigurationError, match=f"{address}: cannot be listened at"):
        async with monitored(address, Watched(part.metrics, str)):
            pass


def test_durations() -> None:
    """Times are sorted by their upper bounds, the bounds included, and shown as what Prometheus calls a histogram."""
    durations = Durations((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.2, 7.0):
        durations.add(seconds)
    text = exposition(Source(lambda: [_histogram("x_seconds", "text", durations)])).decode()
    (family,) = [f for f in text_string_to_metric_families(text) if f.name == f"{PREFIX}x_seconds"]
    assert [
        (sample.name.removeprefix(PREFIX), sample.labels, sample.value) for sample in family.samples
    ] == [
        ("x_seconds_bucket", {"le": "0.1"}, 2),
        ("x_seconds_bucket", {"le": "1"}, 3),
        ("x_seconds_bucket", {"le": "+Inf"}, 4),
        ("x_seconds_count", {}, 4),
        ("x_seconds_sum", {}, pytest.approx(7.35)),
    ]


def test_the_document_names_each_limit_that_there_is() -> None:
    """Each limit in docs/metrics.md is one in the code, with this value (B1)."""
    rows = re.findall(
        r"^\| [^|]+ \| `([\w.]+)\.([A-Z_]+|\w+\.\w+)` \| ([\d_,.]+)[^|]*\|", DOCUMENT, re.MULTILINE
    )
    section = DOCUMENT.partition("## Limits")[2]
    assert len(rows) == len(re.findall(r"^\| [^|]+ \| `", section, re.MULTILINE)) > 20
    for module, name, shown in rows:
        found: object = __import__(f"everynode.{module}", fromlist=["x"])
        for part_of_name in name.split("."):
            found = getattr(found, part_of_name)
        assert float(shown.replace(",", "")) == found, f"{module}.{name}"
