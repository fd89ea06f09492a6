"""Where the runs of a sweep are kept: one SQLite file, its rows with checksums, and exports as text."""
