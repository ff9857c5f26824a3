"""Faults between the adapter and the cluster, and of the cluster itself, on a real control plane.

Each test takes part in `Trial.undergo`: a set is applied and rolled out anew while nodes come and go, with a fault in
the middle of both, and what must hold in the end is always the same. The adapter runs in this process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_faults import BEGUN_S_MAX, IMAGES, SET, Trial
from tests.kubernetes.support_fleet import until_covered
from tests.kubernetes.support_history import STORES_JSON
from tests.kubernetes.support_programs import Programs
from tests.kubernetes.support_proxy import TcpProxy
from tests.kubernetes.support_storm import Received, StormProxy

from everynode import wire
from everynode.core.events import NodeGone, PodGone
from everynode.runtime.observing import NOT_LISTED

MASTERS = ("system:masters",)
SOON = {"request_timeout_ms": 2_000, "connect_timeout_ms": 2_000}
"""How patient an adapter is that is cut off."""

CUTS = 12
REFUSED_EVERY = 3

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(
    programs: Programs,  # noqa: ARG001 - skips
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ControlPlane]:
    """A control plane for all tests here, one after the other; each leaves it running, without nodes."""
    directory = tmp_path_factory.mktemp("faults")
    async with ControlPlane.start(directory, apiserver_args=STORES_JSON) as started:
        yield started


# --- the cluster's own servers --------------------------------------------------------------------


async def test_the_api_server_is_killed(plane: ControlPlane) -> None:
    """L1, S1: the API server dies and comes back in the middle of making pods, and of replacing them."""
    async with Trial.start(plane, adapters=1) as trial:

        async def fault() -> None:
            await plane.stop_api_server(kill=True)
            await plane.start_api_server()

        await trial.undergo(fault)
        assert trial.fleet.hosts[0].counts.retried


async def test_etcd_is_killed(plane: ControlPlane) -> None:
    """L1, S1: etcd dies and comes back; meanwhile the API server answers with errors that may mean anything."""
    async with Trial.start(plane, adapters=1) as trial:
        await trial.undergo(plane.restart_etcd)


# --- the way to the cluster -----------------------------------------------------------------------


async def test_connections_are_cut(plane: ControlPlane) -> None:
    """L1, S1: connections end at random moments, in the middle of anything, and at times none is to be had."""
    async with TcpProxy(plane.server_url) as proxy, Trial.start(plane) as trial:
        await trial.fleet.add_adapter(plane.kubeconfig_for("cut", MASTERS, server=proxy.url))
        cuts = 0

        async def fault() -> None:
            nonlocal cuts
            for number in range(CUTS):
                await trial.pause(0.05, 0.4)
                if number % REFUSED_EVERY == 0:
                    proxy.refuse()
                    cuts += await proxy.cut() > 0
                    await trial.pause(0.1, 0.8)
                    await proxy.accept()
                else:
                    cuts += await proxy.cut() > 0

        await trial.undergo(fault)
        assert cuts >= CUTS  # of twice as many; now and then there was nothing to cut


async def test_connections_fall_silent(plane: ControlPlane) -> None:
    """L1: connections that carry nothing more and never end, watches among them, are noticed and given up."""
    async with TcpProxy(plane.server_url) as proxy, Trial.start(plane) as trial:
        kubeconfig = plane.kubeconfig_for("silent", MASTERS, server=proxy.url)
        host = await trial.fleet.add_adapter(kubeconfig, watch_silence_ms=2_000, **SOON)

        async def fault() -> None:
            before = proxy.accepted_count
            proxy.abandon()
            # The four watches are taken up again, at the least.
            await trial.until(lambda: proxy.accepted_count >= before + 4, BEGUN_S_MAX)

        await trial.undergo(fault)
        assert 0 == host.counts.observe_failures


async def test_the_past_is_gone_when_the_adapter_is_back(plane: ControlPlane) -> None:
    """L1: cut off while much happens and etcd is compacted, the adapter lists again and tells the difference."""
    async with TcpProxy(plane.server_url) as proxy, Trial.start(plane) as trial:
        kubeconfig = plane.kubeconfig_for("away", MASTERS, server=proxy.url)
        host = await trial.fleet.add_adapter(kubeconfig, **SOON)
        await trial.apply(IMAGES[0])
        await until_covered(plane, trial.namespace, SET, await trial.churn.nodes())
        await trial.apply(IMAGES[1])
        await trial.until(lambda: bool(trial.history.live(IMAGES[1])), BEGUN_S_MAX)

        proxy.fall_silent()
        await proxy.cut()  # what is held back would come in the end: it is to be lost
        removed = trial.random.sample(sorted(await trial.churn.nodes()), 4)
        await trial.churn.remove_nodes(*removed)
        await trial.churn.make_again(removed[0])
        await trial.churn.add_nodes(3)
        for pod in trial.random.sample(trial.history.live(), 4):
            await trial.churn.delete_pod(pod.name)
        await trial.apply(IMAGES[0])
        await plane.compact_etcd()
        await plane.stop_api_server()
        await plane.start_api_server()
        proxy.speak()

        await trial.judge(IMAGES[0])
        listed_gone = [
            each.name
            for each in await happened(trial)
            if isinstance(each, NodeGone | PodGone) and each.why == NOT_LISTED
        ]
        assert set(removed[1:]) <= set(listed_gone)
        assert 0 == host.counts.observe_failures  # the adapter itself knew what to do


async def happened(trial: Trial) -> list[wire.AnyMessage]:
    """Everything that the adapter told of nodes and pods."""
    subjects = trial.fleet.bus.subjects
    told: list[wire.AnyMessage] = []
    kinds = [subjects.of_kind("node"), subjects.of_kind("pod")]
    async for chunk in trial.fleet.bus.read_log(kinds, 1):
        told += [wire.decode_from(subjects, each.subject, each.payload) for each in chunk]
    return told


# --- an API server that has too much to do --------------------------------------------------------


async def test_a_storm(plane: ControlPlane) -> None:
    """L1, S5: 429 is obeyed, 503 waited out, and what was done without an answer is not done twice."""
    async with StormProxy(plane) as storm, Trial.start(plane) as trial:
        token = await plane.token_for("default", trial.namespace)
        await plane.kubectl(
            *("create", "clusterrolebinding", trial.namespace, "--clusterrole=cluster-admin"),
            f"--serviceaccount={trial.namespace}:default",
        )
        kubeconfig = plane.kubeconfig_for("", server=storm.url, token=token)
        host = await trial.fleet.add_adapter(kubeconfig, **SOON)
        writes = ("POST", "DELETE")

        async def fault() -> None:
            before = len(storm.received)

            def fates() -> Counter[str]:
                return Counter(request.fate for request in storm.received[before:])

            storm.lose_answers(methods=writes, path_part="/pods", count=4)
            storm.refuse(429, methods=writes, path_part="/pods", count=8)
            storm.refuse(503, retry_after_seconds=None, path_part="/apis/", count=3)
            await trial.until(
                lambda: fates()["lost"] >= 4 and fates()["refused"] >= 11, BEGUN_S_MAX
            )
            storm.calm()

        await trial.undergo(fault)
        assert host.counts.retried
        assert [] == too_soon(storm.received)


def too_soon(received: Sequence[Received]) -> list[str]:
    """Deletions that were asked for again before the second was over that the server had asked to wait."""
    refused: dict[str, int] = {}
    found = []
    for request in received:
        if request.method != "DELETE":
            continue
        since_ms = request.at_ms - refused.pop(request.path, 0)
        if since_ms < 1_000:
            found.append(f"{request.path} after {since_ms} ms")
        if request.fate == "refused" and "/pods/" in request.path:
            refused[request.path] = request.at_ms
    return found
