"""The rule tables as text, for docs/raft.md; `python -m dledger_py.raft.documentation` prints
them."""

from dledger_py.raft.roles import ROLES
from dledger_py.raft.rules import RULES, STALE
from dledger_py.raft.vocabulary import MESSAGES


def rule_table() -> str:
    """Return one row per message: what each role does with it, and with one of an older term."""
    rows = [
        ["message", *(role.__name__ for role in ROLES), "any, of an older term"],
        *(
            [
                message.__name__,
                *(_shown(RULES[role, message].__name__) for role in ROLES),
                _shown(STALE[message].__name__),
            ]
            for message in MESSAGES
        ),
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _shown(name: str) -> str:
    return "·" if name == "ignore" else name.replace("_", " ")


if __name__ == "__main__":
    print(rule_table(), end="")
