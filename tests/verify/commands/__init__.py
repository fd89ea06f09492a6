"""Tests of verify.commands."""
