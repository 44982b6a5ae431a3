"""What operators ask of the group itself: who leads it."""

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define

from broker.errors import InvalidParameter, NoLeader
from broker.serving.leadership import Leadership
from dledger_py.ledger.errors import NotLeader, TransferFailed
from dledger_py.remoting.commands.operations import TransferLeadership
from dledger_py.remoting.rooms import Answer, Caller, Refused, handles


@define(eq=False, kw_only=True)
class Consensus:
    """Code 51005."""

    nodes: tuple[str, ...]
    leadership: Leadership
    transfer: Callable[[str], Awaitable[None]]

    @handles(TransferLeadership)
    async def transfer_leadership(self, request: TransferLeadership, caller: Caller) -> Answer[Any]:
        """Hand leadership to another member, and wait until it leads.

        Only the leader can; it is not asked on the caller's behalf, because by then it may be
        another one.
        """
        node = request.transferee_id
        if node not in self.nodes:
            raise InvalidParameter(f"node {node!r}: the group has {', '.join(self.nodes)}")
        if not self.leadership.leads:
            leader = self.leadership.view().leader
            raise NoLeader(f"this member does not lead, {leader or 'nobody'} does")
        try:
            await self.transfer(node)
        except NotLeader as error:
            raise NoLeader(str(error)) from error
        except TransferFailed as error:
            raise Refused(f"leadership was not handed over: {error}") from error
        return Answer()
