"""Measures the shift detector against its targets: ``python -m benchmarks.detection`` prints one table.

Synthetic series come from the generator of the demo, seeded, so that every run gives the same figures; labelled real
series lie in ``benchmarks/data``.
"""
