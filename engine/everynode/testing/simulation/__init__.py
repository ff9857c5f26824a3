"""Whole fleets in one thread, on virtual time, from a seed: the real drivers on a log and backends that can fail.

``loop`` runs processes, ``server`` and ``bus`` are the log that they share; both are deterministic. Nothing here opens
a connection, starts a thread or reads a clock.
"""
