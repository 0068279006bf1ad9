"""The ``history`` command: writes the stored history as OpenMetrics, for Prometheus to import."""
