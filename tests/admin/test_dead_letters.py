"""What becomes of a dead letter's properties when it is sent again."""

from types import SimpleNamespace
from typing import Any

import pytest

from dledger_py.admin.dead_letters import send_again


@pytest.mark.parametrize("to", [None, "elsewhere"])
async def test_a_committed_message_is_not_half_again(to) -> None:
    sent: list[dict[str, str]] = []

    async def send(*_args: Any, properties: dict[str, str], **_how: Any) -> None:
        sent.append(properties)

    own = {"TRAN_MSG": "true", "PGROUP": "payers", "__transactionId__": "U1", "colour": "red"}
    letter: Any = SimpleNamespace(properties=own, body=b"pay", tag=None, keys=())
    client: Any = SimpleNamespace(send=send)
    await send_again(client, letter, "shop", to)

    assert [{"colour": "red"}] == sent
