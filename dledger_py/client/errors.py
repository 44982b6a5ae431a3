"""Everything a call of this client can raise: one tree, in two halves.

`Refused` is definite: what was asked for did not happen.  `Indefinite` is the truth about every
timeout and every lost connection: it may have happened.  A send that ends indefinitely says "may
have been stored", never "failed"; `unique_id` finds the message, if there is one.

Each error says whether the same call may succeed later (`retryable`) and what a person could do
(`hint`).  Wrong arguments are `ValueError` and `TypeError`, as everywhere in Python, and never
part of this tree.
"""

from dledger_py.client.queues import Queue


class ClientError(Exception):
    """The root.  Never raised itself."""

    retryable: bool = False
    hint: str = ""

    def __init__(self, message: str, *, retryable: bool | None = None, hint: str = "") -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable
        if hint:
            self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message} ({self.hint})" if self.hint else message


class Refused(ClientError):
    """Definite: it did not happen."""


class Indefinite(ClientError):
    """It may have happened, or may still happen."""

    retryable = True


def worded(code: int, remark: str | None) -> str:
    """A server's answer in words. RocketMQ's remarks may begin with a blank."""
    text = (remark or "").strip()
    return f"{code}: {text}" if text else f"{code}"


class ResponseError(Refused):
    """A server answered, with a code other than success."""

    def __init__(
        self, code: int, remark: str | None, *, retryable: bool = False, hint: str = ""
    ) -> None:
        super().__init__(
            f"answered with code {worded(code, remark)}", retryable=retryable, hint=hint
        )
        self.code = code
        self.remark = remark


class Unreachable(Refused):
    """No connection to the address could be opened, so nothing was sent."""

    retryable = True

    def __init__(self, address: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{address} cannot be reached: {reason}", hint=hint)
        self.address = address
        self.reason = reason


class NoRoute(Refused):
    """No name server knows a broker for the topic."""

    retryable = True

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(
            f"no route for topic {topic!r}: {reason}",
            hint="create the topic, allow its creation on use, "
            "or check that the brokers have registered with this name server",
        )
        self.topic = topic


class NoQueue(Refused):
    """The topic has no such queue, or none that allows what was asked."""


class UnsupportedCompression(Refused):
    """The body is compressed by an algorithm this client cannot undo."""

    def __init__(self, algorithm: str) -> None:
        super().__init__(
            f"the body is compressed with {algorithm}; only zlib can be read",
            hint="`Message.stored_body` has the bytes as they are",
        )


class ConsumerFailed(Refused):
    """The consumer cannot go on: its subscription was refused, for good."""


class ClientClosed(Refused):
    """The client's `async with` block has ended."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class ClientForked(Refused):
    """The client belongs to the process that this one was forked off; nothing was sent."""

    def __init__(self) -> None:
        super().__init__(
            "this client belongs to the parent process",
            hint="connect again in each process, after the fork",
        )


class ConnectionLost(Indefinite):
    """The connection ended with the call unanswered."""


class GarbageReceived(ConnectionLost):
    """The peer sent bytes that are not the protocol; the connection was closed by us."""


class MalformedAnswer(Indefinite):
    """The answer came, but cannot be read: nobody knows what was done."""

    retryable = False

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"the answer of {address} cannot be read: {why}")


class CallTimedOut(Indefinite):
    """No answer came within the call's deadline."""


class SendRefused(Refused):
    """The message was not stored."""

    def __init__(
        self, topic: str, unique_id: str, reason: str, *, retryable: bool, hint: str = ""
    ) -> None:
        super().__init__(
            f"message {unique_id} for {topic!r} was not stored: {reason}",
            retryable=retryable,
            hint=hint,
        )
        self.topic = topic
        self.unique_id = unique_id


class SendUncertain(Indefinite):
    """The message may have been stored: at least one attempt was never answered clearly."""

    def __init__(self, topic: str, unique_id: str, reason: str) -> None:
        super().__init__(
            f"message {unique_id} for {topic!r} may have been stored: {reason}",
            hint="look for the unique id before sending it anew, or let the consumer recognise it",
        )
        self.topic = topic
        self.unique_id = unique_id


class CommitUncertain(Indefinite):
    """A transaction's block is through, but nobody confirmed the commit in time.

    The half message is stored, and the verdict stays *commit*: brokers ask for it (check-back),
    and this client answers for as long as it is connected, other processes of its producer group by
    their `check`.  So do not undo what the block did, and do not send the message anew.
    """

    retryable = False

    def __init__(self, topic: str, unique_id: str, reason: str) -> None:
        super().__init__(
            f"message {unique_id} for {topic!r} may not be committed yet: {reason}",
            hint="keep what the block did: the broker will ask, and be told to commit",
        )
        self.topic = topic
        self.unique_id = unique_id


class NoReply(Indefinite):
    """The request was stored, and nobody replied in time: it may have been handled, or will be."""

    def __init__(self, topic: str, unique_id: str, timeout_s: float) -> None:
        super().__init__(
            f"request {unique_id} to {topic!r} got no reply within {timeout_s:g} s",
            hint="does somebody consume the topic, and reply?",
        )
        self.topic = topic
        self.unique_id = unique_id


def no_such_queue(topic: str, queue: int, count: int) -> NoQueue:
    """*queue* was asked for and the topic has *count*."""
    expected = f"only 0-{count - 1} exist" if count else "it has none for this"
    return NoQueue(f"queue {queue} of {topic!r}: {expected}")


def ambiguous_queue(topic: str, queue_id: int, found: list[Queue]) -> NoQueue:
    """Several broker groups have a queue of that number."""
    names = ", ".join(sorted(queue.broker for queue in found))
    return NoQueue(
        f"queue {queue_id} of {topic!r} exists in several broker groups: {names}",
        hint="name one with broker=",
    )


def subscription_refused(expression: str, error: ResponseError) -> ConsumerFailed:
    """A broker says that *expression* is none."""
    return ConsumerFailed(
        f"the subscription {expression!r} was refused: {worded(error.code, error.remark)}",
        hint="docs/filters.md says what an expression may look like",
    )
