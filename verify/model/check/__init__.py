"""The coordinate check: the user's own model trained at growing widths, as it is and as prescribed."""
