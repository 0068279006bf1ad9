"""Detection of latency shifts: whether the latency of a series as a whole exceeds its baseline.

At every tick the evaluation window of a series is compared with the baseline of the current hour. A shift is detected
if, after scaling the baseline by as much as the series normally varies (its swing), too many traces are still slower
than the quantiles p50, p90 and p99 allow, the change is practically significant, and it still persists. Pure: times and
settings are arguments, and live traffic and history are evaluated by the same code.
"""
