"""Settings that cannot work are refused at the start, by name."""

from pathlib import Path

import pytest

from broker.config import BrokerConfig, GroupSettings, LedgerSettings
from dledger_py.runtime.settings import SettingsError, load
from tests.runtime.test_tls import write_files

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
        ({"listen": ":10911"}, "':10911' of 'listen': host:port"),
        ({"listen": "127.0.0.1:99999"}, "'127.0.0.1:99999' of 'listen': host:port"),
        ({"namesrv": ("somewhere",)}, "namesrv"),
        ({"members": {"n0": "nowhere"}}, "n0"),
        ({"default_topic_queues": 0}, "default_topic_queues"),
        ({"max_message_bytes": 8 * 1024 * 1024}, "max_message_bytes"),
        ({"register_period_s": 0}, "register_period_s"),
        ({"transaction_timeout_ms": 0}, "transaction_timeout_ms"),
        ({"transaction_check_interval_ms": 0}, "transaction_check_interval_ms"),
        ({"transaction_check_max": 0}, "transaction_check_max"),
        ({"transaction_hours_max": 0}, "transaction_hours_max"),
        ({"forward_wait_ms": -1}, "forward_wait_ms"),
        ({"join_wait_ms": -1}, "join_wait_ms"),
        ({"deduplication_messages": -1}, "deduplication_messages"),
        ({"deduplication_messages": 1 << 24}, "deduplication_messages"),
        ({"deduplication_s": -1}, "deduplication_s"),
        ({"preferred_leader": "n7"}, "preferred_leader"),
        ({"ledger": LedgerSettings(peers={"n0": "nowhere"})}, "'nowhere' of 'n0': host:port"),
        ({"ledger": LedgerSettings(heartbeat_ms=-1)}, "heartbeat_ms -1"),
        ({"ledger": LedgerSettings(election_timeout_ms=200)}, "election_timeout_ms 200"),
        ({"ledger": LedgerSettings(fetch_max_bytes_per_s=0)}, "fetch_max_bytes_per_s 0"),
        ({"ledger": LedgerSettings(segment_size_bytes=0)}, "ledger.segment_size_bytes = 0"),
        ({"ledger": LedgerSettings(snapshot_every_bytes=0)}, "ledger.snapshot_every_bytes = 0"),
        ({"ledger": LedgerSettings(tls_certificate="c", tls_ca="a")}, "tls_key missing"),
        (
            {"ledger": LedgerSettings(tls_certificate="c", tls_key="k", tls_ca="a")},
            "tls_certificate = 'c': No such file",
        ),
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


def test_certificates_reach_the_ledger_and_are_looked_at_before_the_start(tmp_path) -> None:
    files = {f"tls_{kind}": file for kind, file in write_files(tmp_path, "n0").items()}
    config = BrokerConfig(ledger=LedgerSettings(**files)).ledger_config()

    assert files == {name: getattr(config, name) for name in files}
    with pytest.raises(ValueError, match="is for 'n0': 'n1' must be a DNS entry"):
        BrokerConfig(node="n1", members=MEMBERS, ledger=LedgerSettings(peers=PEERS, **files))


# --- several groups ------------------------------------------------------------------------------


def group(name: str = "broker-a", *, first_port: int = 10911, **settings) -> GroupSettings:
    members = {f"n{number}": f"127.0.0.1:{first_port + 10 * number}" for number in range(2)}
    return GroupSettings(**{"broker_name": name, "members": members, **settings})


def two_groups(*groups: GroupSettings, **settings) -> BrokerConfig:
    groups = groups or (group(), group("broker-b", first_port=11011))
    return BrokerConfig(ledger=LedgerSettings(peers=PEERS), groups=groups, **settings)


def test_each_group_has_its_own_place_and_the_rest_in_common() -> None:
    config = two_groups(
        group(preferred_leader="n1"),
        group("broker-b", first_port=11011, listen="0.0.0.0:11011"),
        data_dir=Path("data"),
        flush="async",
    )
    first, second = config.by_group()

    assert ("broker-a", "broker-b") == (first.broker_name, second.broker_name)
    assert (Path("data/broker-a"), Path("data/broker-b")) == (first.data_dir, second.data_dir)
    assert ("127.0.0.1:10911", "0.0.0.0:11011") == (first.listen, second.listen)
    assert ("n1", "") == (first.preferred_leader, second.preferred_leader)
    assert ("async", "async") == (first.flush, second.flush)
    assert PEERS == first.ledger.peers == second.ledger.peers
    assert ((), ()) == (first.groups, second.groups)


def test_without_groups_there_is_one_just_as_configured() -> None:
    config = BrokerConfig()

    assert (config,) == config.by_group()


def test_a_group_of_other_nodes_is_left_to_them() -> None:
    elsewhere = group("broker-b", members={"n1": "127.0.0.1:11021"})
    (only,) = two_groups(group(), elsewhere).by_group()
    (_, alone) = two_groups(group(), elsewhere, node="n1").by_group()

    assert "broker-a" == only.broker_name
    assert {"n1": PEERS["n1"]} == alone.ledger.peers


@pytest.mark.parametrize(
    "groups, complaint",
    [
        ([group(), group()], "two are named 'broker-a'"),
        ([group("")], "it must name a folder"),
        ([group("..")], "it must name a folder"),
        ([group("a/b")], "it must name a folder"),
        ([group(members={})], "none has this node"),
        ([group(members={"n1": "127.0.0.1:1"})], "none has this node"),
        ([group(members={"n0": "127.0.0.1:1", "n5": "127.0.0.1:2"})], "does not list 'n5'"),
        ([group(preferred_leader="n5")], "group 'broker-a': preferred_leader = 'n5'"),
        ([group(), group("broker-b", first_port=10911)], "both want port 10911"),
        ([group(), group("broker-b", first_port=10913)], "both want port 10911"),
        ([group(members={"n0": "a:1", "n1": "b"})], "group 'broker-a': address 'b' of 'n1'"),
    ],
)
def test_groups_that_cannot_work_together_are_refused(groups, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        two_groups(*groups)


@pytest.mark.parametrize("settings", [{"members": MEMBERS}, {"preferred_leader": "n0"}])
def test_what_each_group_has_of_its_own_cannot_be_said_for_all(settings) -> None:
    with pytest.raises(ValueError, match="each has its own"):
        two_groups(**settings)


def test_groups_are_tables_of_the_file(tmp_path) -> None:
    path = tmp_path / "n0.toml"
    path.write_text(
        """
        [ledger.peers]
        n0 = "127.0.0.1:1"

        [[groups]]
        broker_name = "broker-a"
        members = { n0 = "127.0.0.1:10911" }

        [[groups]]
        broker_name = "broker-b"
        members = { n0 = "127.0.0.1:11011" }
        """
    )
    names = [each.broker_name for each in load(BrokerConfig, path).by_group()]
    path.write_text(path.read_text().replace("broker_name", "name"))
    with pytest.raises(SettingsError) as refusal:
        load(BrokerConfig, path)

    assert ["broker-a", "broker-b"] == names
    assert f"{path}: groups" in str(refusal.value)
    assert "extra fields found (name) @ [0]" in str(refusal.value)
