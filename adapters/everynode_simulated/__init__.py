"""The simulated backend: nodes and pods that exist only in this process, and behave like real ones.

It is the reference for everyone who writes an adapter, and what ``everynode up`` runs. The engine finds
``SimulatedAdapter`` by its entry point; the command line and tests build the fleet behind it. Nothing here knows
the log, NATS or the command line.
"""

from everynode_simulated.adapter import SimulatedAdapter
from everynode_simulated.behaviour import Behaviour, Fate
from everynode_simulated.fleet import SimulatedFleet
from everynode_simulated.generator import generate_node, generate_nodes

__all__ = [
    "Behaviour",
    "Fate",
    "SimulatedAdapter",
    "SimulatedFleet",
    "generate_node",
    "generate_nodes",
]
