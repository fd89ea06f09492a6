"""Tests of verify.sweeps."""
