"""Errors: too many requests of an endpoint fail."""
