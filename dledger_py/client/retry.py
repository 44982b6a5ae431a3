"""When to try again, and how long to wait first.  Pure: the caller brings the dice and the clock.

The laws.

* A result code says whether the request *happened*.  `GIVE_UP` and `TRY_AGAIN` mean it did not;
  `DONE` that it did; `UNCERTAIN` that it may have, which is worth another attempt only because
  every attempt of one send carries the same unique id.
* One deadline covers all attempts of a call; there is no count of attempts.  A broker group that
  elects a leader is ridden out as long as the caller's deadline allows.
* Pauses start at 20 ms and double to 200 ms: an election here takes a few hundred milliseconds,
  so longer pauses would be most of the outage.  They are spread by half, so that a thousand
  waiting senders do not come back in one wave.

The codes are RocketMQ's; Java 5 tries again on 1, 2, 14, 16, 17, 204, 205 and 1500, and so does
this table, except that 16 (no permission) is only worth another *broker group*.
"""

from bisect import bisect_left
from enum import Enum

from attrs import frozen

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.2

ATTEMPT_TIMEOUT_S = 2.0
"""One attempt's share of the deadline.  A leader that froze is left after this; by then the others
have elected another one.  Java and Go give an attempt 3 s, which is all a call of theirs has."""

CALL_TIMEOUT_S = 10.0
"""The default deadline of a call: several elections long."""

UNKNOWN_TOPIC_PATIENCE_S = 3.0
"""How long a topic nobody knows is asked for again.  A name server that just started knows
nothing until the brokers have registered; a misspelt topic should not cost a whole deadline."""


class Verdict(Enum):
    """What one answer means for the call it belongs to."""

    DONE = "it happened"
    TRY_AGAIN = "it did not happen; another attempt may succeed"
    TRY_ELSEWHERE = "it did not happen; only another broker group may accept it"
    UNCERTAIN = "it may have happened; another attempt may tell"
    GIVE_UP = "it did not happen and never will"


_SEND_VERDICTS = {
    0: Verdict.DONE,
    10: Verdict.DONE,  # stored, but the disk did not confirm in time
    11: Verdict.DONE,  # stored, but no replica was there
    12: Verdict.DONE,  # stored, but the replicas did not confirm in time
    1: Verdict.UNCERTAIN,  # a handler failed, nobody knows how far it came
    2: Verdict.TRY_AGAIN,  # busy
    14: Verdict.TRY_AGAIN,  # no leader now
    16: Verdict.TRY_ELSEWHERE,
    17: Verdict.TRY_AGAIN,  # the route was stale, or the topic is just being created
    204: Verdict.TRY_AGAIN,
    205: Verdict.TRY_AGAIN,
    215: Verdict.TRY_AGAIN,  # flow control
    1500: Verdict.TRY_AGAIN,  # the server is leaving
}


def judge_send(code: int) -> Verdict:
    """What result *code* means for a send."""
    return _SEND_VERDICTS.get(code, Verdict.GIVE_UP)


_MEMBER_FAILED = frozenset({1, 14})


def member_failed(code: int) -> bool:
    """Whether *code* says that another member of the same group may do better: the one that
    answered lost its leadership under way, or knows no leader."""
    return code in _MEMBER_FAILED


_READ_TRY_AGAIN = frozenset({1, 2, 14, 17, 24, 25, 215, 1500})


def judge_read(code: int) -> Verdict:
    """What result *code* means for a request that changes nothing, or may be repeated freely."""
    if code == 0:
        return Verdict.DONE
    return Verdict.TRY_AGAIN if code in _READ_TRY_AGAIN else Verdict.GIVE_UP


@frozen
class BackOff:
    """Pauses that double from `first_s` to `longest_s`, each spread over its upper half."""

    first_s: float = FIRST_PAUSE_S
    longest_s: float = LONGEST_PAUSE_S

    def pause_s(self, failures: int, roll: float) -> float:
        """The pause after *failures* (from 1) failures; *roll* is uniform in [0, 1)."""
        assert failures >= 1, failures
        assert 0 <= roll < 1, roll
        doublings = min(failures - 1, 30)
        whole: float = min(self.longest_s, self.first_s * 2**doublings)
        return whole * (0.5 + roll / 2)


SEND_BACK_OFF = BackOff()

REDELIVERY_BACK_OFF = BackOff(first_s=1.0, longest_s=60.0)
"""Pauses before a message whose handler failed is delivered again."""

CONSUME_BACK_OFF = BackOff(first_s=0.1, longest_s=3.0)
"""Pauses of the consumer's own loops after a failure; Java and Go always wait 3 s."""


DELAY_LEVELS_S = (1, 5, 10, 30, *(60 * n for n in range(1, 11)), 1200, 1800, 3600, 7200)
"""What brokers delay by at levels 1 to 18, unless somebody set them to something else."""


def delay_level(after_s: float) -> int:
    """The level that is not too early for a message to come again; 18 (2 h) for all beyond."""
    return min(1 + bisect_left(DELAY_LEVELS_S, after_s), len(DELAY_LEVELS_S))


def attempt_timeout_s(left_s: float, attempt_max_s: float = ATTEMPT_TIMEOUT_S) -> float | None:
    """How long the next attempt may take with *left_s* of the deadline; None when it has passed."""
    return min(left_s, attempt_max_s) if left_s > 0 else None
