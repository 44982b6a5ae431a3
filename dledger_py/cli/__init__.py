"""The `dledger` command. Commands import what they need when they run: help is quick."""
