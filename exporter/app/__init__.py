"""Builds the exporter from its configuration, runs it, and replaces a damaged database with a fresh one."""
