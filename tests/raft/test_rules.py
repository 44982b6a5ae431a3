"""The rule tables are complete, and docs/raft.md shows them as they are."""

from pathlib import Path

from dledger_py.raft.documentation import rule_table
from dledger_py.raft.roles import ROLES
from dledger_py.raft.rules import RULES, STALE
from dledger_py.raft.vocabulary import MESSAGES


def test_every_role_has_one_rule_for_every_message() -> None:
    wanted = {(role, message) for role in ROLES for message in MESSAGES}

    assert wanted == set(RULES)


def test_every_message_of_an_older_term_has_a_rule() -> None:
    assert set(MESSAGES) == set(STALE)


def test_the_table_in_the_docs_is_fresh() -> None:
    page = (Path(__file__).parents[2] / "docs" / "raft.md").read_text()
    shown = page.split("<!-- rules -->\n")[1]

    assert rule_table() == shown
