"""`everynode adapter kubernetes` and `everynode doctor kubernetes` as people start them: as processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.kubernetes.conftest import StartControlPlane
from tests.kubernetes.support_api import Json
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_fleet import (
    BACKEND,
    DEADLINE_S,
    POLL_S,
    Fleet,
    daemonset_manifest,
    running_fleet,
    until_covered,
)

from everynode.runtime.embedded import EmbeddedServer

MANIFESTS = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
COMMAND_SECONDS_MAX = 60
PROGRAM = (sys.executable, "-c", "from everynode.cli import main; main()")
NO_LIBRARY = "raise ModuleNotFoundError(\"No module named 'kubernetes_asyncio'\")\n"


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


async def everynode(*args: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("EVERYNODE_")}
    ended = await asyncio.to_thread(
        subprocess.run,
        [*PROGRAM, *args],
        capture_output=True,
        text=True,
        env={**kept, **(environment or {})},
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def on(fleet: Fleet, *words: str) -> tuple[str, ...]:
    """The words of a command about the fleet's cluster."""
    return (
        *words,
        *("--kubeconfig", str(fleet.plane.kubeconfig), "--backend", BACKEND),
        *("--fleet", fleet.name, "--nats", fleet.server.url),
    )


@pytest.mark.slow
async def test_the_command_covers_a_cluster(control_plane: ControlPlane, namespace: str) -> None:
    """L1: the command takes care of a cluster; the doctor does not take it for another owner; SIGTERM ends it well."""
    async with (
        control_plane.own_nodes(3) as nodes,
        running_fleet(control_plane, adapters=0) as fleet,
        fleet.process(
            *("adapter", "kubernetes", "--kubeconfig", str(control_plane.kubeconfig)),
            *("--backend", BACKEND, "--max-in-flight", "8", "--qps", "500", "-n", namespace),
        ) as process,
    ):
        manifest = daemonset_manifest("agent", namespace, node_selector=dict(nodes.selector))
        await control_plane.kubectl("apply", "-f", "-", stdin=manifest)
        await until_covered(control_plane, namespace, "agent", nodes.names)

        examined = await everynode(*on(fleet, "doctor", "kubernetes", "-o", "json"))
        process.terminate()
        assert await process.wait() == 0
    log = max(control_plane.logs.glob("everynode-*.log"), key=lambda path: path.stat().st_mtime_ns)

    written = log.read_text(encoding="utf-8")
    assert "adapter stops" in written
    assert "Unclosed" not in written  # it is closed in order
    found = json.loads(examined.out)
    assert (0, "") == (examined.code, examined.err)
    assert ("kubernetes", BACKEND) == (found["adapter"], found["backend"])
    assert {"ok"} == {finding["result"] for finding in found["findings"]}, found
    cluster = next(one for one in found["findings"] if one["check"] == "cluster")
    assert f"the fleet's backend {BACKEND}" in cluster["detail"]


@pytest.mark.slow
async def test_the_manifests(start_control_plane: StartControlPlane) -> None:
    """The manifests are taken without a warning, their pods are admitted as restricted, their commands are ours."""
    async with start_control_plane(kwok=False) as plane:
        for name in ("rbac", "worker", "adapter"):
            applied = await plane.kubectl("apply", "-f", str(MANIFESTS / f"{name}.yaml"))
            assert "Warning" not in applied
        async with plane.api() as api, asyncio.timeout(DEADLINE_S):
            pods: list[Json] = []
            while len(pods) < 4:  # as many as both Deployments ask for
                pods = (await api.get("/api/v1/namespaces/everynode/pods"))["items"]
                await asyncio.sleep(POLL_S)

    commands = {tuple(pod["spec"]["containers"][0]["command"]) for pod in pods}
    assert {"adapter", "worker"} == {command[1] for command in commands}
    for program, *words in commands:
        assert "everynode" == program
        assert 0 == (await everynode(*words, "--help")).code
    assert 2 == (await everynode("worker", "--in-cluster", "--help")).code


@pytest.mark.slow
async def test_another_owner(control_plane: ControlPlane) -> None:
    """Where the built-in controller runs, the command ends with 1 and names the way out; so does the doctor."""
    control_plane.start_controller("daemonset")
    try:
        async with running_fleet(control_plane, workers=0, adapters=0) as fleet:
            refused = await everynode(*on(fleet, "adapter", "kubernetes"))
            examined = await everynode(*on(fleet, "doctor", "kubernetes"))
            async with fleet.process(
                *("adapter", "kubernetes", "--kubeconfig", str(control_plane.kubeconfig)),
                *("--backend", BACKEND, "--force"),
            ) as forced:
                while BACKEND not in (await fleet.bus.describe()).backends:
                    assert forced.returncode is None
                    await asyncio.sleep(0.1)
    finally:
        await control_plane.stop_controller("daemonset")

    assert (1, "") == (refused.code, refused.out)
    (error,) = refused.err.splitlines()
    assert "--force" in error
    assert 1 == examined.code
    header, *rows = examined.out.splitlines()
    assert ["CHECK", "RESULT", "DETAIL"] == header.split()
    (failed,) = [row for row in rows if " failed " in row]
    assert failed.startswith("other owner ")
    assert "\x1b" not in examined.out


async def test_without_the_library(tmp_path: Path) -> None:
    """Where what the adapter needs is not installed, the error says what installs it, and no traceback is shown."""
    (tmp_path / "kubernetes_asyncio.py").write_text(NO_LIBRARY, encoding="utf-8")
    environment = {"PYTHONPATH": str(tmp_path)}
    async with EmbeddedServer(None, 0) as server:
        created = await everynode(
            "fleet", "create", "a", "--nats", server.url, "--max-bytes", "9MiB"
        )
        assert 0 == created.code, created.err
        for words in (
            ("adapter", "kubernetes"),
            ("adapter", "run", "kubernetes"),
            ("doctor", "kubernetes"),
        ):
            ended = await everynode(
                *words, "--fleet", "a", "--nats", server.url, environment=environment
            )
            assert (1, "") == (ended.code, ended.out)
            (error,) = ended.err.splitlines()
            assert "No module named 'kubernetes_asyncio'" in error
            assert error.endswith("pip install 'everynode[kubernetes]'")


async def test_usage(tmp_path: Path) -> None:
    """Wrong usage is code 2 and names the option; a kubeconfig that says nothing is a finding, without a server."""
    for words in (
        ("--max-in-flight", "0"),
        ("--qps", "-1"),
        ("--kubeconfig", str(tmp_path / "no")),
    ):
        ended = await everynode("adapter", "kubernetes", *words)
        assert 2 == ended.code
        assert words[0] in ended.err

    empty = tmp_path / "empty"
    empty.write_text("{}", encoding="utf-8")
    nats = ("--nats", "nats://127.0.0.1:1")
    ended = await everynode("doctor", "kubernetes", "--kubeconfig", str(empty), "-o", "yaml", *nats)
    assert 1 == ended.code
    assert "result: failed" in ended.out
    assert "is not asked" in ended.err
    unknown = await everynode("doctor", "run", "nope", *nats)
    assert (1, "error: doctor 'nope' is not installed; there are: kubernetes\n") == (
        unknown.code,
        unknown.err,
    )
