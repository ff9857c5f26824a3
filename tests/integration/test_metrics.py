"""Metrics of workers, hosts and connections at work: they are all documented, and they say what happened."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.support_world import World, make_set
from tests.unit.test_metrics import DOCUMENT, get

from everynode.runtime.metrics import PREFIX, exposition, of_connection, of_host, of_worker

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

PROGRAM = Path(sys.executable).parent / "everynode"
DEADLINE_SECONDS = 30
SECRET = "open-sesame"  # noqa: S105 - it opens nothing


def families(text: str) -> dict[str, Metric]:
    """Read what Prometheus would read."""
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found), "a family is there twice"
    return {family.name.removeprefix(PREFIX): family for family in found}


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    """One number."""
    (sample,) = [
        sample
        for sample in found[name].samples
        if sample.labels == labels and not sample.name.endswith(("_created", "_bucket", "_sum"))
    ]
    return sample.value


async def test_they_say_what_happened(world: World) -> None:
    """Decisions, commands, outcomes and calls are as many as there were."""
    world.add_nodes(4)
    worker, host = await world.start_worker(), await world.start_host()
    await world.apply(make_set(spec=f'{{"containers":[{{"name":"{SECRET}"}}]}}'))
    await world.covered()

    deciding = families(exposition(of_worker(worker.worker), of_connection(worker.bus)).decode())
    carrying = families(exposition(of_host(host.host), of_connection(host.bus)).decode())

    assert value(deciding, "decisions") == worker.worker.counts.decisions > 0
    assert value(deciding, "commands", verb="create") == 4
    assert value(deciding, "messages_folded") > 8
    assert value(deciding, "ready") == value(carrying, "ready") == 1
    assert value(deciding, "connected") == 1
    assert value(carrying, "outcomes", result="done") == 4
    assert value(carrying, "outcomes", result="failed") == 0
    assert value(carrying, "apply_seconds") == 4
    assert value(carrying, "observations", result="published") >= 4 + 4
    assert value(carrying, "queue_length", queue="commands_in_hand") == 0
    assert value(carrying, "queue_limit", queue="commands_in_hand") == 2_048


async def test_each_is_documented_and_nothing_else_is(world: World) -> None:
    """docs/metrics.md has a row for each metric, with its labels, and none of one that is not there."""
    world.add_nodes(1)
    worker, host = await world.start_worker(), await world.start_host()
    await world.apply(make_set())
    await world.covered()
    text = exposition(of_worker(worker.worker), of_connection(worker.bus)).decode()
    found = families(text) | families(
        exposition(of_host(host.host), of_connection(host.bus)).decode()
    )

    shown = {}
    for name, family in found.items():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        suffix = "_total" if family.type == "counter" else ""
        shown[f"{PREFIX}{name}{suffix}"] = ", ".join(sorted(labels))
    rows = re.findall(rf"^\| `({PREFIX}\w+)` \| (?:`(\w+)`)?[^|]*\|", DOCUMENT, re.MULTILINE)

    assert shown == dict(rows)
    queues = {sample.labels["queue"] for sample in found["queue_length"].samples}
    documented = re.findall(r"^\| `(?!everynode_)([a-z_]+)` \|", DOCUMENT, re.MULTILINE)
    assert queues == set(documented)


async def test_no_secret_and_no_name_is_shown(world: World) -> None:
    """What people write into sets, and how nodes are called, is in no metric; so there are as many as ever (B1)."""
    world.add_nodes(3)
    worker, host = await world.start_worker(), await world.start_host()
    sources = of_worker(worker.worker), of_host(host.host), of_connection(host.bus)

    def lines() -> list[str]:
        text = "".join(exposition(source).decode() for source in sources)
        return [line.rpartition(" ")[0] for line in text.splitlines()]

    await world.apply(make_set(SECRET, spec=f'{{"containers":[{{"name":"{SECRET}"}}]}}'))
    await world.covered()
    before = lines()
    for name in (SECRET, "n0000", "sim.", world.name):
        assert name not in "".join(before)
    world.add_nodes(20)
    await world.apply(make_set("another"))
    await world.covered()
    assert before == lines()


@pytest.mark.parametrize("kind", ["worker", "adapter"])
async def test_the_option(world: World, tmp_path: Path, until: Until, kind: str) -> None:
    """A process shows its metrics where it is told to, and becomes ready."""
    output = tmp_path / "output.log"
    server = world.connection.servers[0]
    more = ["adapter", "simulated", "--nodes", "3"] if kind == "adapter" else ["worker"]
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            *more,
            *("--nats", server, "--fleet", world.name, "--metrics-address", "127.0.0.1:0"),
            stdout=file,
            stderr=file,
        )
    try:

        async def shown() -> bool:
            assert process.returncode is None, output.read_text()
            return "metrics are shown" in output.read_text()

        await until(shown)
        (line,) = [line for line in output.read_text().splitlines() if "metrics are shown" in line]
        address = re.sub(r"\x1b\[[0-9;]*m", "", line).partition("address=")[2].strip()

        async def ready() -> bool:
            return (await get(address, "/readyz"))[0] == 200

        await until(ready)
        assert await get(address, "/healthz") == (200, "alive\n")
        status, text = await get(address, "/metrics")
        assert status == 200
        assert value(families(text), "ready") == 1
    finally:
        process.terminate()
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await process.wait() == 0


async def test_an_address_that_cannot_be(world: World) -> None:
    """A wrong address is refused before anything begins."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *("worker", "--nats", world.connection.servers[0], "--fleet", world.name),
        *("--metrics-address", "nowhere"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        text, _ = await process.communicate()
    assert process.returncode == 1
    assert "HOST:PORT" in text.decode()
