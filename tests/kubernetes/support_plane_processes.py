"""The processes of a control plane: etcd, API server, controllers, scheduler, and kwok in the place of kubelets.

Each can be stopped and started alone. support_control_plane adds what tests do with them. All of it is real but the
kubelets; everything listens on 127.0.0.1, with certificates that are made for the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp
from tests.kubernetes.support_api import Api, ApiError, Authority, Identity, Json
from tests.kubernetes.support_processes import Running, free_port
from tests.kubernetes.support_programs import Programs

READY_SECONDS_MAX = 60
POLL_SECONDS = 0.05
STAGES = Path(__file__).parent / "control_plane" / "stages.yaml"

NODE_LEASE_SECONDS = 160
"""kwok renews a node's lease after a quarter of it; long, because this machine is small."""
NODE_GRACE_SECONDS = 600
"""How long a node may be silent: a test that pauses the API server or kwok must not lose its nodes."""

LIMITS_LIFTED = ("--kube-api-qps=5000", "--kube-api-burst=10000")
ON_THIS_HOST_ALONE = ("--leader-elect=false", "--secure-port=0")


class PlaneProcesses:
    """The processes of one control plane, and its keys.

    Args:
        programs: What it is made of.
        directory: Where its data, keys and logs are; it must not exist yet.
        apiserver_args: More arguments for the API server; the last one of its kind counts.
    """

    def __init__(
        self, programs: Programs, directory: Path, *, apiserver_args: Sequence[str] = ()
    ) -> None:
        """Make the keys; start nothing yet."""
        self.programs = programs
        self.directory = directory
        self.logs = directory / "logs"
        for made in (self.logs, directory / "kubeconfigs", directory / "home"):
            made.mkdir(parents=True)
        self.authority = Authority(programs.certificates, directory / "tls")
        self.server_url = f"https://127.0.0.1:{free_port()}"
        self.etcd_url = f"http://127.0.0.1:{free_port()}"
        self._etcd_peer_url = f"http://127.0.0.1:{free_port()}"
        self._serving = self.authority.server("kube-apiserver")
        self._apiserver_args = tuple(apiserver_args)
        self._running: dict[str, Running] = {}
        self.admin = self.authority.client(self.server_url, "admin", ["system:masters"])
        self.kubeconfig = self.admin.write_kubeconfig(directory / "kubeconfigs" / "admin")

    def api(self, identity: Identity | None = None) -> Api:
        """Raw requests as the administrator, or as somebody else: `async with plane.api() as api`."""
        return Api(identity or self.admin)

    # --- starting and stopping -------------------------------------------------------------------

    async def stop(self) -> None:
        """End every process, clients before servers; nothing is kept that would be worth a slow end."""
        for name in reversed(list(self._running)):
            self._running.pop(name).kill()
        # pytest keeps the rest for a while, and this is large.
        shutil.rmtree(self.directory / "etcd", ignore_errors=True)

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run, by name: etcd, kube-apiserver, kwok, daemonset-controller, ..."""
        return {name: running.pid for name, running in self._running.items()}

    def log(self, name: str) -> str:
        """What a process has written so far."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    async def start_etcd(self) -> None:
        """Start etcd, with the data that it has, and wait until it answers."""
        self._run(
            "etcd",
            self.programs.etcd,
            "--name=test",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={self.etcd_url}",
            f"--advertise-client-urls={self.etcd_url}",
            f"--listen-peer-urls={self._etcd_peer_url}",
            f"--initial-advertise-peer-urls={self._etcd_peer_url}",
            f"--initial-cluster=test={self._etcd_peer_url}",
            "--unsafe-no-fsync",  # nobody cuts the power of a test
            "--log-level=warn",
        )
        await self._until("etcd answers", self._etcd_answers, needs="etcd")

    async def restart_etcd(self) -> None:
        """Kill etcd and start it again, with its data."""
        await self._end("etcd", kill=True)
        await self.start_etcd()

    async def start_api_server(self) -> None:
        """Start the API server at the address that it always has, and wait until it is ready."""
        certificate, key = self._serving
        self._run(
            "kube-apiserver",
            self.programs.api_server,
            f"--etcd-servers={self.etcd_url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.server_url.rpartition(':')[2]}",
            "--endpoint-reconciler-type=none",  # no endpoint may be a loopback address
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.authority.service_accounts_key}",
            f"--service-account-signing-key-file={self.authority.service_accounts_key}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--allow-privileged=true",
            *self._apiserver_args,
        )
        await self._until("the API server is ready", self._api_is_ready, needs="kube-apiserver")

    async def stop_api_server(self, *, kill: bool = True) -> None:
        """Stop the API server, at once or in order."""
        await self._end("kube-apiserver", kill=kill)

    def start_controllers(self) -> None:
        """Start all of Kubernetes' controllers but that of DaemonSets."""
        self._run(
            "kube-controller-manager",
            self.programs.controller_manager,
            f"--kubeconfig={self.kubeconfig}",
            "--controllers=*,-daemonset-controller",
            f"--service-account-private-key-file={self.authority.service_accounts_key}",
            f"--root-ca-file={self.authority.certificate}",
            f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
            "--node-monitor-period=1s",  # so soon is a node tainted that is not ready
            "--node-eviction-rate=1000",
            *ON_THIS_HOST_ALONE,
            *LIMITS_LIFTED,
        )

    def start_controller(self, name: str, *, limits_lifted: bool = True) -> None:
        """Start one built-in controller, such as `daemonset`, as the process `daemonset-controller`.

        Args:
            name: Its name without `-controller`.
            limits_lifted: Whether it may send as many requests as it likes; otherwise 20 a second, the default.
        """
        self._run(
            f"{name}-controller",
            self.programs.controller_manager,
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={name}-controller",
            *ON_THIS_HOST_ALONE,
            *(LIMITS_LIFTED if limits_lifted else ()),
        )

    async def stop_controller(self, name: str, *, kill: bool = True) -> None:
        """Stop a controller that `start_controller` started."""
        await self._end(f"{name}-controller", kill=kill)

    def start_scheduler(self) -> None:
        """Start the default scheduler."""
        self._run(
            "kube-scheduler",
            self.programs.scheduler,
            f"--kubeconfig={self.kubeconfig}",
            *ON_THIS_HOST_ALONE,
            *LIMITS_LIFTED,
        )

    def start_kwok(self) -> None:
        """Start what stands for the kubelets of all nodes; stages.yaml says what they do."""
        self._run(
            "kwok",
            self.programs.kwok,
            f"--kubeconfig={self.kubeconfig}",
            f"--config={STAGES}",
            "--manage-all-nodes",
            f"--node-lease-duration-seconds={NODE_LEASE_SECONDS}",
        )

    async def stop_kwok(self, *, kill: bool = True) -> None:
        """From now on no kubelet answers."""
        await self._end("kwok", kill=kill)

    def _run(self, name: str, program: Path, *args: str) -> None:
        if name in self._running:
            raise RuntimeError(f"{name} runs already")
        log = self.logs / f"{name}.log"
        self._running[name] = Running(name, [program, *args], log=log, cwd=self.directory)

    async def _end(self, name: str, *, kill: bool) -> None:
        running = self._running.pop(name)
        if kill:
            running.kill()
        else:
            await running.stop()

    # --- etcd ------------------------------------------------------------------------------------

    async def compact_etcd(self) -> int:
        """Compact etcd up to now, and return that revision: what is older can be asked for no more."""
        status = await self._etcd("/v3/maintenance/status", {})
        revision = int(status["header"]["revision"])
        await self._etcd("/v3/kv/compaction", {"revision": revision, "physical": True})
        return revision

    async def _etcd(self, path: str, body: Json) -> Json:
        """Ask etcd through its HTTP gateway."""
        async with (
            aiohttp.ClientSession(self.etcd_url) as session,
            session.post(path, json=body, raise_for_status=True) as answer,
        ):
            decoded: Json = await answer.json()
            return decoded

    # --- waiting ---------------------------------------------------------------------------------

    async def _until(
        self, what: str, condition: Callable[[], Awaitable[bool]], *, needs: str | None = None
    ) -> None:
        """Ask until it is true.

        Raises:
            TimeoutError: It did not become true; the message names what.
            ProcessError: The process that is needed has ended.
        """
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                while not await condition():
                    if needs is not None:
                        self._running[needs].check()
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"not within {READY_SECONDS_MAX} s: {what}") from error

    async def _etcd_answers(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            await self._etcd("/v3/maintenance/status", {})
            return True
        return False

    async def _api_is_ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, ApiError):
            async with self.api() as api:
                await api.raw("GET", "/readyz")
            return True
        return False
