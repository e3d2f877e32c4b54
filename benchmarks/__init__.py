"""Benchmarks. Each is a module that is run: ``python -m benchmarks.trim``."""
