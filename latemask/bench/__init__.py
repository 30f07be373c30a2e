"""Measurements, each `python -m latemask.bench.NAME`; nobody imports them."""
