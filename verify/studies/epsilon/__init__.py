"""The width at which a constant epsilon bites: predicted, seen in updates, paid for in loss."""
