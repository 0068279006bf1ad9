"""Whether the latency of a series as a whole has moved: the shift, the flag that people are woken by.

The question at every tick: even if the usual latencies of this hour are scaled up by as much as this endpoint normally
swings, are there still too many slow requests in the last minutes, is the change big enough to matter, and is it still
going on? Everything here is pure: time and settings are passed in, and the same code judges now and the past.
"""
