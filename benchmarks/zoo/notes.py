"""Why single rows of the zoo are off: what the networks are, worked out by hand."""

NOTES: dict[str, dict[str, str]] = {}
"""By model and by "QUANTITIES PATHS", such as "g,s table *.gain"."""
