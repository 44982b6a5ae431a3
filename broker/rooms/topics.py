"""Topics: made, changed, looked up and removed by operators.

Source: protocol pages 02 (f), 05 and 06 §4; AdminBrokerProcessor.java.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define

from broker.errors import InvalidParameter, NotSupported
from broker.machine import commands, names
from broker.machine.attributes import Change, InvalidAttributes, parse_changes
from broker.machine.machine import Machine
from broker.rooms._admission import known_topic
from broker.serving.leadership import Leadership
from broker.serving.proposals import Proposals
from broker.wire_records import topic_on_wire, topic_table_on_wire
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.operations import GetSystemTopics
from dledger_py.remoting.commands.routes import TopicList
from dledger_py.remoting.commands.topics import (
    CreateTopic,
    CreateTopics,
    DeleteTopic,
    GetAllTopics,
    GetTopic,
    TopicConfigs,
    TopicTableReply,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles

LIST_MAX: Final = 1_000  # of topics in one request: each is an entry of the log

NOT_DONE: Final[Mapping[Change, str]] = {
    ("queue.type", "BatchCQ"): "a queue of whole batches",
    ("cleanup.policy", "COMPACTION"): "keeping only the newest message of each key",
}
"""Attributes that RocketMQ heeds and this broker would only keep."""


@define(eq=False, kw_only=True)
class Topics:
    """Codes 17, 18, 21, 215, 305 and 351."""

    cluster_name: str
    broker_name: str
    mixed: bool = False
    """Whether topics may take any kind of message: `message.type` MIXED."""
    machine: Machine
    leadership: Leadership
    proposals: Proposals
    term: Callable[[], int]
    now_ms: Callable[[], int]

    @handles(CreateTopic)
    def create(self, request: CreateTopic, caller: Caller) -> Answer[None] | Later[Any]:
        """Make a topic, or give it these settings; the name servers hear of it at once."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        self._refuse_system_topic(request.topic)
        command = commands.PutTopic(
            stamped_ms=self.now_ms(),
            name=request.topic,
            read_queues=request.read_queue_nums,
            write_queues=request.write_queue_nums,
            perm=request.perm,
            filter_type=request.topic_filter_type,
            sys_flag=request.topic_sys_flag,
            order=request.order,
            attribute_changes=self._changes(request.attributes),
        )
        return self.proposals.answer(command, caller)

    @handles(CreateTopics)
    def create_all(self, request: CreateTopics, caller: Caller) -> Answer[None] | Later[Any]:
        """Make several topics, or give them these settings. Where one cannot be, those that can
        may have been made all the same."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        wanted = decode_body(TopicConfigs, caller.frame.body).topic_config_list
        if len(wanted) > LIST_MAX:
            raise InvalidParameter(f"{len(wanted)} topics at once, {LIST_MAX} are possible")
        puts = []
        for config in wanted:
            self._refuse_system_topic(config.topic_name)
            put = commands.PutTopic(
                stamped_ms=self.now_ms(),
                name=config.topic_name,
                read_queues=config.read_queue_nums,
                write_queues=config.write_queue_nums,
                perm=config.perm,
                filter_type=config.topic_filter_type,
                sys_flag=config.topic_sys_flag,
                order=config.order,
                attribute_changes=self._changes(_as_text(config.attributes)),
            )
            puts.append(put)
        return self.proposals.answer_all(puts, caller)

    @handles(DeleteTopic)
    def delete(self, request: DeleteTopic, caller: Caller) -> Answer[None] | Later[Any]:
        """Remove a topic, its queues and what groups consumed of them; nothing if there is none.

        Every member is asked by the tools, and each hands it on, so it is done several times.
        """
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        self._refuse_system_topic(request.topic)
        if request.topic not in self.machine.topics:
            return Answer()
        # What groups popped of it and did not acknowledge is of no use to anybody either.
        retries = (
            names.pop_retry_topic_name(group, request.topic)
            for group in self.machine.groups.names()
        )
        popped = (name for name in retries if name in self.machine.topics)
        topics = (
            *(name for name in popped if not self._is_shared(name, request.topic)),
            request.topic,
        )
        deletions = [commands.DeleteTopic(stamped_ms=self.now_ms(), name=name) for name in topics]
        return self.proposals.answer_all(deletions, caller)

    @handles(GetTopic)
    def get(self, request: GetTopic, caller: Caller) -> Answer[None]:
        """One topic's settings."""
        topic = known_topic(self.machine, request.topic)
        return Answer(body=encode_body(topic_on_wire(topic)))

    @handles(GetAllTopics)
    def get_all(self, request: GetAllTopics, caller: Caller) -> Answer[TopicTableReply]:
        """All topics at once; newer tools would also take pages."""
        return Answer(body=encode_body(topic_table_on_wire(self.machine.topics, self.term())))

    @handles(GetSystemTopics)
    def system_topics(self, request: GetSystemTopics, caller: Caller) -> Answer[None]:
        """The broker's own topics."""
        own = [name for name in self.machine.topics.names() if self._is_system_topic(name)]
        return Answer(body=encode_body(TopicList(topic_list=tuple(own))))

    def _is_shared(self, retries: str, topic: str) -> bool:
        """Whether what is in a topic of retries may be others' than those of `topic`: it is called
        `%RETRY%a_b` by the retries of group `a_b`, and by what group `a` popped of topic `b`."""
        machine, name = self.machine, retries.removeprefix(names.RETRY_PREFIX)
        return name in machine.groups or any(
            name[:at] in machine.groups
            and name[at + 1 :] in machine.topics
            and name[at + 1 :] != topic
            for at, letter in enumerate(name)
            if letter == "_"
        )

    def _is_system_topic(self, name: str) -> bool:
        return names.is_system_topic(name, cluster=self.cluster_name, broker=self.broker_name)

    def _refuse_system_topic(self, name: str) -> None:
        if self._is_system_topic(name):
            raise InvalidParameter(f"The topic[{name}] is conflict with system topic.")

    def _changes(self, attributes: str) -> tuple[Change, ...]:
        """What to change of a topic's attributes. Raises: the refusal."""
        try:
            changes = parse_changes(attributes)
        except InvalidAttributes as error:
            raise Refused(str(error)) from error  # RocketMQ's code 1
        for change in changes:
            if change == ("message.type", "MIXED") and not self.mixed:
                raise InvalidParameter("message.type MIXED: mixed topics are not enabled")
            if change in NOT_DONE:
                raise NotSupported(f"{change[0]} {change[1]}: {NOT_DONE[change]}")
            if change[0] == "reserve.time" and change[1] not in (None, "-1"):
                raise NotSupported(
                    f"reserve.time {change[1]}: messages go by the broker's settings"
                    " retention_hours and retention_bytes; a time of a topic's own"
                )
        return changes


def _as_text(attributes: Mapping[str, str]) -> str:
    """The spelling of CreateTopic: `+key=value`, and `-key` without a value."""
    return ",".join(
        key if key.startswith("-") else f"{key}={value}" for key, value in attributes.items()
    )
