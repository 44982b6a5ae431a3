"""dledger-py: RocketMQ's protocol on a Raft log.

Nothing is imported here: `import dledger_py.client` must not load Raft or a server.
Users start at `dledger_py.client`, operators at the command `dledger`.
"""
