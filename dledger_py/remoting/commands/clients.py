"""Clients telling that they are there, and being told who else is."""

from attrs import frozen

from dledger_py.remoting.commands.heartbeats import SubscriptionData
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Reply, Request, wire


@frozen(kw_only=True)
class HeartbeatReply(Reply):
    """Clients also read the frame's version here. Support for V2 beats may be left unsaid."""

    supports_v2: bool | None = wire("IS_SUPPORT_HEART_BEAT_V2", default=None)
    subscription_changed: bool | None = wire("IS_SUB_CHANGE", default=None)


@frozen(kw_only=True)
class Heartbeat(Request[HeartbeatReply]):
    """I am here, with these groups; body: `heartbeats.HeartbeatData`. Code 34."""

    code = RequestCode.HEART_BEAT


@frozen(kw_only=True)
class UnregisterClient(Request[None]):
    """I leave these groups. Go never says it: its connection just ends. Code 35."""

    code = RequestCode.UNREGISTER_CLIENT
    client_id: str = wire("clientID")
    producer_group: str | None = None
    consumer_group: str | None = None


@frozen(kw_only=True)
class CheckClientConfig(Request[None]):
    """Can this subscription be served? Body: CheckClientRequestBody. Code 46.

    Java asks before it starts to consume by anything but tags, and does not start if the answer
    is no.
    """

    code = RequestCode.CHECK_CLIENT_CONFIG


@frozen(kw_only=True)
class CheckClientRequestBody:
    client_id: str = ""
    group: str = ""
    subscription_data: SubscriptionData | None = None


@frozen(kw_only=True)
class GetConsumerIds(Request[None]):
    """Who consumes in a group; body: ConsumerIds. Code 38.

    An unknown group is SYSTEM_ERROR, upon which clients keep the queues they have.
    """

    code = RequestCode.GET_CONSUMER_LIST_BY_GROUP
    consumer_group: str


@frozen(kw_only=True)
class ConsumerIds:
    consumer_id_list: tuple[str, ...] = ()


@frozen(kw_only=True)
class NotifyConsumersChanged(Request[None]):
    """Server to client, one-way: rebalance now. Code 40."""

    code = RequestCode.NOTIFY_CONSUMER_IDS_CHANGED
    consumer_group: str
