"""Synthetic traffic, and a Tempo API that serves it: for the demo, for tests and for measurements."""
