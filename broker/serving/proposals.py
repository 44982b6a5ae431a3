"""Commands that operators and heartbeats cause: proposed one by one, answered when applied."""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define

from broker.errors import GroupNotFound, IllegalOperation, InvalidParameter, TopicNotFound
from broker.machine.codec import encode_command
from broker.machine.commands import Command
from broker.machine.replies import Declined, Reason, Reply
from broker.serving.put_batch import Proposer, PutBatch, refusal_of
from dledger_py.ledger.errors import LedgerError
from dledger_py.remoting.rooms import Answer, Caller, Later, Refused

Refusal = Exception


@define(eq=False)
class Proposals:
    """The way of every command but sends and offsets into the log."""

    ledger: Proposer
    batch: PutBatch

    def propose(self, command: Command, done: Callable[[Refusal | None], None]) -> None:
        """Propose the command behind what this turn has gathered, so that order is kept.

        `done` is called once it is applied, with None, or with what to tell the client instead.
        """
        self.ask(command, lambda _reply: done(None), done)

    def ask(
        self,
        command: Command,
        replied: Callable[[Reply], None],
        refused: Callable[[Refusal], None],
    ) -> None:
        """As `propose`; `replied` is called with what applying it answered, or `refused`."""
        self.batch.propose()

        def settle(outcome: Any) -> None:
            if isinstance(outcome, LedgerError):
                refused(refusal_of(outcome))
            elif isinstance(outcome, Declined):
                refused(_declined(outcome))
            else:
                replied(outcome)

        self.ledger.propose(encode_command(command), settle)

    def answer(self, command: Command, caller: Caller) -> Later[Any]:
        """Propose the command and answer the caller with success once it is applied."""
        later = caller.later()
        self.settle(command, later)
        return later

    def settle(self, command: Command, later: Later[Any]) -> None:
        """As `answer`, for a promise that was given before."""

        def done(refusal: Refusal | None) -> None:
            if refusal is None:
                later.answer(Answer())
            else:
                later.refuse(refusal)

        self.propose(command, done)

    def answer_all(self, commands: Sequence[Command], caller: Caller) -> Answer[Any] | Later[Any]:
        """Propose several commands and answer once all are applied: with success, or with the
        first refusal, which says nothing about the others."""
        if not commands:
            return Answer()
        later = caller.later()
        self.settle_all(commands, later)
        return later

    def settle_all(self, commands: Sequence[Command], later: Later[Any]) -> None:
        """As `answer_all`, for a promise that was given before; there is at least one command."""
        refusals: list[Refusal] = []
        left = len(commands)

        def done(refusal: Refusal | None) -> None:
            nonlocal left
            left -= 1
            if refusal is not None:
                refusals.append(refusal)
            if left == 0 and refusals:
                later.refuse(refusals[0])
            elif left == 0:
                later.answer(Answer())

        for command in commands:
            self.propose(command, done)

    def forget(self, command: Command) -> None:
        """Propose the command; nobody waits for it."""
        self.propose(command, lambda _refusal: None)


def _declined(reply: Declined) -> Exception:
    match reply.reason:
        case Reason.TABLE_FULL | Reason.INVALID_ATTRIBUTE:
            return Refused(reply.detail)  # RocketMQ has no code of its own for either
        case Reason.OUTDATED:
            return IllegalOperation(f"too late: {reply.detail}")
        case Reason.UNKNOWN_TOPIC:
            return Refused(reply.detail, code=TopicNotFound.code)
        case Reason.UNKNOWN_GROUP:
            return Refused(reply.detail, code=GroupNotFound.code)
        case _:
            return InvalidParameter(reply.detail)
