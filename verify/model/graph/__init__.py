"""The graph of any JAX function in the width, and the largest stable rates over it."""
