"""Consumer groups: made, changed, looked up and removed by operators.

Source: protocol pages 02 (f) and 06 §4; AdminBrokerProcessor.java.
"""

from collections.abc import Callable
from typing import Any, Final

from attrs import define

from broker.errors import GroupNotFound, InvalidParameter
from broker.machine import commands, names
from broker.machine.machine import Machine
from broker.rooms._retry_policies import policy_of
from broker.serving.leadership import Leadership
from broker.serving.proposals import Proposals
from broker.wire_records import group_from_wire, group_on_wire, group_table_on_wire
from dledger_py.remoting.commands.groups import (
    CreateGroup,
    CreateGroups,
    DeleteGroup,
    GetAllGroups,
    GetGroup,
    GroupConfig,
    GroupConfigs,
    GroupTableReply,
)
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused, handles

LIST_MAX: Final = 1_000  # of groups in one request: each is an entry of the log


@define(eq=False, kw_only=True)
class Groups:
    """Codes 200, 201, 207, 225 and 352."""

    machine: Machine
    leadership: Leadership
    proposals: Proposals
    term: Callable[[], int]
    now_ms: Callable[[], int]

    @handles(CreateGroup)
    def create(self, request: CreateGroup, caller: Caller) -> Answer[None] | Later[Any]:
        """Make a group, or give it these settings."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        put = self._put(decode_body(GroupConfig, caller.frame.body))
        return self.proposals.answer(put, caller)

    @handles(CreateGroups)
    def create_all(self, request: CreateGroups, caller: Caller) -> Answer[None] | Later[Any]:
        """Make several groups, or give them these settings. Where one cannot be, those that can
        may have been made all the same."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        wanted = decode_body(GroupConfigs, caller.frame.body).group_config_list
        if len(wanted) > LIST_MAX:
            raise InvalidParameter(f"{len(wanted)} groups at once, {LIST_MAX} are possible")
        return self.proposals.answer_all([self._put(config) for config in wanted], caller)

    def _put(self, wanted: GroupConfig) -> commands.PutGroup:
        """Raises: InvalidParameter, Refused."""
        config = group_from_wire(wanted)
        policy_of(config.retry_policy)
        before = self.machine.groups.get(config.name)
        # RocketMQ has a mechanism, as for topics, and defines no attribute.
        if config.attributes and (before is None or config.attributes != before.attributes):
            named = ", ".join(sorted(key.lstrip("+-") for key, _value in config.attributes))
            raise Refused(f"group {config.name!r}: no attribute is known, so not {named:.200}")
        return commands.PutGroup(stamped_ms=self.now_ms(), config=config)

    @handles(DeleteGroup)
    def delete(self, request: DeleteGroup, caller: Caller) -> Answer[None] | Later[Any]:
        """Remove a group, and with `cleanOffset` what it consumed; nothing if there is none."""
        if not self.leadership.leads:
            return self.leadership.relay(caller)
        if names.is_system_group(request.group_name):
            raise InvalidParameter(f"group '{request.group_name}' belongs to the broker")
        command = commands.DeleteGroup(
            stamped_ms=self.now_ms(), name=request.group_name, clean_offsets=request.clean_offset
        )
        return self.proposals.answer(command, caller)

    @handles(GetGroup)
    def get(self, request: GetGroup, caller: Caller) -> Answer[None]:
        """One group's settings."""
        group = self.machine.groups.get(request.group)
        if group is None:
            raise GroupNotFound(request.group)
        return Answer(body=encode_body(group_on_wire(group)))

    @handles(GetAllGroups)
    def get_all(self, request: GetAllGroups, caller: Caller) -> Answer[GroupTableReply]:
        """All groups at once."""
        return Answer(body=encode_body(group_table_on_wire(self.machine.groups, self.term())))
