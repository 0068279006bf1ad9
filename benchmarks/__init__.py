"""Measures the exporter against the budgets of its design: ``python -m benchmarks`` prints one table."""
