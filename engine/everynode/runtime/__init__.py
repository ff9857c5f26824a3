"""The shell round the core: NATS, processes and time.

The command line and adapters' hosts run what is in here. Only this package may import nats; what decides is
in ``everynode.core`` and knows nothing of it.
"""
