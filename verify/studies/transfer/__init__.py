"""How well the best rate of a small width serves larger ones, for every setting of a sweep."""
