"""Data types shared by all packages: spans, local time, histograms, the ledger. Pure: no I/O, no clock, no globals."""
