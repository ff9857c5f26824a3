"""The pure core: events in, decisions out.

Nothing below this package knows NATS, HTTP, files, a clock, an event loop or a random number. Time is
an integer number of milliseconds that comes in with each message; decisions leave as sorted tuples.
"""
