"""Explanations for people and programs: baselines, verdicts on durations, and critical paths of traces."""
