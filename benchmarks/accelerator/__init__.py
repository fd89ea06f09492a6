"""What an accelerator can show in ten minutes: seven steps, each with its share of the time, kept as they end."""
