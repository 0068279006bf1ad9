"""Evaluation of long histories with arrays. Needs numpy: only worker processes import it."""
