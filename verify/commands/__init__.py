"""The `verify` command: options read, studies started, answers printed."""
