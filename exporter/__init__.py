"""Tells Prometheus which endpoints in Grafana Tempo are slower than usual for this hour, by how much, and why."""

__version__ = "0.1.0"
