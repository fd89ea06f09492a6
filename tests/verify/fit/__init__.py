"""Tests of verify.fit."""
