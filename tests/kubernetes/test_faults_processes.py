"""Faults of everynode's own processes, on a real control plane: killed, stopped, and two where there should be one.

Each test takes part in `Trial.undergo`, as those of test_faults do. Here the adapter, and where it matters the worker,
are processes, so that a signal meets them wherever they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_faults import Trial
from tests.kubernetes.support_fleet import BACKEND, POLL_S
from tests.kubernetes.support_history import STORES_JSON
from tests.kubernetes.support_kept_process import KeptProcess
from tests.kubernetes.support_programs import Programs
from tests.kubernetes.support_proxy import TcpProxy

from everynode.core.commands import Command, CreatePod

pytestmark = pytest.mark.slow

KILLS = 5
WORK_S_MAX = 4.0
TAKE_OVER_S_MAX = 30.0
SETTLED_S = 0.2
HANDED_OUT_AGAIN_S_MAX = 60.0
"""A stopped adapter is still handed commands until what it asked for expires (30 s); then the log waits for 10 s."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(
    programs: Programs,  # noqa: ARG001 - skips
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ControlPlane]:
    """A control plane for all tests here, one after the other; each leaves it running, without nodes."""
    directory = tmp_path_factory.mktemp("faults-processes")
    async with ControlPlane.start(directory, apiserver_args=STORES_JSON) as started:
        yield started


def adapter_of(trial: Trial, url: str | None = None, *options: str) -> KeptProcess:
    """One more adapter of the trial's cluster; with a URL, it goes another way to it."""
    kubeconfig = trial.plane.kubeconfig_for("adapter", ["system:masters"], server=url)
    return KeptProcess(
        trial.fleet,
        *("adapter", "kubernetes", "--kubeconfig", str(kubeconfig)),
        *("--backend", BACKEND, "--force", *options),
    )


async def until_it_works(trial: Trial, seconds_max: float) -> bool:
    """Wait until some adapter has made a pod from now on; whether one did."""
    before = len(trial.history.made)
    try:
        await trial.until(lambda: len(trial.history.made) > before, seconds_max)
    except TimeoutError:
        return False
    return True


async def test_the_adapter_is_killed_again_and_again(plane: ControlPlane) -> None:
    """L1, S1, S4, S5: an adapter that dies whenever it has begun to work loses nothing and doubles nothing."""
    async with Trial.start(plane) as trial, adapter_of(trial).kept() as adapter:
        at_work = 0

        async def fault() -> None:
            nonlocal at_work
            for _ in range(KILLS):
                at_work += await until_it_works(trial, WORK_S_MAX)
                await trial.pause(0.0, 0.3)
                adapter.kill()

        await trial.undergo(fault)
        assert at_work >= KILLS
        assert adapter.starts >= 2 * KILLS


async def test_worker_and_adapter_are_killed(plane: ControlPlane) -> None:
    """L1, S1, S4: both die in the middle of their work, in any order, with a second worker beside them."""
    async with (
        Trial.start(plane, workers=0) as trial,
        adapter_of(trial).kept() as adapter,
        KeptProcess(trial.fleet, "worker", "--name", "one").kept() as one,
        KeptProcess(trial.fleet, "worker", "--name", "two").kept() as two,
    ):

        async def fault() -> None:
            for victim in trial.random.sample((adapter, one, two), 3):
                await until_it_works(trial, WORK_S_MAX)
                await trial.pause(0.0, 0.3)
                victim.kill()

        await trial.undergo(fault)


async def test_two_adapters_at_once(plane: ControlPlane) -> None:
    """L1, S1, S5: an adapter that stands still is replaced, and does no harm when it goes on with what it knew then."""
    async with (
        TcpProxy(plane.server_url) as proxy,
        Trial.start(plane) as trial,
        adapter_of(trial, proxy.url, "--max-in-flight", "4").kept() as first,
    ):
        proxy.delay_ms = 50  # so that it has much in hand at any moment

        async def nothing() -> None:
            pass

        async def fault() -> None:
            async with adapter_of(trial).kept():
                in_hand = await stop_with_commands_in_hand(trial, first)
                await until_settled(trial, in_hand)
                await replace_pods(trial, [each.pod for each in in_hand])
                first.go_on()
                await trial.pause(1.0, 2.0)

        await trial.undergo(nothing, while_rolling=fault)


async def stop_with_commands_in_hand(trial: Trial, adapter: KeptProcess) -> list[Command]:
    """Stop an adapter while it makes pods, and say which it has not answered for; the log hands those out again."""
    async with asyncio.timeout(TAKE_OVER_S_MAX):
        while True:
            adapter.stop()
            await asyncio.sleep(SETTLED_S)  # what it wrote before is on the log by now
            told = await trial.told()
            in_hand: list[Command] = [
                each for each in told.unsettled if isinstance(each, CreatePod)
            ]
            if in_hand:
                return in_hand
            adapter.go_on()
            await trial.pause(0.05, 0.2)


async def until_settled(trial: Trial, commands: Sequence[Command]) -> None:
    """Wait until somebody has answered for all of these commands."""
    ids = {each.id for each in commands}
    async with asyncio.timeout(HANDED_OUT_AGAIN_S_MAX):
        while not ids <= (await trial.told()).outcomes.keys():  # noqa: ASYNC110 - the log is read anew each time
            await asyncio.sleep(POLL_S)


async def replace_pods(trial: Trial, names: Sequence[str]) -> None:
    """Delete pods as people do, and wait until others stand in their places."""
    pods = [trial.history.pods[name] for name in names if name in trial.history.pods]
    for pod in pods:
        await trial.churn.delete_pod(pod.name)
    nodes = await trial.churn.nodes()
    places = {pod.node for pod in pods if nodes.get(pod.node)} - trial.churn.removed_nodes
    gone = {pod.uid for pod in pods}

    def replaced() -> bool:
        live = trial.history.live()
        return places <= {pod.node for pod in live} and not gone & {pod.uid for pod in live}

    async with trial.churn.kubelets_awake():  # or one that kwok has failed to end stays for good
        await trial.until(replaced, TAKE_OVER_S_MAX)
