"""What operators ask of a broker: statistics, connections, its running state, its settings."""

from attrs import frozen

from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Reply, Request


@frozen(kw_only=True)
class GetBrokerConfigReply(Reply):
    version: str  # the JSON of a DataVersion


@frozen(kw_only=True)
class GetBrokerConfig(Request[GetBrokerConfigReply]):
    """The broker's settings; body: properties text, `key=value` by line. Code 26."""

    code = RequestCode.GET_BROKER_CONFIG


@frozen(kw_only=True)
class UpdateBrokerConfig(Request[None]):
    """Change settings of a running broker; body: properties text, `key=value` by line. Code 25.

    Of a group of members, all are changed. An empty value leaves the setting to the file again.
    """

    code = RequestCode.UPDATE_BROKER_CONFIG


@frozen(kw_only=True)
class GetBrokerRuntime(Request[None]):
    """Counters and gauges; body: `statistics.KeyValueTable`. Code 28."""

    code = RequestCode.GET_BROKER_RUNTIME_INFO


@frozen(kw_only=True)
class GetTopicStats(Request[None]):
    """Offsets of a topic's queues; body: `statistics.TopicStats`. Code 202."""

    code = RequestCode.GET_TOPIC_STATS_INFO
    topic: str


@frozen(kw_only=True)
class GetConsumerConnections(Request[None]):
    """A group's online members; body: `statistics.ConsumerConnections`. Code 203."""

    code = RequestCode.GET_CONSUMER_CONNECTION_LIST
    consumer_group: str


@frozen(kw_only=True)
class GetProducerConnections(Request[None]):
    """A producer group's members; body: `statistics.ProducerConnections`. Code 204."""

    code = RequestCode.GET_PRODUCER_CONNECTION_LIST
    producer_group: str


@frozen(kw_only=True)
class GetAllProducers(Request[None]):
    """Every producer that is connected; body: `statistics.ProducerTable`. Code 328."""

    code = RequestCode.GET_ALL_PRODUCER_INFO


@frozen(kw_only=True)
class GetConsumeStats(Request[None]):
    """How far a group is behind; body: `statistics.ConsumeStats`. Code 208."""

    code = RequestCode.GET_CONSUME_STATS
    consumer_group: str
    topic: str | None = None
    topic_list: str | None = None  # joined by ";"


@frozen(kw_only=True)
class QueryTopicGroups(Request[None]):
    """Which groups consume a topic; body: `statistics.GroupList`. Code 300."""

    code = RequestCode.QUERY_TOPIC_CONSUME_BY_WHO
    topic: str


@frozen(kw_only=True)
class ViewStatistic(Request[None]):
    """How many messages passed; body: `statistics.StatisticReply`. Code 315.

    Names: TOPIC_PUT_NUMS of a topic, GROUP_GET_NUMS of `topic@group`, BROKER_PUT_NUMS and
    BROKER_GET_NUMS of a cluster.
    """

    code = RequestCode.VIEW_BROKER_STATS_DATA
    stats_name: str
    stats_key: str


@frozen(kw_only=True)
class GetSystemTopics(Request[None]):
    """The broker's own topics; body: `routes.TopicList`. Code 305."""

    code = RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER


@frozen(kw_only=True)
class TransferLeadership(Request[None]):
    """Let another member of the group lead; answered once it does. Code 51005."""

    code = RequestCode.LEADERSHIP_TRANSFER
    transferee_id: str  # the node, such as n1


@frozen(kw_only=True)
class ChangeMembers(Request[None]):
    """Let a member into a broker group or out of it; answered once that is committed. Code 59001.

    Not RocketMQ's. A member that comes gets the log first, and has a vote once it has caught up.
    """

    code = RequestCode.CHANGE_MEMBERS
    change: str  # add or remove
    node: str  # such as n3
    address: str = ""  # of a member to be added: where it listens for its peers, host:port
    stays_learner: bool = False  # of a member to be added: whether it is never to have a vote
    only_silent: bool = False  # of a member to be removed: refuse if it follows, or leads
