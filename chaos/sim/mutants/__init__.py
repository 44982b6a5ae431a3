"""Planted bugs: the simulator is worth what it catches.

Each mutant replaces one decision of the core, or of those around it, by one that has been got wrong
somewhere. A mutant that survives its seeds means that a fault profile or a check has gone blind.
"""

from chaos.sim.mutants.consensus import CONSENSUS
from chaos.sim.mutants.leases import LEASES
from chaos.sim.mutants.membership import MEMBERSHIP
from chaos.sim.mutants.mutant import Mutant
from chaos.sim.mutants.retention import RETENTION

MUTANTS: tuple[Mutant, ...] = (*CONSENSUS, *MEMBERSHIP, *RETENTION, *LEASES)
