"""A world of consensus cores under one seed: network, disks, faults, and checks after every
event.

`python -m chaos.sim --seed 42 --profile hell` repeats a run exactly. Pure: simulated time, seeded
dice, no I/O.
"""
