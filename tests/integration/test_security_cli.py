"""The commands under the roles of deploy/nats, by NATS contexts; and no secret in anything that they say."""

import asyncio
import json
import os
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.integration import support_security as support

from everynode.runtime.embedded import EmbeddedServer

PROGRAM = Path(sysconfig.get_path("scripts")) / "everynode"
COMMAND_SECONDS_MAX = 60
CANARY = "open-sesame-4711"
NODES = 4
ADAPTER = "adapter-simulated"

SET = f"""\
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: NAME, namespace: default}}
spec:
  selector: {{matchLabels: {{app: NAME}}}}
  updateStrategy: {{type: RollingUpdate}}
  template:
    metadata: {{labels: {{app: NAME}}}}
    spec:
      containers:
      - name: main
        image: example.com/main:VERSION
        env: [{{name: PASSWORD, value: {CANARY}}}]
"""


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


class Person:
    """Somebody with a home where NATS contexts are, one for each role; the reader's is selected."""

    def __init__(self, home: Path, server: EmbeddedServer) -> None:
        """Write the contexts."""
        self.home = home
        self.contexts = home / "nats" / "context"
        self.contexts.mkdir(parents=True)
        (home / "nats" / "context.txt").write_text("reader", encoding="utf-8")
        for role in support.ROLES:
            fields = {
                "url": server.url,
                "user": role,
                "password": support.password(role),
                "inbox_prefix": support.inbox(role),
                "jetstream_domain": "everynode",
            }
            (self.contexts / f"{role}.json").touch(mode=0o600)
            (self.contexts / f"{role}.json").write_text(json.dumps(fields), encoding="utf-8")

    def environment(self, **more: str) -> dict[str, str]:
        """Nobody's settings but these."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("EVERYNODE_")
        }
        return kept | {"XDG_CONFIG_HOME": str(self.home)} | more

    def __call__(self, *arguments: str, stdin: str = "") -> Ended:
        """Run a command to its end, with everything logged that can be."""
        ended = subprocess.run(
            [PROGRAM, *arguments, "--log-level", "debug"],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    @contextmanager
    def running(self, role: str, *arguments: str) -> Iterator[Path]:
        """Run a part beside the test, as a role named by a variable; what it logs is in the file."""
        output = self.home / f"{role}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [PROGRAM, *arguments, "--log-level", "debug"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self.environment(EVERYNODE_NATS_CONTEXT=role),
            )
        try:
            yield output
        finally:
            process.terminate()
            process.wait(COMMAND_SECONDS_MAX)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def person(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Person]:
    """Somebody who works with a server that lets only roles in; its fleet is made."""
    data_dir = tmp_path_factory.mktemp("closed")
    with support.server_variables():
        async with EmbeddedServer(
            data_dir, 0, extra=support.including(data_dir, "passwords.conf")
        ) as server:
            made = Person(tmp_path_factory.mktemp("home"), server)
            create = ("fleet", "create", "--nats-context", "operator", "--max-bytes", "64MiB")
            backend = ("--backend", "simulated=simulated/simulated")
            ended = await asyncio.to_thread(made, *create, *backend)
            assert 0 == ended.code, ended.err
            yield made


def manifest(name: str, version: str = "1") -> str:
    """A set with a secret in its template."""
    return SET.replace("NAME", name).replace("VERSION", version)


@pytest.mark.slow
def test_roles_at_work(person: Person) -> None:
    """Each command works under its role, and in none of what they say is a password or what a template hides."""
    said: dict[str, str] = {}

    def run(*arguments: str, code: int = 0, stdin: str = "") -> str:
        ended = person(*arguments, stdin=stdin)
        said[" ".join(arguments)] = ended.err + ended.out
        assert code == ended.code, ended.err
        return ended.out

    operator = ("--nats-context", "operator")
    simulated = ("adapter", "simulated", "--nodes", str(NODES), "--option", "calls_unavailable=0.2")
    with person.running("worker", "worker") as worker, person.running(ADAPTER, *simulated) as host:
        run("apply", "-f", "-", *operator, stdin=manifest("agent"))
        deadline = time.monotonic() + COMMAND_SECONDS_MAX
        while run("get", "nodes", "-o", "name").count("node/") < NODES:
            assert time.monotonic() < deadline, "the adapter lists no nodes"
        run("rollout", "status", "daemonset/agent", "--timeout", "40s")
        assert "agent" in run("get", "pods")
        run("apply", "-f", "-", *operator, stdin=manifest("agent", "2"))
        run("rollout", "status", "daemonset/agent", "--timeout", "40s")
        for reading in ("get pods -o wide", "get nodes", "describe daemonset agent", "events"):
            run(*reading.split())
        run("rollout", "history", "daemonset/agent")
        assert "backends" in run("fleet", "show", "-o", "json")
        node = json.loads(run("get", "nodes", "-o", "json"))["items"][0]["metadata"]["name"]
        run("explain", "daemonset/agent", "--node", node)
        run("timeline", "daemonset/agent")
        run("simulate", "label-node", node, "a=b", *operator)
        run("delete", "daemonset", "agent", *operator)
    said |= {path.name: path.read_text("utf-8") for path in (worker, host)}
    secrets = [CANARY, *(support.password(role) for role in support.ROLES)]
    shown = [(what, secret) for what, text in said.items() for secret in secrets if secret in text]
    assert [] == shown
    assert "worker starts" in said[worker.name]
    assert not [name for name, text in said.items() if "NATS does not allow" in text]


@pytest.mark.slow
def test_reader_cannot_apply(person: Person) -> None:
    """A reader who wants to write is told that it is not allowed, not only that nobody answers."""
    ended = person("apply", "-f", "-", stdin=manifest("mine"))
    assert 3 == ended.code
    assert "NATS does not allow this" in ended.err
    assert CANARY not in ended.err
    assert "mine" not in person("get", "daemonsets").out


@pytest.mark.parametrize(
    ("good", "wrong"),
    [
        (f"value: {CANARY}", f"value: [{CANARY}]"),
        (f"value: {CANARY}", f"value: {CANARY}\n     {CANARY}: ["),
        (f"value: {CANARY}", f"valueFrom: {CANARY}"),
        ("selector: {matchLabels", "selector: {matchLabel"),
        ("containers:", "containers: {}\n      nodeSelector: [1]\n      other:"),
    ],
)
def test_refused_manifest(person: Person, good: str, wrong: str) -> None:
    """What is said about a wrong manifest does not show the values of its template's environment."""
    text = manifest("odd")
    assert good in text
    ended = person("apply", "-f", "-", "--dry-run", stdin=text.replace(good, wrong))
    assert CANARY not in ended.out + ended.err


def test_open_context(person: Person) -> None:
    """A context that everybody on this machine can read is warned of; and it is used all the same."""
    path = person.contexts / "open.json"
    fields: dict[str, Any] = json.loads((person.contexts / "reader.json").read_text("utf-8"))
    path.write_text(json.dumps(fields), encoding="utf-8")
    for mode, warned in ((0o600, False), (0o644, True)):
        path.chmod(mode)
        ended = person("get", "daemonsets", "--nats-context", "open")
        assert 0 == ended.code
        assert warned == (f"{path}" in ended.err)


@pytest.mark.parametrize("name", ["absent", "../context/reader", "worker"])
def test_wrong_context(person: Person, name: str) -> None:
    """A context that there is not is a wrong usage's error, in a line; and a worker may not make fleets."""
    ended = person("fleet", "create", "other", "--nats-context", name)
    assert ended.code in {1, 3}
    assert "Traceback" not in ended.err
    assert "error: " in ended.err
