"""Networks of growing width, measured and judged against the prediction."""
