"""Synthetic traffic and an embedded Tempo API that serves it, for the demo, tests and benchmarks."""
