"""Commands for the user's own model: prescribed, checked, and beside what microsoft/mup has of it."""
