"""Routes as values: what name servers of both kinds send, and the template topic's."""

import json

import pytest

from dledger_py.client.queues import Queue
from dledger_py.client.route_tables import inherit, parse_route


def route_body(members: dict[str, str], *, read: int = 2, write: int = 3, perm: int = 6) -> bytes:
    return json.dumps(
        {
            "brokerDatas": [
                {
                    "brokerAddrs": members,
                    "brokerName": "broker-a",
                    "cluster": "DefaultCluster",
                    "enableActingMaster": False,
                }
            ],
            "filterServerTable": {},
            "queueDatas": [
                {
                    "brokerName": "broker-a",
                    "perm": perm,
                    "readQueueNums": read,
                    "topicSysFlag": 0,
                    "writeQueueNums": write,
                }
            ],
        }
    ).encode()


def test_a_route_names_queues_and_members_leader_first() -> None:
    route = parse_route("t", route_body({"2": "h:2", "0": "h:0", "3": "h:3"}))

    assert route.groups["broker-a"].leader == "h:0"
    assert route.addresses == ("h:0", "h:2", "h:3")
    assert route.read_queues == (Queue("t", "broker-a", 0), Queue("t", "broker-a", 1))
    assert len(route.write_queues) == 3


def test_a_group_without_a_leader_is_still_written_to() -> None:
    route = parse_route("t", route_body({"2": "h:2", "3": "h:3"}))

    assert route.groups["broker-a"].leader is None
    assert len(route.write_queues) == 3


@pytest.mark.parametrize("perm, read, write", [(6, 2, 3), (4, 2, 0), (2, 0, 3), (0, 0, 0)])
def test_permissions_open_and_close_queues(perm: int, read: int, write: int) -> None:
    route = parse_route("t", route_body({"0": "h:0"}, perm=perm))

    assert (len(route.read_queues), len(route.write_queues)) == (read, write)


def test_a_topic_created_on_use_gets_at_most_four_queues() -> None:
    template = parse_route("TBW102", route_body({"0": "h:0"}, read=8, write=8, perm=7))

    route = inherit("new", template)

    assert route.inherited
    assert route.write_queues == tuple(Queue("new", "broker-a", number) for number in range(4))
    assert route.read_queues == ()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"brokerDatas":[{}]}'])
def test_a_body_that_is_no_route_is_named(body: bytes) -> None:
    with pytest.raises(ValueError, match="route of 't' cannot be read"):
        parse_route("t", body)


def test_a_broker_id_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="route of 't' cannot be read"):
        parse_route("t", route_body({"x": "h:0"}))
