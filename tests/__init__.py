"""The tests; how they reach databases is in ``conftest``."""
