"""Every metric name, and the rendering of the ``/metrics`` page."""
