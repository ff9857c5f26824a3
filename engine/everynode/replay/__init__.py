"""Time travel: a fleet's log as a file, and what was decided, decided again.

Reads files and folds them through the core. It knows no NATS and no terminal; what is read from a fleet or written to
one goes through ``runtime.bus``.
"""
