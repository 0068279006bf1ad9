"""What Prometheus gets to see. Only this package knows metric names."""
