"""Bodies of name server answers: routes, clusters, lists of topics.

Written in the strict compact form of `json_bodies`, which every client reads; Java's older unquoted
keys are never needed. Go cuts `brokerAddrs` out of the text, so there must be no white space in it.
"""

from collections.abc import Mapping

from attrs import Factory, frozen


@frozen(kw_only=True)
class BrokerData:
    """A broker group and its members' addresses by id; 0 is the one that takes sends."""

    broker_name: str
    cluster: str = ""
    broker_addrs: Mapping[int, str] = Factory(dict)
    enable_acting_master: bool = False
    zone_name: str | None = None


@frozen(kw_only=True)
class QueueData:
    """What one broker group offers of a topic."""

    broker_name: str
    read_queue_nums: int
    write_queue_nums: int
    perm: int
    topic_sys_flag: int = 0


@frozen(kw_only=True)
class TopicRoute:
    """Who serves a topic. Lists groups without a member 0 too: consumers go on reading there."""

    broker_datas: tuple[BrokerData, ...] = ()
    queue_datas: tuple[QueueData, ...] = ()
    filter_server_table: Mapping[str, tuple[str, ...]] = Factory(dict)
    order_topic_conf: str | None = None


@frozen(kw_only=True)
class ClusterInfo:
    """All broker groups, and which of them form a cluster."""

    broker_addr_table: Mapping[str, BrokerData] = Factory(dict)
    cluster_addr_table: Mapping[str, tuple[str, ...]] = Factory(dict)


@frozen(kw_only=True)
class TopicList:
    """Topic names; for system topics also a broker to ask for its own."""

    topic_list: tuple[str, ...] = ()
    broker_addr: str | None = None


@frozen(kw_only=True)
class BrokerMemberGroup:
    broker_name: str
    cluster: str
    broker_addrs: Mapping[int, str] = Factory(dict)


@frozen(kw_only=True)
class BrokerMembers:
    """The answer of GetBrokerMembers."""

    broker_member_group: BrokerMemberGroup | None = None
