"""The pure core: digests, civil time, baselines, window planning and verdicts. No I/O, no clock, no globals."""
