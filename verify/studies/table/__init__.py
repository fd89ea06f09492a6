"""A sweep that somebody else ran, from its table."""
