"""The HTTP side: metrics, probes and the status page. It reads snapshots and never waits for anything else."""
