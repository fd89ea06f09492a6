"""Tests of verify.measuring."""
