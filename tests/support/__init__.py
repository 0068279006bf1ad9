"""Fakes, sample data and helpers that several tests share."""
