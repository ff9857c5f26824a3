"""The parts as processes of their own: worker, adapter, the fleet's log; and what goes wrong between them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from everynode.core.values import SetKey
from everynode.ports import Outgoing
from everynode.runtime.jetstream import JetStreamBus

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode, Running

SECRET = "open-sesame"  # noqa: S105 - a password that must not be shown


@pytest.fixture
def new_fleet(on_server: Everynode, fleet: str) -> str:
    """A fleet of the test's own on the shared server."""
    created = on_server("fleet", "create", fleet, "--max-bytes", "16MiB", "--shards", "4")
    assert (created.code, created.out) == (0, f"fleet/{fleet} ready, with 4 shards\n")
    return fleet


def test_a_fleet_must_be_created(on_server: Everynode, fleet: str) -> None:
    """Nothing is made on somebody's server unless asked for: the error says which command does."""
    for command in (("worker",), ("adapter", "simulated"), ("get", "ds"), ("fleet", "show")):
        ended = on_server(*command, "--fleet", fleet)
        assert (ended.code, ended.out) == (1, "")
        assert f"everynode fleet create {fleet}" in ended.err.splitlines()[-1]


def test_create_compares_what_is_there(on_server: Everynode, new_fleet: str) -> None:
    """Creating a fleet again changes nothing; what was asked for and is otherwise is named."""
    assert on_server("fleet", "create", "--fleet", new_fleet).code == 0
    other = on_server("fleet", "create", new_fleet, "--shards", "8")
    assert other.code == 1
    assert "shards is 4, wanted 8" in other.err
    assert on_server("fleet", "create", new_fleet, "--max-age", "soon").code == 2


def test_show(on_server: Everynode, new_fleet: str) -> None:
    """A fleet's log and what is in it are shown to people and to programs."""
    text = on_server("fleet", "show", new_fleet).out
    assert [line.split()[0] for line in text.splitlines()[:3]] == ["Fleet:", "Server:", "Shards:"]
    shown = json.loads(on_server("fleet", "show", new_fleet, "-o", "json").out)
    assert (shown["fleet"], shown["shards"], shown["nodes"]) == (new_fleet, 4, 0)
    assert (shown["maxBytes"], shown["maxAgeSeconds"]) == (16 * 1024**2, 7 * 86_400)


def test_worker_and_adapter_as_processes(
    on_server: Everynode,
    new_fleet: str,
    start: Callable[..., Running],
    manifest: Callable[..., str],
) -> None:
    """L1: worker and adapter cover a fleet from processes of their own, also after a worker was killed."""
    here = {"address": on_server.address}
    adapter = start(
        *("adapter", "simulated", "--nodes", "9", "--option", "start_ms=1-2"),
        *("--fleet", new_fleet, "--log-format", "json"),
        **here,
    )
    first = start("worker", "--name", "first", "--fleet", new_fleet, **here)
    first.line("worker starts")
    on_server("apply", "--fleet", new_fleet, "-f", "-", stdin=manifest("a"))
    pods = ("get", "pods", "--fleet", new_fleet, "-o", "name")
    wanted = on_server.until(*pods, holds=lambda out: out.count("pod/a-") >= 5).count("pod/")

    first.stop(signal.SIGKILL)
    on_server("apply", "--fleet", new_fleet, "-f", "-", stdin=manifest("b"))
    second = start("worker", "--name", "second", "--fleet", new_fleet, **here)
    on_server.until(*pods, holds=lambda out: out.count("pod/b-") == wanted)
    described = on_server("describe", "ds", "b", "--fleet", new_fleet).out
    assert "worker second" in described

    assert second.stop(signal.SIGTERM) == 0
    assert adapter.stop(signal.SIGTERM) == 0
    second.line("worker stops")
    lines = [json.loads(line) for line in adapter.err]
    assert [line["event"] for line in lines] == ["adapter starts", "adapter stops"]
    assert {(line["backend"], line["fleet"]) for line in lines} == {("simulated", new_fleet)}


def test_an_adapter_that_cannot_be_made(on_server: Everynode, new_fleet: str) -> None:
    """An adapter that is not installed, and options that it does not have, are errors that say what there is."""
    nodes = on_server(
        "adapter", "simulated", "--nodes", "2", "--nodes-from", "x", "--fleet", new_fleet
    )
    assert nodes.code == 2
    unknown = on_server("adapter", "run", "nope", "--fleet", new_fleet)
    assert unknown.code == 1
    assert (
        unknown.err == "error: adapter 'nope' is not installed; there are: kubernetes, simulated\n"
    )
    for name in ("run", "simulated"):
        words = ("adapter", *([name, "simulated"] if name == "run" else [name]))
        unfit = on_server(*words, "--fleet", new_fleet, "--option", "a=b")
        assert unfit.code in {1, 2}
        assert "'a'" in unfit.err
        assert on_server(*words, "--fleet", new_fleet, "--option", "a").code == 2


def test_adapters_are_listed(everynode: Everynode) -> None:
    """Installed adapters are found by their entry point."""
    ended = everynode("adapter", "list")
    assert ended.code == 0
    header, _, simulated = ended.out.splitlines()
    assert header.split() == ["NAME", "PACKAGE", "CLASS"]
    assert simulated.split()[0] == "simulated"


@pytest.mark.parametrize(
    "command",
    [
        ("get", "ds"),
        ("worker",),
        ("adapter", "simulated"),
        ("fleet", "create"),
        ("simulate", "delete-node", "a"),
        ("up", "--once"),
    ],
)
def test_a_log_that_cannot_be_reached(everynode: Everynode, command: tuple[str, ...]) -> None:
    """Without a server there is one error, no traceback, no password, and the exit code says to try later."""
    ended = everynode(*command, "--nats", f"nats://somebody:{SECRET}@127.0.0.1:1")
    assert (ended.code, ended.out) == (3, "")
    (error,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert "nats://127.0.0.1:1" in error
    assert "Traceback" not in ended.err
    assert SECRET not in ended.err


@pytest.mark.parametrize(
    "command", [("--nats", "nonsense://"), ("--creds", "nowhere"), ("--tls-key", "nowhere")]
)
def test_a_connection_that_cannot_be(everynode: Everynode, command: tuple[str, ...]) -> None:
    """Options that cannot work are refused in words."""
    ended = everynode("get", "ds", *command)
    assert ended.code in {1, 2, 3}
    assert ended.out == ""
    assert "Traceback" not in ended.err


def test_version(everynode: Everynode) -> None:
    """Both ways to ask for the version give it."""
    assert everynode("--version").out == everynode("version").out.splitlines(keepends=True)[0]


def loaded_by(*command: str) -> list[str]:
    """Run a command in a process of its own; returns the modules that it has loaded in the end."""
    code = (
        f"import sys; sys.argv = {['everynode', *command]!r}\n"
        "from everynode.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return ended.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("module", ["nats", "yaml", "structlog", "hypothesis", "pyroaring"])
def test_version_imports_little(module: str) -> None:
    """A command imports only what it needs: asking for the version loads no client and no parser."""
    loaded = loaded_by("version")
    assert "everynode.cli.version" in loaded
    assert module not in loaded


@pytest.mark.parametrize(
    "command", [("explain", "ds/agent"), ("timeline", "ds/agent"), ("get", "nodes")]
)
def test_a_question_imports_little(command: tuple[str, ...]) -> None:
    """What asks the log loads its client, and neither what that has for WebSockets nor what nobody asked for."""
    loaded = loaded_by(*command, "--nats", "nats://127.0.0.1:1")
    assert "nats.aio.client" in loaded
    needless = {"aiohttp.client", "nkeys", "yaml", "prometheus_client", "kubernetes_asyncio"}
    assert not needless & set(loaded)


def test_help_names_the_exit_codes_and_every_command(everynode: Everynode) -> None:
    """The help lists all commands and says what exit codes mean; each command's help has an example."""
    ended = everynode("--help")
    assert ended.code == 0
    for text in ("Exit codes", "up", "worker", "adapter", "apply", "delete", "get", "rollout"):
        assert text in ended.out
    for command in ("up", "worker", "apply", "delete", "get", "describe", "explain", "events"):
        shown = everynode(command, "--help")
        assert shown.code == 0
        assert f"everynode {command}" in shown.out.partition("Example")[2], command
    for verb in ("status", "history", "undo", "pause", "resume", "restart"):
        shown = everynode("rollout", verb, "--help")
        assert f"everynode rollout {verb}" in shown.out.partition("Example")[2], verb


def test_wrong_commands(everynode: Everynode) -> None:
    """A command that is not there is wrong usage, and a near one is named."""
    ended = everynode("gett")
    assert (ended.code, ended.out) == (2, "")
    assert "'get'" in ended.err


async def test_garbage_in_the_log_is_said_and_hides_nothing(
    on_server: Everynode, bus: JetStreamBus, manifest: Callable[..., str]
) -> None:
    """S8: a message that cannot be read costs a warning; the set that it stands for is shown as it was before."""
    fleet = bus.subjects.fleet
    apply = ("apply", "--fleet", fleet, "-f", "-")
    assert (await asyncio.to_thread(on_server, *apply, stdin=manifest("a"))).code == 0
    subject = bus.subjects.of_set("daemonset", SetKey("default", "a"))
    await bus.publish([Outgoing(subject, b"garbage")])
    get = ("get", "ds", "--fleet", fleet, "-o", "name")
    shown = await asyncio.to_thread(on_server, *get)
    assert (shown.code, shown.out) == (0, "daemonset.apps/a\n")
    (warning,) = shown.err.splitlines()
    assert warning.startswith("warning: messages in the log that cannot be read: 1;")
    assert subject in warning


def test_show_workers(on_server: Everynode, new_fleet: str, start: Callable[..., Running]) -> None:
    """People see who decides for what, and who is dead; programs too."""
    show = ("fleet", "show", new_fleet)
    assert "nobody decides for this fleet" in on_server(*show).out
    nothing = json.loads(on_server(*show, "-o", "json").out)
    assert ([], [0, 1, 2, 3]) == (nothing["workers"], nothing["unownedShards"])

    here = {"address": on_server.address}
    workers = {name: start("worker", "--name", name, "--fleet", new_fleet, **here) for name in "ab"}
    on_server.until(
        *show, "-o", "json", holds=lambda out: _states(out) == {"a": "Ready", "b": "Ready"}
    )
    shown = json.loads(
        on_server.until(*show, "-o", "json", holds=lambda out: sorted(_shards(out)) == [0, 1, 2, 3])
    )
    assert [] == shown["unownedShards"]

    workers["a"].stop(signal.SIGKILL)
    table = on_server.until(*show, holds=lambda out: "Dead" in out)
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if "   " in line}
    assert ["SHARDS", "SEQUENCE", "BEHIND", "AGE", "STATE"] == rows["NAME"]
    assert ["Dead", "since"] == rows["a"][4:6]
    assert "Ready" == rows["b"][-1]
    taken = on_server.until(*show, "-o", "json", holds=lambda out: len(_shards(out)) == 4)
    assert {"a": "Dead", "b": "Ready"} == _states(taken)


def _states(out: str) -> dict[str, str]:
    return {worker["name"]: worker["state"] for worker in json.loads(out)["workers"]}


def _shards(out: str) -> list[int]:
    return [shard for worker in json.loads(out)["workers"] for shard in worker.get("shards", ())]
