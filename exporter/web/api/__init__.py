"""``/api/v1/``: read-only JSON API with the baselines and verdicts of the exporter, stable within its version."""
