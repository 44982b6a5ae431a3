"""Whole members under a seed: the real ledger, broker and name-server code, on a simulated network,
disk and clock, in one process and one thread.

`python -m chaos.sim.nodes --seed 42` repeats a run exactly. What this adds to `chaos.sim`: the
wiring around the core (sockets, frames, the writer, recovery, snapshots, consume queues, answers).
"""
