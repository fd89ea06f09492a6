"""Tests of verify.training."""
