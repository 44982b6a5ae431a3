"""Topics: their settings, how they are made, changed, listed and removed."""

from collections.abc import Mapping

from attrs import Factory, frozen

from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Reply, Request

PERM_INHERIT = 1
PERM_WRITE = 2
PERM_READ = 4


@frozen(kw_only=True)
class DataVersion:
    """Which edition of a table this is. Equal only if all three are; the state version is the term
    of the leader that wrote it, so a deposed one cannot register over its successor."""

    state_version: int = 0
    timestamp: int = 0
    counter: int = 0


@frozen(kw_only=True)
class TopicConfig:
    """One topic as brokers, tools and name servers exchange it; defaults are Java's."""

    topic_name: str
    read_queue_nums: Int32 = 16
    write_queue_nums: Int32 = 16
    perm: Int32 = PERM_READ | PERM_WRITE
    topic_filter_type: str = "SINGLE_TAG"
    topic_sys_flag: Int32 = 0
    order: bool = False
    attributes: Mapping[str, str] = Factory(dict)


@frozen(kw_only=True)
class TopicTable:
    """All topics of a broker: the answer of GET_ALL_TOPIC_CONFIG, and part of a registration.

    The mapping members belong to static topics, which we have not; tools accept them empty.
    """

    data_version: DataVersion = DataVersion()
    topic_config_table: Mapping[str, TopicConfig] = Factory(dict)
    mapping_data_version: DataVersion | None = None
    topic_queue_mapping_detail_map: Mapping[str, object] | None = None
    topic_queue_mapping_info_map: Mapping[str, object] | None = None


@frozen(kw_only=True)
class CreateTopic(Request[None]):
    """Make a topic or change its settings. Code 17."""

    code = RequestCode.UPDATE_AND_CREATE_TOPIC
    topic: str
    default_topic: str = ""
    read_queue_nums: Int32
    write_queue_nums: Int32
    perm: Int32
    topic_filter_type: str = "SINGLE_TAG"
    topic_sys_flag: Int32 = 0
    order: bool = False
    attributes: str = ""  # "+key=value,-key"
    force: bool = False


@frozen(kw_only=True)
class CreateTopics(Request[None]):
    """Make several topics or change their settings; body: TopicConfigs. Code 18.

    As in CreateTopic, attributes are changes: `+key` with a value, or `-key`.
    """

    code = RequestCode.UPDATE_AND_CREATE_TOPIC_LIST


@frozen(kw_only=True)
class TopicConfigs:
    topic_config_list: tuple[TopicConfig, ...] = ()


@frozen(kw_only=True)
class DeleteTopic(Request[None]):
    """Remove a topic from this broker. Code 215."""

    code = RequestCode.DELETE_TOPIC_IN_BROKER
    topic: str


@frozen(kw_only=True)
class TopicTableReply(Reply):
    """Without a total the caller takes the body as complete, which it always is."""

    total_topic_num: Int32 | None = None


@frozen(kw_only=True)
class GetAllTopics(Request[TopicTableReply]):
    """All topic settings; body: TopicTable. Code 21.

    Newer tools page by `topic_seq`; the whole table at once is a legal answer.
    """

    code = RequestCode.GET_ALL_TOPIC_CONFIG
    topic_seq: Int32 | None = None
    data_version: str | None = None
    max_topic_num: Int32 | None = None


@frozen(kw_only=True)
class GetTopic(Request[None]):
    """The settings of one topic; body: TopicConfig. Code 351."""

    code = RequestCode.GET_TOPIC_CONFIG
    topic: str
    lo: bool = False
