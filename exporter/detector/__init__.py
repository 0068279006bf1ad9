"""Judges: what is usual for every series at this hour, what is going on now, and whether the two agree."""
