"""What each of JAX's primitives does to sizes n^-e and to changes n^-r."""
