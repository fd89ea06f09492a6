"""The plane of learning-rate exponents: which changes stay finite, grow or vanish with the width."""
