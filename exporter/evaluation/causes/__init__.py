"""Finding the cause of a shift: which traces to fetch, when, and what is published about it."""
