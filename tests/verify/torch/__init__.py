"""Tests of verify.torch."""
