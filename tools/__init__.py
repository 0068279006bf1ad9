"""Generators of files of this repository; not installed."""
