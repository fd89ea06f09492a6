"""What the engine derives."""
