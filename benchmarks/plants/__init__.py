"""Wrong theories that `verify exponents` has to reject, networks trained with them, and right ones that it must not."""
