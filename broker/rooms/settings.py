"""Settings of the members of a group, shown, and changed while they run.

A change is each member's own, and written down by each. Whoever is asked has the others do it,
too, so that it does not go away with the leader; the answer is success only if all did. Asking
again does no harm.

Source: protocol page 02 (f); AdminBrokerProcessor.java.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import trio
from attrs import define, field

from broker.errors import InvalidParameter
from broker.serving.leadership import FORWARDED_BY
from broker.serving.live_settings import LiveSettings
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.operations import (
    GetBrokerConfig,
    GetBrokerConfigReply,
    UpdateBrokerConfig,
)
from dledger_py.remoting.commands.settings_text import decode_settings
from dledger_py.remoting.commands.topics import DataVersion
from dledger_py.remoting.rooms import Answer, Caller, Refused, handles
from dledger_py.remoting.wire.frame import Frame

MEMBER_TIMEOUT_S: Final = 3.0  # for one of the others; tools wait five seconds for the answer
CHANGES_MAX: Final = 100  # in one request

AskMember = Callable[[str, Caller, float], Awaitable[Frame | None]]


@define(eq=False, kw_only=True)
class Settings:
    """Codes 25 and 26."""

    live: LiveSettings
    leads: Callable[[], bool]
    others: Callable[[], Iterable[str]]
    ask_member: AskMember
    _changing: trio.Lock = field(factory=trio.Lock, init=False)

    @handles(GetBrokerConfig)
    def show(self, request: GetBrokerConfig, caller: Caller) -> Answer[GetBrokerConfigReply]:
        """The settings, one `key=value` a line."""
        shown = self.live.config.as_text(leads=self.leads())
        text = "".join(f"{key}={value}\n" for key, value in shown.items())
        version = encode_body(DataVersion()).decode()
        return Answer(GetBrokerConfigReply(version=version), body=text.encode())

    @handles(UpdateBrokerConfig)
    async def change(self, request: UpdateBrokerConfig, caller: Caller) -> Answer[None]:
        """Change settings of every member of the group. Raises: NotPermitted, InvalidParameter:
        nobody changed anything. Refused: some did."""
        changes = decode_settings(caller.frame.body)
        if not changes:
            raise InvalidParameter("no setting is named: key=value is expected, one a line")
        if len(changes) > CHANGES_MAX:
            raise InvalidParameter(f"{len(changes)} settings at once, {CHANGES_MAX} are possible")
        async with self._changing:
            try:
                await self.live.change(changes)
            except OSError as error:
                raise Refused(f"the change cannot be written down: {error}") from error
        if FORWARDED_BY not in caller.frame.fields:
            await self._tell_others(caller)
        return Answer()

    async def _tell_others(self, caller: Caller) -> None:
        failed: list[str] = []

        async def tell(member: str) -> None:
            reply: Any = await self.ask_member(member, caller, MEMBER_TIMEOUT_S)
            if reply is None:
                failed.append(f"{member} did not answer")
            elif reply.code != 0:
                failed.append(f"{member} says {reply.remark or reply.code}")

        async with trio.open_nursery() as nursery:
            for member in self.others():
                nursery.start_soon(tell, member)
        if failed:
            raise Refused(
                "the settings were changed, but not on all members of the group:"
                f" {'; '.join(sorted(failed))}. Ask again when they are back"
            )
