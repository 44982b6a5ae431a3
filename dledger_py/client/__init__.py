"""The client: `from dledger_py.client import connect`."""
