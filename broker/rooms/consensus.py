"""What operators ask of the group itself: who leads it, and who belongs to it."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from attrs import define

from broker.errors import InvalidParameter, NoLeader, OutcomeUnknown
from broker.serving.leadership import Leadership
from dledger_py.ledger.errors import ChangeRefused, Indefinite, NotLeader, TransferFailed
from dledger_py.remoting.commands.operations import ChangeMembers, TransferLeadership
from dledger_py.remoting.rooms import Answer, Caller, Refused, handles

_NODE: Final = re.compile(r"[a-z][0-9]{1,6}")  # the broker id is made of the number


@define(eq=False, kw_only=True)
class Consensus:
    """Codes 51005 and 59001.

    Only the leader does any of it. It is not asked on the caller's behalf, because by then it may
    be another one.
    """

    nodes: Callable[[], tuple[str, ...]]
    leadership: Leadership
    transfer: Callable[[str], Awaitable[None]]
    add: Callable[[str, str, bool], Awaitable[None]]
    remove: Callable[[str, bool], Awaitable[None]]

    @handles(TransferLeadership)
    async def transfer_leadership(self, request: TransferLeadership, caller: Caller) -> Answer[Any]:
        """Hand leadership to another member, and wait until it leads."""
        node = request.transferee_id
        nodes = self.nodes()
        if node not in nodes:
            raise InvalidParameter(f"node {node!r}: the group has {', '.join(nodes)}")
        self._require_leading()
        try:
            await self.transfer(node)
        except NotLeader as error:
            raise NoLeader(str(error)) from error
        except TransferFailed as error:
            raise Refused(f"leadership was not handed over: {error}") from error
        return Answer()

    @handles(ChangeMembers)
    async def change_members(self, request: ChangeMembers, caller: Caller) -> Answer[Any]:
        """Let a member in or out, and wait until that is committed."""
        if request.change not in ("add", "remove"):
            raise InvalidParameter(f"change {request.change!r}: add or remove")
        if not _NODE.fullmatch(request.node):
            raise InvalidParameter(f"node {request.node!r}: a letter and a number, such as n3")
        self._require_leading()
        try:
            if request.change == "add":
                await self.add(request.node, request.address, request.stays_learner)
            else:
                await self.remove(request.node, request.only_silent)
        except NotLeader as error:
            raise NoLeader(str(error)) from error
        except ValueError as error:
            raise InvalidParameter(str(error)) from error
        except ChangeRefused as error:
            raise Refused(f"the members were not changed: {error}") from error
        except Indefinite as error:
            raise OutcomeUnknown from error
        return Answer()

    def _require_leading(self) -> None:
        if not self.leadership.leads:
            leader = self.leadership.view().leader
            raise NoLeader(f"this member does not lead, {leader or 'nobody'} does")
