"""Reads Tempo: settled windows into the ledger, and the live edge into memory."""
