"""What a simulated log may do to those who use it: how often, how long. All at zero: it does all that it can.

Used by ``server``, ``connection`` and ``handing``; drawn by whoever configures a run. JetStream promises nothing that
is broken here.
"""

from __future__ import annotations

from dataclasses import dataclass

from everynode.testing.simulation import marks

ANSWER_LOST = "bus: stored, and the answer was lost"
REQUEST_LOST = "bus: a request was lost without a word"
REQUEST_REFUSED = "bus: a request could not be sent"
REQUEST_LATE = "bus: a request arrived after it was given up"
SLOW = "bus: slow"
RACE_UNNAMED = "bus: refused in a race, without a sequence"
CONSUMER_VANISHED = "bus: a consumer vanished"
CHUNK_CUT = "bus: messages of one batch came apart"
COMMAND_AGAIN = "bus: a command came again though acknowledged"
COMMAND_LOST = "bus: a command was lost on its way, and came again"
COMMAND_LATE = "bus: a command came late"
COMMAND_TWICE = "bus: a command was delivered twice"
COMMAND_EXPIRED = "bus: nobody acknowledged a command in time"
ANNOUNCEMENT_LOST = "bus: an announcement was lost"
ANNOUNCEMENT_TWICE = "bus: an announcement came twice"
ANNOUNCEMENT_LATE = "bus: an announcement came late"
STALE = "bus: a fence refused"
OUTAGE = "bus: the server was away"
CUT_TO = "bus: cut off on the way to the server"
CUT_FROM = "bus: cut off on the way from the server"
GIVEN_UP = "bus: a connection that was dead was given up"
TRUNCATED = "bus: the end of the log was lost"
TRUNCATED_BELOW_STATE = "bus: the end of the log was lost, and not that of STATE"
FOLLOWER_AHEAD = "bus: a follower had read more than there was"
FOLLOWER_ELSEWHERE = "bus: a follower had read something else"
OVERTAKEN = "bus: the log let go of what a follower had not read"
AGED_OUT = "bus: the log let go of old messages"
FOREIGN = "bus: somebody else published"
DISK_FULL = "bus: the disk was full"
STATE_STOPPED = "bus: STATE stood still"
SILENT = "bus: a follower doubted after silence"

marks.register(
    *(ANSWER_LOST, REQUEST_LOST, REQUEST_REFUSED, REQUEST_LATE, SLOW, RACE_UNNAMED),
    *(CONSUMER_VANISHED, CHUNK_CUT, COMMAND_AGAIN, COMMAND_LOST, COMMAND_LATE, COMMAND_TWICE),
    *(COMMAND_EXPIRED, ANNOUNCEMENT_LOST, ANNOUNCEMENT_TWICE, ANNOUNCEMENT_LATE, STALE),
    *(OUTAGE, CUT_TO, CUT_FROM, GIVEN_UP, TRUNCATED, TRUNCATED_BELOW_STATE, FOLLOWER_AHEAD),
    *(FOLLOWER_ELSEWHERE, AGED_OUT, FOREIGN, DISK_FULL, STATE_STOPPED, SILENT),
)
marks.register(OVERTAKEN, is_rare=True)


@dataclass(slots=True, kw_only=True)
class BusFaults:
    """Probabilities from 0 to 1, each time that it could happen; times in ms.

    Attributes:
        latency_ms_min: How long a message is on its way at least.
        latency_ms_max: And at most, unless it is slow.
        slow: A message takes up to ``slow_ms_max`` instead.
        slow_ms_max: See ``slow``; below the 5 s after which callers give up.
        answer_lost: A call is carried out, and its answer does not come.
        request_lost: A call is not carried out, and no answer comes.
        request_refused: A call fails at once; nothing was sent.
        request_late: A call is carried out after the caller gave up, up to ``late_ms_max`` later.
        late_ms_max: See ``request_late``, ``command_late`` and ``announcement_late``.
        race_unnamed: A fence that refuses does not name the last sequence.
        consumer_vanished: A consumer is gone, instead of sending what it has.
        chunk_cut: What was stored at once comes in several parts.
        state_lag_ms_max: How far STATE may be behind LOG.
        command_again: A command comes again though it was acknowledged.
        command_lost: A command is lost on its way, and comes again after the log has waited for its acknowledgement.
        command_late: A command is on its way for long, and may come after it was handed out again.
        command_twice: A command is delivered twice.
        announcement_lost: A listener does not hear an announcement.
        announcement_twice: It hears it twice.
        announcement_late: It hears it late, after others.
    """

    latency_ms_min: float = 0.2
    latency_ms_max: float = 2.0
    slow: float = 0.0
    slow_ms_max: float = 4_000.0
    answer_lost: float = 0.0
    request_lost: float = 0.0
    request_refused: float = 0.0
    request_late: float = 0.0
    late_ms_max: float = 20_000.0
    race_unnamed: float = 0.0
    consumer_vanished: float = 0.0
    chunk_cut: float = 0.0
    state_lag_ms_max: float = 5.0
    command_again: float = 0.0
    command_lost: float = 0.0
    command_late: float = 0.0
    command_twice: float = 0.0
    announcement_lost: float = 0.0
    announcement_twice: float = 0.0
    announcement_late: float = 0.0
