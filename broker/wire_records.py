"""The replicated tables as RocketMQ's JSON bodies know them, and back."""

from typing import Any

from msgspec.json import decode as json_decode
from msgspec.json import encode as json_encode

from broker.machine.config_tables import DataVersion as TableVersion
from broker.machine.groups import GroupConfig, Groups
from broker.machine.topics import TopicConfig, Topics
from dledger_py.remoting.commands import groups as wire_groups
from dledger_py.remoting.commands import topics as wire_topics


def version_on_wire(version: TableVersion, term: int) -> wire_topics.DataVersion:
    """A table's version; the term in front of it is what fences a deposed leader."""
    return wire_topics.DataVersion(
        state_version=term, timestamp=version.timestamp_ms, counter=version.counter
    )


def topic_on_wire(topic: TopicConfig) -> wire_topics.TopicConfig:
    """One topic's settings."""
    return wire_topics.TopicConfig(
        topic_name=topic.name,
        read_queue_nums=topic.read_queues,
        write_queue_nums=topic.write_queues,
        perm=topic.perm,
        topic_filter_type=topic.filter_type,
        topic_sys_flag=topic.sys_flag,
        order=topic.order,
        attributes=dict(topic.attributes),
    )


def topic_table_on_wire(topics: Topics, term: int) -> wire_topics.TopicTable:
    """All topics. The members about static topics are there because Java's readers want them."""
    version = version_on_wire(topics.data_version, term)
    return wire_topics.TopicTable(
        data_version=version,
        topic_config_table={topic.name: topic_on_wire(topic) for topic in topics},
        mapping_data_version=version,
        topic_queue_mapping_detail_map={},
        topic_queue_mapping_info_map={},
    )


def group_on_wire(group: GroupConfig) -> wire_groups.GroupConfig:
    """One group's settings."""
    policy: dict[str, Any] = json_decode(group.retry_policy)
    return wire_groups.GroupConfig(
        group_name=group.name,
        consume_enable=group.consume_enable,
        consume_from_min_enable=group.consume_from_min_enable,
        consume_broadcast_enable=group.consume_broadcast_enable,
        consume_message_orderly=group.consume_message_orderly,
        retry_queue_nums=group.retry_queues,
        retry_max_times=group.retry_max_times,
        group_retry_policy=policy,
        broker_id=group.broker_id,
        which_broker_when_consume_slowly=group.which_broker_when_consume_slowly,
        notify_consumer_ids_changed_enable=group.notify_consumer_ids_changed_enable,
        group_sys_flag=group.sys_flag,
        consume_timeout_minute=group.consume_timeout_minutes,
        attributes=dict(group.attributes),
    )


def group_from_wire(group: wire_groups.GroupConfig) -> GroupConfig:
    """The settings an operator sent."""
    return GroupConfig(
        name=group.group_name,
        consume_enable=group.consume_enable,
        consume_from_min_enable=group.consume_from_min_enable,
        consume_broadcast_enable=group.consume_broadcast_enable,
        consume_message_orderly=group.consume_message_orderly,
        retry_queues=group.retry_queue_nums,
        retry_max_times=group.retry_max_times,
        retry_policy=json_encode(dict(group.group_retry_policy)).decode(),
        broker_id=group.broker_id,
        which_broker_when_consume_slowly=group.which_broker_when_consume_slowly,
        notify_consumer_ids_changed_enable=group.notify_consumer_ids_changed_enable,
        sys_flag=group.group_sys_flag,
        consume_timeout_minutes=group.consume_timeout_minute,
        attributes=tuple(sorted(group.attributes.items())),
    )


def group_table_on_wire(groups: Groups, term: int) -> wire_groups.GroupTable:
    """All groups."""
    return wire_groups.GroupTable(
        data_version=version_on_wire(groups.data_version, term),
        subscription_group_table={group.name: group_on_wire(group) for group in groups},
    )
