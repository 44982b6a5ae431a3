"""Owning queues: consumers that work in order ask the broker for them."""

from attrs import frozen

from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Request, wire


@frozen(kw_only=True)
class QueuesOfClient:
    """A consumer of a group, and queues: the body of both requests. `onlyThisBroker` is about
    copies that masters keep of each other's locks; here the group replicates them."""

    client_id: str
    consumer_group: str
    mq_set: tuple[MessageQueue, ...] = ()


@frozen(kw_only=True)
class LockQueues(Request[None]):
    """Let the client own these queues, or go on owning them; bodies: QueuesOfClient, QueuesLocked.
    Code 41.

    To be repeated every 20 s: a lock that nobody renews is lost after 60 s.
    """

    code = RequestCode.LOCK_BATCH_MQ


@frozen(kw_only=True)
class QueuesLocked:
    """Of the queues asked for, those that the client owns now."""

    queues: tuple[MessageQueue, ...] = wire("lockOKMQSet", default=())


@frozen(kw_only=True)
class UnlockQueues(Request[None]):
    """Let go of these queues, as far as the client owns them; body: QueuesOfClient. Code 42."""

    code = RequestCode.UNLOCK_BATCH_MQ
