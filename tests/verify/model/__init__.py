"""Tests of verify.model."""
