"""What one member knows of the others, and whether its own folder may vote."""

import pytest
from attrs import evolve

from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.details import Details, encode
from dledger_py.ledger.members import Members
from dledger_py.ledger.peer_frames import Hello
from dledger_py.raft.membership import Configuration
from dledger_py.storage import Birth

PEERS = {"n0": "h0:1", "n1": "h1:1", "n2": "h2:1"}
CONFIG = LedgerConfig(node="n0", peers=PEERS, data_dir="nowhere")
OWN = Details(address="h0:1", birth=100, contact="c0")


def configuration(learners=(), old=(), **births):
    """Of voters n0, n1, n2, of whose folders these births are written down."""
    return Configuration(
        voters=tuple(PEERS),
        learners=learners,
        voters_old=old,
        details=tuple(
            (name, encode(Details(address=f"{name}.new:2", birth=birth)))
            for name, birth in births.items()
        ),
    )


def members(*, older=False, **births):
    return Members(CONFIG, OWN, Birth(100, older), configuration(**births))


def hello(**fields):
    common = {"cluster": "dledger", "group": "broker-a", "sender": "n1", "receiver": "n0"}
    return Hello(**{**common, "incarnation": 1, "birth": 101, "address": "h1:1", **fields})


def test_founders_of_whom_nothing_is_written_down_vote():
    assert members().has_vote


def test_a_folder_that_is_not_written_down_where_others_are_has_no_vote():
    assert not members(n1=101).has_vote
    assert not members(n0=99, n1=101).has_vote
    assert members(n0=100, n1=101).has_vote
    assert members(older=True, n1=101).has_vote


def test_a_member_that_is_only_announced_takes_nobodys_vote():
    assert members(learners=("n3",), n3=0).has_vote
    assert not members(learners=("n3",), n3=103).has_vote


def test_a_folder_without_a_log_hears_of_the_others_log():
    one = members()
    one.greet(hello(settled=True))
    assert not one.has_vote

    one.greet(hello(settled=True, receiver_birth=100))
    assert one.has_vote


def test_a_vote_that_was_given_stays_given():
    one = members()
    one.use(configuration(n0=100, n1=101))
    one.use(configuration(n1=101))

    assert one.has_vote


@pytest.mark.parametrize(
    "fields,reason",
    [
        ({"cluster": "x"}, "'n1' is of cluster 'x', not of 'dledger'"),
        ({"group": "x"}, "'n1' is of group 'x', not of 'broker-a'"),
        ({"receiver": "n2"}, "'n1' looks for 'n2', this is 'n0'"),
        ({"sender": "n0"}, "another process says that it is 'n0', too"),
        ({"birth": 7}, "'n1' has another data folder"),
        ({"receiver_birth": 7}, "'n1' knows an older data folder of 'n0'"),
    ],
)
def test_who_must_not_be_heard_is_told_apart(fields, reason):
    one = members(n0=100, n1=101)

    assert one.unwelcome(hello()) is None
    assert one.unwelcome(hello(receiver_birth=100)) is None
    assert reason in (one.unwelcome(hello(**fields)) or "")


def test_an_emptied_folder_learns_that_the_others_know_another():
    reason = members(n1=101).unwelcome(hello(receiver_birth=7))

    assert reason == "'n1' knows another data folder of 'n0'"


def test_a_stranger_may_speak():
    assert members(n1=101).unwelcome(hello(sender="n7", birth=7)) is None


def test_what_is_not_written_down_as_it_is_said_is_to_be_written():
    one = members()
    assert (("n0", OWN),) == one.undescribed()

    one.greet(hello(contact="c1"))
    one.greet(hello(sender="n7"))
    told = Details(address="h1:1", birth=101, contact="c1")
    assert (("n0", OWN), ("n1", told)) == one.undescribed()
    assert not one.all_heard

    one.greet(hello(sender="n2", address="h2:1", birth=102))
    assert one.all_heard
    one.use(Configuration(voters=tuple(PEERS), details=(("n0", encode(OWN)), ("n1", encode(told)))))
    assert ["n2"] == [name for name, _ in one.undescribed()]


def test_a_learner_stays_one_whatever_it_says_of_itself():
    stays = Details(address="h3:1", stays_learner=True)
    one = members()
    one.use(Configuration(voters=tuple(PEERS), learners=("n3",), details=(("n3", encode(stays)),)))
    one.greet(hello(sender="n3", address="h3:2", birth=103))
    told = dict(one.undescribed())

    assert Details(address="h3:2", birth=103, stays_learner=True) == told["n3"]


def test_where_a_member_is_comes_from_the_settings_first_and_then_from_the_log():
    one = members(n1=101)

    assert {"n1": ("h1:1", "n1.new:2"), "n2": ("h2:1",)} == one.others()


def test_roles_are_shown_while_the_voters_change():
    one = members()
    one.use(
        Configuration(voters=("n1", "n2", "n3"), voters_old=("n0", "n1", "n2"), learners=("n4",))
    )

    assert {"n0": "leaving", "n1": "voter", "n2": "voter", "n3": "joining", "n4": "learner"} == {
        each.name: each.role for each in one.views()
    }


KNOWN = configuration(n0=100, n1=101, n2=102)
REMOVED = Configuration(
    voters=("n0", "n2"), details=tuple(each for each in KNOWN.details if each[0] != "n1")
)
ANNOUNCED = evolve(
    REMOVED,
    learners=("n1",),
    details=(*REMOVED.details, ("n1", encode(Details(address="h1:1")))),
)


@pytest.mark.parametrize("steps", [(REMOVED, ANNOUNCED), (ANNOUNCED,)])
def test_what_a_name_said_before_it_was_announced_is_forgotten(steps):
    one = members()
    one.greet(hello(birth=101))
    one.use(KNOWN)
    announced = [one.use(each) for each in steps][-1]
    forgotten = one.undescribed()
    again = one.use(ANNOUNCED)
    one.greet(hello(birth=7))

    assert ("n1",) == announced
    assert () == again
    assert "n1" not in dict(forgotten)
    assert 7 == dict(one.undescribed())["n1"].birth
