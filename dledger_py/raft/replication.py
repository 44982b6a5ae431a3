"""How a leader feeds its followers (§5.3): what is sent, when, and how much ahead of the answers.

Laws:
- Every append carries a new, rising `round`; several followers may get the same append object.
- Entries are sent once, inside a window of messages and bytes. What arrives while the window is
  full leaves later as one append: batching without a timer.
- One message in causes at most one window out, and a repeated answer causes nothing, so messages
  cannot multiply.

Deliberately elsewhere: what answers mean for the commit index (rules.py, raft.py).
"""

from typing import TYPE_CHECKING

from dledger_py.raft import far_behind
from dledger_py.raft.progress import SERVED, Manner, Progress
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import (
    Append,
    EntriesRead,
    Entry,
    Index,
    ReadEntries,
    Send,
    TooFarBehind,
)

if TYPE_CHECKING:
    from dledger_py.raft.raft import Raft


def send_new(raft: "Raft", leader: Leader, entry: Entry) -> None:
    """Send an entry just appended to every follower that has everything before it and room in its
    window.
    """
    index = entry.index
    size = len(entry.payload)
    append: Append | None = None
    for progress in leader.followers.values():
        if progress.next != index or not has_room(raft, progress):
            continue
        if append is None:
            append = new_append(raft, leader, index - 1, (entry,))
        progress.sent(index, size)
        send(raft, progress, append)


def send_more(raft: "Raft", leader: Leader, progress: Progress) -> None:
    """Send one follower as much of what it lacks as its window allows."""
    log = raft.log
    config = raft.config
    while progress.next <= log.last_index and has_room(raft, progress):
        first = progress.next
        if first < log.tail_first:
            read_from_disk(raft, progress)
            return
        progress.manner = Manner.STREAMING
        entries = log.entries(first, config.append_entries_max, config.append_bytes_max)
        send_entries(raft, leader, progress, entries)


def send_read(raft: "Raft", leader: Leader, event: EntriesRead) -> None:
    """Send what was read from disk, if it is still what the follower needs and what our log
    holds.
    """
    progress = leader.followers.get(event.peer)
    if progress is None or not progress.reading or event.first != progress.reading:
        return  # Asked for before the follower was probed: another read may be on its way.
    progress.reading = 0
    entries = event.entries
    if not entries:
        return  # Unreadable for now; the next heartbeat asks again.
    # The follower may have acknowledged more meanwhile. By log matching, equal terms at the end
    # mean equal entries: this refuses a read that began before we were deposed, overwritten and
    # elected again.
    last = entries[-1]
    log = raft.log
    wanted = event.first == progress.next >= log.first_index
    if wanted and log.matches(last.index, last.term):
        send_entries(raft, leader, progress, entries)
    send_more(raft, leader, progress)


def send_heartbeats(raft: "Raft", leader: Leader) -> None:
    """On a tick: speak to followers that have heard nothing for a while or not of the latest
    commit.
    """
    for progress in leader.followers.values():
        quiet = raft.now - progress.sent_at >= raft.config.heartbeat_ticks
        if quiet:
            send_empty(raft, leader, progress)
            if progress.manner is Manner.CATCHING_UP:
                send_more(raft, leader, progress)
        elif progress.commit_sent < raft.commit and progress.manner in SERVED:
            send_empty(raft, leader, progress)


def send_to_all(raft: "Raft", leader: Leader) -> None:
    """Start a round now, for the sake of waiting readers."""
    for progress in leader.followers.values():
        send_empty(raft, leader, progress)


def send_empty(raft: "Raft", leader: Leader, progress: Progress) -> None:
    """Send a heartbeat. It claims all that was sent so far, so a refusal also shows that
    something was lost.
    """
    if far_behind.lacks_dropped(raft, progress):
        send(raft, progress, far_behind.notice(raft, leader))
        return
    send(raft, progress, new_append(raft, leader, progress.next - 1, ()))


def has_room(raft: "Raft", progress: Progress) -> bool:
    """Whether the window allows another append with entries."""
    return (
        progress.manner in SERVED
        and not progress.reading
        and len(progress.in_flight) < progress.window
        and progress.in_flight_bytes < raft.config.window_bytes
    )


def read_from_disk(raft: "Raft", progress: Progress) -> None:
    """Ask for entries that are no longer in memory."""
    if far_behind.lacks_dropped(raft, progress):
        return
    progress.manner = Manner.CATCHING_UP
    progress.reading = progress.next
    raft.say(
        ReadEntries(peer=progress.peer, first=progress.next, max_bytes=raft.config.append_bytes_max)
    )


def send_entries(
    raft: "Raft", leader: Leader, progress: Progress, entries: tuple[Entry, ...]
) -> None:
    """Send `entries`, which start at the follower's `next`."""
    append = new_append(raft, leader, progress.next - 1, entries)
    progress.sent(entries[-1].index, sum([len(entry.payload) for entry in entries]))
    send(raft, progress, append)


def new_append(
    raft: "Raft", leader: Leader, prev_index: Index, entries: tuple[Entry, ...]
) -> Append:
    """Make an append of the next round."""
    leader.round += 1
    return Append(
        term=raft.term,
        prev_index=prev_index,
        prev_term=raft.log.term_at(prev_index),
        entries=entries,
        commit=raft.commit,
        round=leader.round,
    )


def send(raft: "Raft", progress: Progress, message: Append | TooFarBehind) -> None:
    """Appends are said, not promised: a leader replicates while its own disk is still busy."""
    progress.sent_at = raft.now
    if type(message) is Append:
        progress.commit_sent = message.commit
    raft.say(Send(to=progress.peer, message=message))
