"""Clients that come, stay and go, and who else is there.

Consumers beat every member, so each answers from its own table. The leader also sees to it that the
groups they consume in exist, with their retry topics: clients look for those at once.

Source: protocol pages 02 (b) and 07 (§1, 2); ClientManageProcessor.java.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from attrs import define, evolve

from broker.machine import commands, names
from broker.machine.groups import GroupConfig
from broker.machine.machine import Machine
from broker.rooms._filters import is_by_tag, wanted
from broker.serving.client_table import Client, ClientTable, ConsumerGroup
from broker.serving.leadership import Leadership
from broker.serving.proposals import Proposals
from dledger_py.remoting.commands.clients import (
    CheckClientConfig,
    CheckClientRequestBody,
    ConsumerIds,
    GetConsumerIds,
    Heartbeat,
    HeartbeatReply,
    NotifyConsumersChanged,
    UnregisterClient,
)
from dledger_py.remoting.commands.heartbeats import (
    HeartbeatData,
    MessageModel,
    decode_heartbeat,
)
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.rooms import Answer, Caller, Connection, Later, Refused, handles

ENSURED_MAX: Final = 1_000
"""Groups of one entry, a quarter of a megabyte with the longest names. All of them are made or none
is, and a heartbeat may name 100,000 (`client_table`): too many for one entry."""

_WATCHED: Final = "client table watches"


@define(eq=False, kw_only=True)
class Clients:
    """Codes 34, 35, 38 and 46; says 40 to the clients."""

    machine: Machine
    table: ClientTable
    leadership: Leadership
    proposals: Proposals
    now_ms: Callable[[], int]
    monotonic_ms: Callable[[], int]

    @handles(Heartbeat)
    def beat(
        self, request: Heartbeat, caller: Caller
    ) -> Answer[HeartbeatReply] | Later[HeartbeatReply]:
        """Take the client in, with its groups and subscriptions.

        A leader answers once the groups exist, with their retry topics: clients look for those at
        once. Groups with illegal names are left out, as by RocketMQ; pulling tells what is wrong.
        """
        data = _legal(decode_heartbeat(caller.frame.body))
        connection = caller.connection
        beat_ms = self.monotonic_ms()
        client = Client(
            client_id=data.client_id,
            connection=connection,
            language=caller.language,
            version=caller.version,
            beat_ms=beat_ms,
        )
        self._watch(connection)
        if data.without_sub:  # we do not offer these, but a client may have learnt them elsewhere
            complete = self.table.refresh(data, client, beat_ms)
            return Answer(HeartbeatReply(subscription_changed=not complete))
        changed = self.table.beat(data, client, beat_ms)
        self._notify(changed)
        answer = Answer(HeartbeatReply(subscription_changed=bool(changed)))
        missing = self._missing(consumer.group_name for consumer in data.consumer_data_set)
        if not missing:
            return answer
        later = caller.later()
        *before, last = missing
        for command in before:
            self.proposals.forget(command)
        # Whatever became of the proposals: the client is in the table, and beats again.
        self.proposals.propose(last, lambda _refusal: later.answer(answer))
        return later

    @handles(UnregisterClient)
    def unregister(self, request: UnregisterClient, caller: Caller) -> Answer[Any]:
        """The client leaves these groups."""
        self._notify(
            self.table.unregister(request.client_id, request.consumer_group, request.producer_group)
        )
        return Answer()

    @handles(CheckClientConfig)
    def check(self, request: CheckClientConfig, caller: Caller) -> Answer[Any]:
        """Whether the filter of a subscription is one. As in RocketMQ, tags always are."""
        body = caller.frame.body
        data = decode_body(CheckClientRequestBody, body).subscription_data if body else None
        if data is not None and not is_by_tag(data.expression_type):
            wanted(data.expression_type, data.sub_string)
        return Answer()

    @handles(GetConsumerIds)
    def consumer_ids(self, request: GetConsumerIds, caller: Caller) -> Answer[Any]:
        """Who consumes in the group; clients share its queues out by this list."""
        group = self.table.consumer_group(request.consumer_group)
        if group is None:
            raise Refused(f"no consumer for this group, {request.consumer_group}")
        return Answer(body=encode_body(ConsumerIds(consumer_id_list=tuple(sorted(group.clients)))))

    # --- called by others ------------------------------------------------------------------------

    def ensure_group(self, name: str) -> None:
        """See to it that a group somebody consumes in exists; the leader's business alone."""
        self._ensure((name,))

    def role_changed(self) -> None:
        """A new leader makes up for the heartbeats that came while it followed."""
        self._ensure(group.name for group in self.table.consumer_groups())

    def expire(self) -> None:
        """Clients silent for too long leave."""
        self._notify(self.table.expire(self.monotonic_ms()))

    def _ensure(self, group_names: Iterable[str]) -> None:
        for command in self._missing(group_names):
            self.proposals.forget(command)

    def _missing(self, group_names: Iterable[str]) -> Sequence[commands.EnsureGroups]:
        """What a leader has to propose so that these groups exist; nothing if they do."""
        if not self.leadership.leads:
            return ()
        groups = [
            GroupConfig(name=name) for name in dict.fromkeys(group_names) if not self._exists(name)
        ]
        return [
            commands.EnsureGroups(
                stamped_ms=self.now_ms(), groups=tuple(groups[at : at + ENSURED_MAX])
            )
            for at in range(0, len(groups), ENSURED_MAX)
        ]

    def _exists(self, name: str) -> bool:
        return name in self.machine.groups and names.retry_topic_name(name) in self.machine.topics

    def _watch(self, connection: Connection) -> None:
        if _WATCHED not in connection.attributes:
            connection.attributes[_WATCHED] = True
            connection.on_close(lambda: self._notify(self.table.connection_closed(connection)))

    def _notify(self, groups: Iterable[ConsumerGroup]) -> None:
        """Tell the consumers of these groups to share their queues out anew."""
        for group in groups:
            settings = self.machine.groups.get(group.name)
            if group.message_model is MessageModel.BROADCASTING or (
                settings is not None and not settings.notify_consumer_ids_changed_enable
            ):
                continue
            for client in group.clients.values():
                client.connection.request(NotifyConsumersChanged(consumer_group=group.name))


def _legal(heartbeat: HeartbeatData) -> HeartbeatData:
    consumers = heartbeat.consumer_data_set
    legal = tuple(data for data in consumers if names.group_fault(data.group_name) is None)
    return heartbeat if len(legal) == len(consumers) else evolve(heartbeat, consumer_data_set=legal)
