"""What closing the connection to an API server leaves behind: nothing, whatever was under way."""

from __future__ import annotations

import asyncio

import pytest
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_proxy import TcpProxy

from everynode_kubernetes.client import Access, ApiServer

HELD_POLL_S = 0.005


async def until_held(proxy: TcpProxy) -> None:
    """Wait until the proxy holds something back."""
    while not proxy.held_count:  # noqa: ASYNC110 - the proxy sets no event
        await asyncio.sleep(HELD_POLL_S)


@pytest.mark.parametrize("is_read_first", [True, False])
async def test_given_up_in_the_middle(control_plane: ControlPlane, *, is_read_first: bool) -> None:
    """A request is given up, in the handshake or while its answer is awaited, and the server says no farewell."""
    async with TcpProxy(control_plane.server_url) as proxy:
        kubeconfig = control_plane.kubeconfig_for("admin", ["system:masters"], server=proxy.url)
        api = await ApiServer.connect(Access(kubeconfig=kubeconfig))
        if is_read_first:
            await api.get("/api")
        proxy.fall_silent()
        request = asyncio.create_task(api.get("/api"))
        await until_held(proxy)

        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        sockets = list(api._session.connections._sockets)
        await api.close()

        assert request.cancelled()
        assert [-1] == [one.fileno() for one in sockets]
