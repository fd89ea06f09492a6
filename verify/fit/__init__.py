"""From numbers to findings, without arrays of JAX and without files: slopes, verdicts, best rates, limits."""
