"""The two readers: the ledger, which reads the settled past once, and the live edge, which rereads the last minutes."""
