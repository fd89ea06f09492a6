"""Tests of verify.studies."""
