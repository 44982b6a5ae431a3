"""The table of clients and features is whole, and the same in the documentation."""

from __future__ import annotations

from pathlib import Path

from tests.interop.matrix import CLIENTS, FEATURES, SCENARIOS, table

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def test_the_page_has_the_table_that_the_runs_are_made_from() -> None:
    assert table(CLIENTS) in PAGE.read_text(), "python tests/interop/run.py --list"


def test_what_is_not_proven_has_a_reason_and_nothing_else() -> None:
    proofs = set(FEATURES.values())

    assert {client.name: proofs for client in CLIENTS} == {
        client.name: client.proven ^ set(client.lacks) for client in CLIENTS
    }
    assert [] == [
        (client.name, proof)
        for client in CLIENTS
        for proof in client.remarks
        if proof not in client.proven
    ]


def test_what_is_only_tried_undisturbed_has_a_reason() -> None:
    for client in CLIENTS:
        assert client.only_calm <= SCENARIOS & client.proven & set(client.remarks), client.name
