"""What goes wrong on purpose while a fleet works: programs die, stand still and are cut off, the log loses and refuses.

It draws one act after the other from those that a run allows. Everything that it does ends when the stage is healed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from everynode.testing.simulation.config import Configuration
from everynode.testing.simulation.marks import mark, register
from everynode.testing.simulation.roles import HostRole, Role
from everynode.testing.simulation.stage import Stage

_MS_PER_SECOND = 1_000

SHORT_MS = (10, 3_000)
LONG_MS = (3_000, 60_000)
YOUNG_MS = 10_000
CLOCK_JUMPS_MS = (-3_600_000, -5_000, 5_000, 3_600_000)


class Nemesis:
    """Lets things go wrong on a stage.

    Args:
        stage: What it acts on.
        configuration: What it may do, and how often.
    """

    def __init__(self, stage: Stage, configuration: Configuration) -> None:
        """Have done nothing yet."""
        self._stage = stage
        self._loop = stage.loop
        self._server = stage.server
        self._random: random.Random = stage.loop.random
        self._acts = configuration.nemesis
        self._mean_ms = configuration.nemesis_ms

    async def act(self) -> None:
        """Do something from time to time."""
        doing = self._doing()
        while self._acts:
            mean_ms = self._mean_ms
            wait_ms = self._random.randint(mean_ms // 4, mean_ms * 7 // 4)
            await asyncio.sleep(wait_ms / _MS_PER_SECOND)
            (act,) = self._random.choices(list(self._acts), list(self._acts.values()))
            doing[act]()
            mark(f"nemesis: {act}")

    def _doing(self) -> dict[str, Callable[[], object]]:
        server = self._server
        return {
            "kill": self._kill,
            "pause": self._pause,
            "skew clock": self._skew,
            "cut from log": self._cut,
            "cut from backend": self._cut_from_backend,
            "swizzle": self._swizzle,
            "server away": lambda: server.outage(self._duration_ms()),
            "drop consumers": server.drop_consumers,
            "lose end of log": self._lose,
            "garbage": server.garbage,
            "disk full": lambda: server.fill_disk(self._duration_ms()),
            "stop STATE": lambda: server.stop_state(self._duration_ms()),
            "age out": self._age_out,
        }

    def _duration_ms(self) -> int:
        return self._random.randint(*(SHORT_MS if self._random.random() < 0.7 else LONG_MS))

    def _role(self) -> Role:
        return self._random.choice(self._stage.roles)

    def _kill(self) -> None:
        self._role().kill(self._duration_ms())

    def _pause(self) -> None:
        role = self._role()
        if role.is_running:
            process = role.process
            process.pause()
            self._loop.after_ms(self._duration_ms(), process.resume)

    def _skew(self) -> None:
        role = self._role()
        if role.is_running:
            offset_ms = self._random.choice(CLOCK_JUMPS_MS)
            role.process.set_clock(offset_ms, self._random.choice((0.5, 1.0, 1.0, 2.0)))

    def _cut(self) -> None:
        role = self._role()
        if role.is_running:
            direction = self._random.choice(("to", "from", "both"))
            self._server.cut(role.process, self._duration_ms(), direction)  # type: ignore[arg-type] # drawn

    def _cut_from_backend(self) -> None:
        host = self._random.choice(self._stage.hosts)
        self._cut_host(host, self._duration_ms())

    def _cut_host(self, host: HostRole, duration_ms: int) -> None:
        if host.adapter is not None:
            host.adapter.cut_until_ms = self._loop.now_ms + duration_ms

    def _swizzle(self) -> None:
        """Cut everybody off one after the other, and let them return in another order."""
        begin_ms = 0
        for role in self._random.sample(self._stage.roles, len(self._stage.roles)):
            begin_ms += self._random.randint(0, 500)
            self._loop.after_ms(begin_ms, self._cut_role, role, self._random.randint(1_000, 8_000))

    def _cut_role(self, role: Role, duration_ms: int) -> None:
        if role.is_running:
            self._server.cut(role.process, duration_ms)
        if isinstance(role, HostRole):
            self._cut_host(role, duration_ms)

    def _lose(self) -> None:
        chance = self._random
        state_too = chance.random() < 0.8
        before = self._server.log.last_sequence
        lost = self._server.truncate(
            chance.choice((1, 2, 5, 20, 100)),
            state_too=state_too,
            consumers_stay_ahead=chance.random() < 0.5,
            outage_ms=chance.randint(*SHORT_MS),
        )
        self._stage.split |= self._server.state.position > before - lost

    def _age_out(self) -> None:
        """Let the log go of old messages; at times also of those that a worker that starts would need."""
        horizon_ms = self._stage.configuration.limits.horizon_ms
        older_than_ms = self._random.choice((YOUNG_MS, horizon_ms, horizon_ms))
        self._stage.forgot |= older_than_ms < horizon_ms
        self._server.age_out(older_than_ms)


register(
    *(
        f"nemesis: {act}"
        for act in (
            *("kill", "pause", "skew clock", "cut from log", "cut from backend", "swizzle"),
            *("server away", "drop consumers", "lose end of log", "garbage", "disk full"),
            *("stop STATE", "age out"),
        )
    )
)
