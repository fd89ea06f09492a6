"""Every table and figure of Everett et al. 2024, made from `derive` and from the committed studies."""
