"""A fuzzing campaign: makes inputs from a seed, has targets read them, and keeps what should not have happened.

``make fuzz`` runs it, and a short one is part of the tests. An input must not take long, nor much memory, whatever is
in it. A finding is made as small as it can be made, and told apart from others by where it happened.
"""

from __future__ import annotations

import hashlib
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.fuzz.mutations import Mutator
from tests.fuzz.targets import Target

CORPUS = Path(__file__).parent / "corpus"

CPU_MS_MAX = 1_000
CPU_US_PER_BYTE_MAX = 40
"""An input may take this much processor time: so much in any case, and so much for each of its bytes."""

MEMORY_BYTES_MAX = 128 * 1024**2
MEMORY_BYTES_PER_BYTE_MAX = 500
HANG_SECONDS = 60
"""After so much processor time an input is given up in the middle."""

MINIMISING_TRIES_MAX = 3_000
REPEATS_TO_BE_SURE = 3

Read = Callable[[bytes], bool]


class TooLong(BaseException):
    """An input took so long that it was given up. It must get past whoever catches exceptions."""


@dataclass(frozen=True)
class Finding:
    """Something that should not have happened.

    Attributes:
        target: Whose.
        what: The same for each input that meets the same mistake.
        text: For a person.
        content: The input.
    """

    target: str
    what: str
    text: str
    content: bytes

    @property
    def path(self) -> Path:
        """Where it is kept."""
        digest = hashlib.sha256(self.content).hexdigest()[:12]
        return CORPUS / self.target / digest


@dataclass
class Tally:
    """What a campaign has done."""

    inputs: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    slowest_ms: dict[str, float] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    repeats: Counter[str] = field(default_factory=Counter)
    cpu_seconds: float = 0.0


def run(
    targets: Sequence[Target],
    seed: int,
    inputs_max: int,
    *,
    seconds_max: float = float("inf"),
    report: Callable[[Tally], None] | None = None,
    report_each: int = 100_000,
) -> Tally:
    """Make inputs and have them read, until there were enough or the processor time is used up.

    Args:
        targets: Who reads them, each its share.
        seed: The same one makes the same inputs, each from the seed and its number.
        inputs_max: How many.
        seconds_max: How much processor time.
        report: Told now and then how far it is.
        report_each: How often.
    """
    mutators = {target.name: Mutator(target.seeds, target.writers) for target in targets}
    shares = [target.share for target in targets]
    tally = Tally()
    draw = random.Random()
    began = time.process_time()
    for number in range(inputs_max):
        draw.seed((seed << 40) + number)
        target = draw.choices(targets, shares)[0]
        content = mutators[target.name].make(draw)
        _read_one(target, content, tally)
        if number % 1_000 == 0 or number + 1 == inputs_max:
            tally.cpu_seconds = time.process_time() - began
            if tally.cpu_seconds > seconds_max:
                break
        if report is not None and (number + 1) % report_each == 0:
            report(tally)
    return tally


def _read_one(target: Target, content: bytes, tally: Tally) -> None:
    began = time.process_time()
    finding, accepted = examine(target, content)
    took_ms = (time.process_time() - began) * 1_000
    name = target.name
    tally.inputs[name] += 1
    tally.bytes[name] += len(content)
    tally.accepted[name] += accepted
    if took_ms > tally.slowest_ms.get(name, 0.0):
        tally.slowest_ms[name] = took_ms
    if finding is None:
        return
    tally.repeats[finding.what] += 1
    if finding.what not in tally.findings:
        tally.findings[finding.what] = minimised(target, finding)


def examine(target: Target, content: bytes) -> tuple[Finding | None, bool]:
    """Have a target read an input: what should not have happened, if anything, and whether it was accepted."""
    what, text, accepted = _attempt(target.read, content)
    if what.startswith("too "):  # measured on a machine that does other things as well
        for _ in range(REPEATS_TO_BE_SURE - 1):
            if not what:
                break
            what, text, accepted = _attempt(target.read, content)
    if not what:
        return None, accepted
    return Finding(target.name, f"{target.name}: {what}", text, content), accepted


def _attempt(read: Read, content: bytes) -> tuple[str, str, bool]:
    memory_before = _memory_peak_bytes()
    began = time.process_time()
    accepted = False
    try:
        with _given_up_after(HANG_SECONDS):
            accepted = read(content)
    except TooLong:
        return "too slow", f"given up after {HANG_SECONDS} s", False
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return _where(error), "".join(traceback.format_exception(error))[-4_000:], False
    took_ms = (time.process_time() - began) * 1_000
    grew_bytes = _memory_peak_bytes() - memory_before
    if took_ms > CPU_MS_MAX + len(content) * CPU_US_PER_BYTE_MAX / 1_000:
        return "too slow", f"{took_ms:.0f} ms for {len(content)} bytes", accepted
    if grew_bytes > MEMORY_BYTES_MAX + len(content) * MEMORY_BYTES_PER_BYTE_MAX:
        return "too much memory", f"{grew_bytes} bytes for {len(content)} bytes", accepted
    return "", "", accepted


def _memory_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _given_up_after(seconds: int) -> Iterator[None]:
    def give_up(_: int, __: FrameType | None) -> None:
        raise TooLong

    signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _where(error: BaseException) -> str:
    """Name an error and the place it came from; of an endless recursion, not how deep it was."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "everynode" in frame.filename or "fuzz" in frame.filename]
    places = [f"{Path(frame.filename).name}:{frame.name}:{frame.lineno}" for frame in own]
    shown = list(dict.fromkeys(places))[-3:]
    return f"{type(error).__name__} at {' > '.join(shown)}"


def minimised(target: Target, finding: Finding) -> Finding:
    """Leave out of a finding's input what it does not take."""
    if finding.what.endswith(("too slow", "too much memory")):
        return finding  # each try would take as long, and memory only grows once
    content, tries = finding.content, 0
    size = max(1, len(content) // 2)
    while size:
        begin = 0
        while begin < len(content) and tries < MINIMISING_TRIES_MAX:
            tries += 1
            smaller = content[:begin] + content[begin + size :]
            found, _ = examine(target, smaller)
            if found is not None and found.what == finding.what:
                content, finding = smaller, found
            else:
                begin += size
        size //= 2
    return finding


def keep(findings: Sequence[Finding]) -> list[Path]:
    """Write findings to the corpus, where they are replayed for ever."""
    for finding in findings:
        finding.path.parent.mkdir(parents=True, exist_ok=True)
        finding.path.write_bytes(finding.content)
    return [finding.path for finding in findings]
