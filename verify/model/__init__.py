"""The user's own model: its graph in the width, its prescription, and whether that holds."""
