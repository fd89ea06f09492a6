"""What is shipped around the two packages: README, examples, benchmarks, faults planted."""
