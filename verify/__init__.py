"""Measurements of real training runs against the exponents that `derive` predicts."""
