"""What applying a command answers to whoever proposed it.

A refusal that every member gives alike is a reply, never an exception: the entry is in the log and
has been applied, to no effect. Rooms translate a `Reason` into a response code.
"""

from collections.abc import Sequence
from enum import Enum

from attrs import frozen

from broker.machine.effects import Effect


class Reason(Enum):
    """Why nothing happened; the same on every member."""

    UNKNOWN_TOPIC = "unknown topic"
    UNKNOWN_QUEUE = "unknown queue"
    UNKNOWN_GROUP = "unknown group"
    INVALID_NAME = "invalid name"
    INVALID_SETTING = "invalid setting"
    INVALID_ATTRIBUTE = "invalid attribute"
    TABLE_FULL = "table full"
    OUTDATED = "outdated"
    """It was proposed for a state that is not that of now."""
    NOT_PENDING = "not pending"


Stored = tuple[int, int]
"""(queue offset, log position of the record): a plain tuple, because there is one per message."""

MessageReply = Stored | Reason
"""What became of one message of a `PutMessages`; its reply is a list of these, in their order."""


@frozen(kw_only=True)
class Done:
    """It is applied. `changed` is false if everything already was as the command wanted it."""

    changed: bool
    created: tuple[str, ...] = ()
    """Names of topics and groups that did not exist before."""


@frozen(kw_only=True)
class Declined:
    """It was not done, and nothing was changed."""

    reason: Reason
    detail: str


@frozen(kw_only=True)
class Owned:
    """Those of the queues, (topic, queue id), that the consumer owns now."""

    queues: tuple[tuple[str, int], ...]


@frozen(kw_only=True)
class Popped:
    """For each pop, what became of each of its claims: a reason why it takes nothing; or how often
    each message was popped before, if they are popped in order."""

    outcomes: tuple[tuple[Reason | tuple[int, ...], ...], ...]


@frozen(kw_only=True)
class Settled:
    """What became of messages in flight."""

    acked: int
    changed: tuple[Reason | int, ...]
    """For each change the stamp of the new handle, or why it has no effect."""


Reply = list[MessageReply] | Done | Declined | Owned | Popped | Settled


@frozen
class Applied:
    """The reply for the proposer, if it still waits, and the effects for this member."""

    reply: Reply
    effects: Sequence[Effect] = ()
