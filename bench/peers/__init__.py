"""The same workloads against a cluster of ours and against others: `make bench-peers`.

Each system runs as three server processes on this machine, one system at a time, its data under
one scratch folder; the load generator in C (`bench/generator`) speaks each one's own protocol. What
each promises before it answers, and how figures are made, is in docs/performance.md.

`peer` is the seam to a system (`ours`, `rocketmq`, `rabbitmq`, `nats` stand behind it), `workloads`
says what is measured, `measure` counts processor time and memory, `rounds` runs it, `report` and
`picture` show it.
"""
