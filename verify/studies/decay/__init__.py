"""Where decay and updates are in balance, under each convention of decay."""
