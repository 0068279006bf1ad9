"""Evaluates each series: its baseline for the current hour, the evaluation window, and the verdict."""
