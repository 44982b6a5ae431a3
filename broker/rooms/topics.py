"""Topics: made, changed, looked up and removed by operators.

Source: protocol pages 02 (f), 05 and 06 §4; AdminBrokerProcessor.java.
"""

from collections.abc import Callable
from typing import Any

from attrs import define

from broker.errors import InvalidParameter
from broker.machine import commands, names
from broker.machine.attributes import InvalidAttributes, parse_changes
from broker.machine.machine import Machine
from broker.rooms._admission import known_topic
from broker.serving.leadership import Leadership
from broker.serving.proposals import Proposals
from broker.wire_records import topic_on_wire, topic_table_on_wire
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.operations import GetSystemTopics
from dledger_py.remoting.commands.routes import TopicList
from dledger_py.remoting.commands.topics import (
    CreateTopic,
    DeleteTopic,
    GetAllTopics,
    GetTopic,
    TopicTableReply,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles


@define(eq=False, kw_only=True)
class Topics:
    """Codes 17, 21, 215, 305 and 351."""

    cluster_name: str
    broker_name: str
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
        try:
            changes = parse_changes(request.attributes)
        except InvalidAttributes as error:
            raise Refused(str(error)) from error  # RocketMQ's code 1
        if ("message.type", "MIXED") in changes:
            raise InvalidParameter("message.type MIXED: mixed topics are not enabled")
        command = commands.PutTopic(
            stamped_ms=self.now_ms(),
            name=request.topic,
            read_queues=request.read_queue_nums,
            write_queues=request.write_queue_nums,
            perm=request.perm,
            filter_type=request.topic_filter_type,
            sys_flag=request.topic_sys_flag,
            order=request.order,
            attribute_changes=changes,
        )
        return self.proposals.answer(command, caller)

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
        command = commands.DeleteTopic(stamped_ms=self.now_ms(), name=request.topic)
        return self.proposals.answer(command, caller)

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

    def _is_system_topic(self, name: str) -> bool:
        return names.is_system_topic(name, cluster=self.cluster_name, broker=self.broker_name)

    def _refuse_system_topic(self, name: str) -> None:
        if self._is_system_topic(name):
            raise InvalidParameter(f"The topic[{name}] is conflict with system topic.")
