"""Three nats-servers as one cluster, each a process with a store of its own, and a proxy on every link between them.

Used by ``support_rig``. A server can be killed, stopped and started, cut off from its peers, have its disk filled and
its store put back to an older copy. It knows nothing of fleets.

Each store is a small tmpfs if mounting is allowed here (``python -m tests.chaos.run`` gives itself a mount namespace of
its own, in which these vanish with the last process), else a plain directory, and then no disk is filled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from tests.chaos.support_process import KeptProcess
from tests.kubernetes.support_processes import free_port
from tests.kubernetes.support_proxy import TcpProxy

from everynode.errors import UnavailableError
from everynode.runtime.embedded import server_binary
from everynode.runtime.link import Link
from everynode.runtime.settings import Connection

SERVERS = 3
READY_SECONDS_MAX = 20
POLL_SECONDS = 0.05
STORE_BYTES = 512 * 1024**2
STORE_SHARE_OF_JETSTREAM = 0.9
FILL_CHUNK_BYTES = 1024**2
COPIES_KEPT_MAX = 2


class Server:
    """One server of the cluster.

    Args:
        name: Its name.
        directory: Where its store, configuration and log are.
    """

    def __init__(self, name: str, directory: Path) -> None:
        """Choose ports; start nothing yet."""
        self.name = name
        self.port = free_port()
        self.route_port = free_port()
        self.links: list[TcpProxy] = []
        """Proxies on the links to and from its peers."""
        self.has_own_disk = False
        self._directory = directory
        self._process: KeptProcess | None = None

    @property
    def url(self) -> str:
        """Where clients reach it, past every proxy."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        """Where its data are."""
        return self._directory / "store"

    @property
    def _filler(self) -> Path:
        return self.store / "filler"

    @property
    def _config(self) -> Path:
        return self._directory / "nats-server.conf"

    @property
    def process(self) -> KeptProcess:
        """Its process."""
        if self._process is None:
            raise RuntimeError(f"server {self.name} was never started")
        return self._process

    def prepare(self, routes: list[str], *, own_disk: bool) -> None:
        """Write its configuration, and give it a disk."""
        self.store.mkdir(parents=True)
        if own_disk:
            options = f"size={STORE_BYTES},mode=0700"
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "everynode-chaos", self.store], check=True
            )
            self.has_own_disk = True
        cluster = ""
        if routes:
            cluster = (
                # One connection for each pair, over its proxy: peers must not tell each other of other ways.
                f"cluster {{ name: chaos, listen: 127.0.0.1:{self.route_port}, pool_size: -1\n"
                f"  no_advertise: true, cluster_advertise: '127.0.0.1:{free_port()}'\n"
                f"  routes: [{', '.join(routes)}] }}\n"
            )
        self._config.write_text(
            f"server_name: {self.name}\nhost: 127.0.0.1\nport: {self.port}\n"
            f"jetstream {{ store_dir: '{self.store / 'jetstream'}'\n"
            f"  max_file_store: {int(STORE_BYTES * STORE_SHARE_OF_JETSTREAM)} }}\n"
            "accounts {\n"
            "  FLEET { jetstream: enabled, users: [{ user: fleet, password: fleet }] }\n"
            "  SYS { users: [{ user: sys, password: sys }] }\n"
            "}\n"
            "no_auth_user: fleet\nsystem_account: SYS\n"
            f"{cluster}",
            encoding="utf-8",
        )
        command = [str(server_binary()), "-c", str(self._config)]
        self._process = KeptProcess(self.name, command, log=self._directory / "nats-server.log")

    # --- its store --------------------------------------------------------------------------------------------------

    def fill_disk(self) -> None:
        """Leave no byte on its disk."""
        chunk = bytes(FILL_CHUNK_BYTES)
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            while True:
                filler.write(chunk)

    def free_disk(self) -> None:
        """Give back what ``fill_disk`` took."""
        self._filler.unlink(missing_ok=True)

    def copy_store(self, number: int) -> Path:
        """Copy its store while it does not run; old copies go."""
        copies = self._directory / "copies"
        copies.mkdir(exist_ok=True)
        copy = copies / f"{number:04}"
        shutil.copytree(self.store / "jetstream", copy)
        for old in sorted(copies.iterdir())[:-COPIES_KEPT_MAX]:
            shutil.rmtree(old)
        return copy

    def restore_store(self, copy: Path) -> None:
        """Put a copy in the place of its store while it does not run."""
        shutil.rmtree(self.store / "jetstream", ignore_errors=True)
        shutil.copytree(copy, self.store / "jetstream")

    def close(self) -> None:
        """Give the disk back."""
        if self.has_own_disk:
            subprocess.run(["umount", "--lazy", self.store], check=False)


class Cluster:
    """Servers that know each other; an async context manager.

    Args:
        directory: Where everything is.
        size: How many servers; 1 has no cluster and no replicas.
    """

    def __init__(self, directory: Path, size: int = SERVERS) -> None:
        """Start nothing yet."""
        self.servers = [
            Server(f"server-{number}", directory / f"server-{number}") for number in range(size)
        ]
        self._proxies: list[TcpProxy] = []

    @property
    def connection(self) -> Connection:
        """How to reach all servers, past every proxy."""
        return Connection(servers=tuple(server.url for server in self.servers))

    async def __aenter__(self) -> Self:
        """Start all servers and wait until the cluster works.

        Raises:
            UnavailableError: It did not in time.
        """
        try:
            own_disks = mounting_is_allowed()
            for server in self.servers:
                routes = [await self._link(server, peer) for peer in self._peers(server)]
                server.prepare(routes, own_disk=own_disks)
            for server in self.servers:
                server.process.start()
            await self.wait_ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill all servers."""
        await self.close()

    async def close(self) -> None:
        """Kill all servers, close the proxies, give the disks back."""
        for server in self.servers:
            with contextlib.suppress(RuntimeError):
                server.process.kill()
            server.close()
        for proxy in self._proxies:
            proxy.refuse()
            await proxy.cut()

    def _peers(self, server: Server) -> list[Server]:
        return [peer for peer in self.servers if peer is not server]

    async def _link(self, server: Server, peer: Server) -> str:
        proxy = TcpProxy(f"nats://127.0.0.1:{peer.route_port}")
        await proxy.accept()
        self._proxies.append(proxy)
        server.links.append(proxy)
        peer.links.append(proxy)
        return f"nats-route://127.0.0.1:{proxy.port}"

    async def wait_ready(self) -> None:
        """Wait until JetStream answers for the whole cluster.

        Raises:
            UnavailableError: It did not in time.
        """
        said = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS_MAX):
                while True:
                    said = await self._not_ready()
                    if not said:
                        return
                    await asyncio.sleep(POLL_SECONDS)
        tails = "\n".join(f"{server.name}: {server.process.tail()}" for server in self.servers)
        raise UnavailableError(f"the cluster is not ready: {said}\n{tails}")

    async def _not_ready(self) -> str:
        """Say why a server is not ready; empty if all are."""
        for server in self.servers:
            try:
                link = await Link.open(Connection(servers=(server.url,)))
            except UnavailableError as error:
                return str(error)
            try:
                await link.call("INFO", timeout_ms=1_000)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not ready
                return f"{server.name}: {error}"
            finally:
                await link.close()
        return ""


def mounting_is_allowed() -> bool:
    """Say whether this process may mount a tmpfs, in a namespace of its own: what is mounted here goes with it."""
    own = os.environ.get(OWN_NAMESPACE)
    return own is not None and os.geteuid() == 0 and shutil.which("mount") is not None


OWN_NAMESPACE = "EVERYNODE_CHAOS_NAMESPACE"
"""Set by the run once it is in a mount namespace of its own."""
