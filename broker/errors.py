"""Refusals: each is one result code with the sentence that goes into the remark.

A refusal is definite: the request changed nothing. The code decides what unmodified clients do next
(protocol page 01 §8): 1, 14, 16 and 17 make every producer try again, 13 and 3 go to the caller at
once.
"""

from collections.abc import Mapping
from typing import ClassVar

from dledger_py.remoting.rooms import Refused
from dledger_py.remoting.wire.codes import ResponseCode


class NoLeader(Refused):
    """The group has no leader now, so nothing can be written; every client tries again."""

    code = ResponseCode.SERVICE_NOT_AVAILABLE

    def __init__(self, why: str = "the broker group has no leader at the moment") -> None:
        super().__init__(f"{why}; nothing was stored, try again")


class OutcomeUnknown(Refused):
    """Leadership was lost while the entry was under way: it may have been stored.

    Not a refusal in the strict sense, but the wire has no word for it: code 1 is tried again by
    every client, and the remark says what is known.
    """

    code = ResponseCode.SYSTEM_ERROR

    def __init__(self) -> None:
        super().__init__(
            "leadership changed while the request was under way: it may have been carried out"
        )


class MessagesGone(Refused):
    """They were the oldest, and retention has let go of them a moment ago."""

    code = ResponseCode.SYSTEM_ERROR

    def __init__(self) -> None:
        super().__init__("the oldest messages have just gone: ask again")


class TooBusy(Refused):
    """More is waiting for the log than the broker will hold."""

    code = ResponseCode.SERVICE_NOT_AVAILABLE

    def __init__(self) -> None:
        super().__init__(
            "too much is waiting to be stored; nothing was stored, try again after a pause"
        )


LASTING = "__lasting"
"""Field of a refusal that has nothing to do with who leads: members need not ask again."""


class DiskLow(Refused):
    """The leader's disk is nearly full."""

    code = ResponseCode.SERVICE_NOT_AVAILABLE
    fields: ClassVar[Mapping[str, str]] = {LASTING: "true"}

    def __init__(self, free_bytes: int, floor_bytes: int) -> None:
        super().__init__(
            f"the broker's disk is nearly full: {free_bytes >> 20} MiB are free, messages are taken"
            f" again above {floor_bytes >> 20} MiB; nothing was stored"
        )


class TooManyHalves(Refused):
    """More transactions have not ended than the broker will keep in mind."""

    code = ResponseCode.SERVICE_NOT_AVAILABLE
    fields: ClassVar[Mapping[str, str]] = {LASTING: "true"}

    def __init__(self, halves_max: int) -> None:
        super().__init__(
            f"{halves_max} transactions have not ended, more are not taken until some have;"
            " nothing was stored"
        )


class TopicNotFound(Refused):
    """Nobody created the topic, and it may not be created on use."""

    code = ResponseCode.TOPIC_NOT_EXIST

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic[{topic}] not exist, apply first please!")


class QueueNotFound(Refused):
    """The queue id is outside the topic's queues."""

    code = ResponseCode.INVALID_PARAMETER

    def __init__(self, topic: str, queue_id: int, queues: int) -> None:
        has = f"queues 0-{queues - 1}" if queues else "no queue for this"
        super().__init__(f"request queueId[{queue_id}] is illegal: topic '{topic}' has {has}")


class GroupNotFound(Refused):
    """The subscription group does not exist and may not be created on use."""

    code = ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST

    def __init__(self, group: str, why: str = "") -> None:
        reason = why or "apply first please!"
        super().__init__(f"subscription group '{group}' does not exist, {reason}")


class NotPermitted(Refused):
    """The topic or the group does not allow this."""

    code = ResponseCode.NO_PERMISSION


class IllegalMessage(Refused):
    """The message breaks a limit; sending it again will not help."""

    code = ResponseCode.MESSAGE_ILLEGAL


class InvalidParameter(Refused):
    """A field has a value that cannot be right."""

    code = ResponseCode.INVALID_PARAMETER


class IllegalOperation(Refused):
    """What is asked for cannot be done to this message, or not any more."""

    code = ResponseCode.ILLEGAL_OPERATION


class NotSupported(Refused):
    """RocketMQ has this, this broker does not have it yet."""

    code = ResponseCode.REQUEST_CODE_NOT_SUPPORTED

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not supported by this broker yet")


class SubscriptionUnreadable(Refused):
    """The filter expression of the request cannot be understood."""

    code = ResponseCode.SUBSCRIPTION_PARSE_FAILED

    def __init__(self, expression: str) -> None:
        super().__init__(f"parse the consumer's subscription failed: {expression!r} names no tag")


class ExpressionUnreadable(Refused):
    """The filter expression of the request is no SQL92, or of no type that is known."""

    code = ResponseCode.SUBSCRIPTION_PARSE_FAILED

    def __init__(self, why: str) -> None:
        super().__init__(f"parse the consumer's subscription failed: {why}")


class FilterMissing(Refused):
    """The expression that the group's heartbeats brought cannot be understood; clients pause."""

    code = ResponseCode.FILTER_DATA_NOT_EXIST

    def __init__(self, group: str, topic: str, why: str) -> None:
        super().__init__(f"group {group} has no filter for topic {topic}: {why}")


class SubscriptionMissing(Refused):
    """The group's heartbeats named no subscription to this topic; clients pause and come back."""

    code = ResponseCode.SUBSCRIPTION_NOT_EXIST

    def __init__(self, group: str, topic: str) -> None:
        super().__init__(f"the consumer's group {group} has not subscribed to topic {topic} here")


class SubscriptionOutdated(Refused):
    """The pull belongs to a newer subscription than the last heartbeat brought."""

    code = ResponseCode.SUBSCRIPTION_NOT_LATEST

    def __init__(self, group: str, topic: str) -> None:
        super().__init__(f"the subscription of group {group} to topic {topic} is not the latest")


class NotOnline(Refused):
    """No consumer of the group is connected to this member."""

    code = ResponseCode.CONSUMER_NOT_ONLINE

    def __init__(self, group: str) -> None:
        super().__init__(f"no consumer of group [{group}] is online")


CLIENT_UNKNOWN = "__clientUnknown"
"""Field of a refusal by which a member learns that another does not know a client either."""


class ClientUnknown(Refused):
    """No member has a connection to the client that is to be called; the code is RocketMQ's."""

    code = ResponseCode.SYSTEM_ERROR
    fields: ClassVar[Mapping[str, str]] = {CLIENT_UNKNOWN: "true"}


class ClientSilent(Refused):
    """The client was called and did not answer in time: it may have done what it was told."""

    code = ResponseCode.CONSUME_MSG_TIMEOUT

    def __init__(self, client_id: str) -> None:
        super().__init__(f"client <{client_id}> did not answer in time")


class ClientGone(Refused):
    """The client could not be called, or left before it answered: it may have done what it was
    told."""

    code = ResponseCode.SYSTEM_ERROR

    def __init__(self, client_id: str) -> None:
        super().__init__(
            f"client <{client_id}> gave no answer: its connection ended, it owes too many answers,"
            " or it does not read"
        )


class TooManyCalls(Refused):
    """More calls to clients are under way than the broker will hold."""

    code = ResponseCode.SERVICE_NOT_AVAILABLE

    def __init__(self) -> None:
        super().__init__("too many clients are being called; nothing was done, try again")


class OffsetNotFound(Refused):
    """The group has no offset for the queue."""

    code = ResponseCode.QUERY_NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Not found, maybe this group consumer boot first")


class NothingThere(Refused):
    """No message is where one was named, by a consumer that pops."""

    code = ResponseCode.NO_MESSAGE


class HandleOutdated(NothingThere):
    """The message is not the consumer's any more: it is done with, moved, or has another handle."""

    def __init__(self, topic: str, queue_id: int, offset: int) -> None:
        super().__init__(
            f"offset {offset} of queue {queue_id} of topic '{topic}' is not in flight by this"
            " handle; nothing was changed"
        )


class MessageNotFound(Refused):
    """The whole log was searched, and nothing in it is what was asked for."""

    code = ResponseCode.QUERY_NOT_FOUND

    def __init__(self, topic: str) -> None:
        super().__init__(f"no message of topic '{topic}' has this key and was stored in this time")


class SearchGivenUp(Refused):
    """Nothing was found, but not all of the log was looked at."""

    def __init__(self) -> None:
        super().__init__(
            "nothing was found in the part of the log that was searched: its key index is not"
            " complete yet, or too many other messages have the key; name a shorter time or ask"
            " again later"
        )


class TooManyQueries(Refused):
    """One search runs at a time, and enough of them wait."""

    code = ResponseCode.SYSTEM_BUSY

    def __init__(self) -> None:
        super().__init__("too many queries are waiting to search the log, ask again later")


class LogUnreadable(Refused):
    """This member's log is damaged where it was to be searched; the others may have it whole."""

    def __init__(self) -> None:
        super().__init__("this member's log cannot be read there; another member may have it whole")
