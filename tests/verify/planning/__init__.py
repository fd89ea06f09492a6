"""Tests of verify.planning."""
