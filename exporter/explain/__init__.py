"""Answers for people and programs: what is usual for an endpoint, is this duration, and where a trace's time went."""
