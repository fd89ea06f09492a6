"""What the verifier measures, judges and trains."""
