"""What holds for all tests."""

from hypothesis import settings

# How long an example takes depends on what else the machine is doing.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
