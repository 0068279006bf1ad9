"""Data that every other package shares: spans, civil time, histograms and the ledger. No I/O, no clock, no globals."""
