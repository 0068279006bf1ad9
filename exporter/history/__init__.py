"""The stored history for Prometheus, so that a new installation's dashboards show a week at once."""
