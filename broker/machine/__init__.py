"""The replicated state: what the log's commands mean, computed alike on every member.

Pure: no clock, no dice, no I/O, no log lines. `machine.Machine.apply` is the only door for changes;
`commands` says what can be asked, `codec` how it lies in the log, `effects` what follows from it.
The tables (`topics`, `groups`, `queues`, `offsets`) may be read by anyone between two awaits.
"""
