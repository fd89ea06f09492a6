"""Many runs: what is planned, which rates come next, the compiled loop of one structure, and where it runs."""
