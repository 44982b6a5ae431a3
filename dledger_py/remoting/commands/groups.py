"""Consumer groups: their settings, how they are made, changed, listed and removed."""

from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen

from dledger_py.remoting.commands.topics import DataVersion
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Reply, Request


def _customized() -> dict[str, Any]:
    return {"type": "CUSTOMIZED"}


@frozen(kw_only=True)
class GroupConfig:
    """One consumer group (RocketMQ: SubscriptionGroupConfig); defaults are Java's.

    It is both the body of CreateGroup and the answer of GetGroup. `group_retry_policy` is kept as
    it came.
    """

    group_name: str
    consume_enable: bool = True
    consume_from_min_enable: bool = True
    consume_broadcast_enable: bool = True
    consume_message_orderly: bool = False
    retry_queue_nums: Int32 = 1
    retry_max_times: Int32 = 16
    group_retry_policy: Mapping[str, Any] = Factory(_customized)
    broker_id: int = 0
    which_broker_when_consume_slowly: int = 1
    notify_consumer_ids_changed_enable: bool = True
    group_sys_flag: Int32 = 0
    consume_timeout_minute: Int32 = 15
    attributes: Mapping[str, str] = Factory(dict)


@frozen(kw_only=True)
class GroupTable:
    """All groups of a broker: the answer of GetAllGroups."""

    data_version: DataVersion = DataVersion()
    forbidden_table: Mapping[str, Mapping[str, int]] = Factory(dict)
    subscription_group_table: Mapping[str, GroupConfig] = Factory(dict)


@frozen(kw_only=True)
class CreateGroup(Request[None]):
    """Make a group or change its settings; body: GroupConfig. Code 200."""

    code = RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP


@frozen(kw_only=True)
class CreateGroups(Request[None]):
    """Make several groups or change their settings; body: GroupConfigs. Code 225."""

    code = RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST


@frozen(kw_only=True)
class GroupConfigs:
    group_config_list: tuple[GroupConfig, ...] = ()


@frozen(kw_only=True)
class DeleteGroup(Request[None]):
    """Remove a group, and its offsets if asked. Code 207."""

    code = RequestCode.DELETE_SUBSCRIPTIONGROUP
    group_name: str
    clean_offset: bool = False


@frozen(kw_only=True)
class GroupTableReply(Reply):
    """Without a total the caller takes the body as complete, which it always is."""

    total_group_num: Int32 | None = None


@frozen(kw_only=True)
class GetAllGroups(Request[GroupTableReply]):
    """All group settings; body: GroupTable. Code 201."""

    code = RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG
    group_seq: Int32 | None = None
    data_version: str | None = None
    max_group_num: Int32 | None = None


@frozen(kw_only=True)
class GetGroup(Request[None]):
    """The settings of one group; body: GroupConfig. Code 352."""

    code = RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG
    group: str
