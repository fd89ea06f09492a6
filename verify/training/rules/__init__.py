"""The optimizers of `derive`'s registry, and rules of one's own, as optax transforms."""
