"""``python -m benchmarks.detection``: measure the shift detector against its targets.

Synthetic series come from the demo's seeded generator, so that every run gives the same figures. The labelled real
series are in ``benchmarks/data``.
"""
