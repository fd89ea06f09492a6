"""Models as a user has them, each with make(width) for `verify prescribe` and `verify check`."""
