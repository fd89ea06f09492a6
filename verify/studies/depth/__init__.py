"""Networks of growing depth, measured and judged against the prediction."""
