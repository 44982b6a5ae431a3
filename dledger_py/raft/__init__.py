"""Consensus as a pure state machine: events in, effects out.

The door is raft.py, the words are in vocabulary.py, the decisions in rules.py.
"""
