"""Metric names, and the rendering of ``/metrics``."""
