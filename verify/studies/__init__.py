"""Every study of the commands: what it trains, what it keeps, what it finds, and how that is shown."""
