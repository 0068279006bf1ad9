"""``/api/v1/``: what is known and why, for programs. It can only be read, and stays as it is within a version."""
