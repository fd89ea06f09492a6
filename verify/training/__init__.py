"""One network: its data, its update rules, its mesh of devices, its checkpoints, and the loop that trains it."""
