"""Settings that cannot work are refused at the start, by name."""

import pytest

from broker.config import BrokerConfig, LedgerSettings

PEERS = {"n0": "127.0.0.1:1", "n1": "127.0.0.1:2"}
MEMBERS = {"n0": "127.0.0.1:3", "n1": "127.0.0.1:4"}


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"flush": "never"}, "flush"),
        ({"node": "first"}, "node"),
        ({"members": {"n1": "127.0.0.1:1"}}, "members"),
        ({"ledger": LedgerSettings(peers=PEERS)}, "members is empty"),
        ({"ledger": LedgerSettings(peers=PEERS), "members": {"n0": "127.0.0.1:1"}}, "same nodes"),
        ({"listen": "0.0.0.0:10911"}, "members must name one"),
        ({"listen": ":10911"}, "members must name one"),
        ({"namesrv": ("somewhere",)}, "namesrv"),
        ({"members": {"n0": "nowhere"}}, "n0"),
        ({"default_topic_queues": 0}, "default_topic_queues"),
        ({"max_message_bytes": 8 * 1024 * 1024}, "max_message_bytes"),
        ({"register_period_s": 0}, "register_period_s"),
        ({"forward_wait_ms": -1}, "forward_wait_ms"),
        ({"join_wait_ms": -1}, "join_wait_ms"),
    ],
)
def test_what_cannot_work_is_refused(settings, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        BrokerConfig(**settings)


def test_listening_everywhere_needs_an_address_to_tell() -> None:
    config = BrokerConfig(listen="0.0.0.0:10911", members={"n0": "10.0.0.1:10911"})

    assert "10.0.0.1:10911" == config.advertised
    assert (("0.0.0.0", 10911), ("0.0.0.0", 10909)) == config.listen_addresses()


def test_a_member_that_is_alone_needs_no_peers() -> None:
    assert {"n0": "127.0.0.1:0"} == BrokerConfig().ledger_config().peers


def test_ids_are_numbers_plus_one() -> None:
    config = BrokerConfig(
        node="n1", members=MEMBERS, ledger=LedgerSettings(peers=PEERS), listen="127.0.0.1:4"
    )

    assert 2 == config.broker_id
