"""The studies' commands: each its options, from which come its conditions and the units to train."""
