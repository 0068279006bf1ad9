"""Chooses which stored hours a baseline is pooled from, and derives its figures. No I/O, no clock, no globals."""
