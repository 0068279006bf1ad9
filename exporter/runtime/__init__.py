"""Shared by all packages: logging, stop signals and the stop budget, locks, terminal output, interpreter settings."""
