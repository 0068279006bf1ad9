"""Regressions: small lasting changes of latency, and slow drift."""
