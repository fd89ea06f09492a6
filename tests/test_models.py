"""The models: one model at the base width, the two symmetries on the way up, sizes, causality, independent oracles."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from derive.parameterizations import MFP, MUP, NTK, SP
from verify.models import Exponents, Model, ModelError, Params, Scaling, loss
from verify.models.mlp import MLP
from verify.models.transformer import Transformer

HALF = Fraction(1, 2)
SCHEMES: dict[str, tuple[Exponents, Exponents]] = {
    "sp": ((0, 0, 0), (0, HALF, HALF)),
    "ntk": ((0, HALF, HALF), (0, 0, 0)),
    "mup": ((-HALF, 0, HALF), (HALF, HALF, HALF)),
    "mfp": ((0, HALF, 1), (0, 0, 0)),
}
KEY = jax.random.key(20)
BASE = 32
WIDTHS = (64, 128, 256, 512)
SEEDS = 4
SLOPE_TOLERANCE = 0.1  # the slopes to be told apart are 0 and 1/2


def mlp(scheme: str, width: int, base: int = BASE) -> MLP:
    return MLP(Scaling(width, base, *SCHEMES[scheme]), context=4, vocabulary=24)


def transformer(scheme: str, width: int, base: int = BASE) -> Transformer:
    return Transformer(Scaling(width, base, *SCHEMES[scheme]), vocabulary=24, context=4, blocks=1, head_dimension=16)


BOTH = pytest.mark.parametrize("build", [mlp, transformer])
Build = Callable[..., Model]


def some_tokens(batch: int = 8) -> jax.Array:
    return jax.random.randint(jax.random.key(1), (batch, 4), 0, 24)


def same(first: Params | jax.Array, second: Params | jax.Array) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype and bool((x == y).all()), first, second))


def logits_of(model: Model) -> jax.Array:
    return jax.jit(lambda key: model.apply(model.init(key), some_tokens()))(KEY)


def rms(x: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


# Scaling


def test_powers_of_two_are_exact():
    for ratio, power in ((4, 2.0), (16, 4.0), (1024, 32.0)):
        scaling = Scaling(64 * ratio, 64, (-HALF, 0.5, 1), (0, HALF, 1.0))
        multipliers = [scaling.multiplier(kind) for kind in ("embedding", "hidden", "readout")]
        stds = [scaling.init_std(kind, 0.3) for kind in ("embedding", "hidden", "readout")]
        assert multipliers == [power, 1 / power, 1 / power**2]
        assert stds == [0.3, 0.3 / power, 0.3 / power**2]
    assert Scaling(48, 48, (-HALF, 0.3, 1), (7, HALF, 1)).multiplier("hidden") == 1.0


def test_the_exponents_are_those_derive_uses():
    for name, scheme in (("sp", SP), ("ntk", NTK), ("mup", MUP), ("mfp", MFP)):
        assert SCHEMES[name] == (tuple(scheme.a), tuple(scheme.b))
        exact, fractions = (Scaling(96, 64, scheme.a, scheme.b), Scaling(96, 64, *SCHEMES[name]))
        for kind in ("embedding", "hidden", "readout"):
            assert exact.multiplier(kind) == fractions.multiplier(kind)
            assert exact.init_std(kind, 0.3) == fractions.init_std(kind, 0.3)


# One model at the base width, and two on the way up


@BOTH
def test_at_the_base_width_all_parameterizations_are_one_model(build: Build):
    reference = build("sp", BASE)
    for scheme in ("ntk", "mup", "mfp"):
        assert same(build(scheme, BASE).init(KEY), reference.init(KEY))
        assert same(logits_of(build(scheme, BASE)), logits_of(reference))


@BOTH
@pytest.mark.parametrize("ratio", [4, 16])
def test_sp_is_ntk_and_mup_is_mfp_bitwise(build: Build, ratio: int):
    sp, ntk, mup, mfp = (build(scheme, ratio * BASE) for scheme in ("sp", "ntk", "mup", "mfp"))
    assert same(logits_of(sp), logits_of(ntk))
    assert same(logits_of(mup), logits_of(mfp))
    assert not same(sp.init(KEY), ntk.init(KEY))
    assert not same(mup.init(KEY), mfp.init(KEY))
    # muP differs from SP in the readout's initial size alone, by ratio^-1/2.
    assert same(logits_of(sp) * ratio**-0.5, logits_of(mup))
    assert not same(logits_of(sp), logits_of(mup))


# Initialisation


@BOTH
def test_init_has_the_prescribed_sizes(build: Build):
    for scheme, (_, b) in SCHEMES.items():
        base, wide = build(scheme, 64, 64).init(KEY), build(scheme, 256, 64).init(KEY)
        kinds = build(scheme, 256, 64).labels(wide)
        for kind, before, after in zip(*map(jax.tree.leaves, (kinds, base, wide)), strict=True):
            exponent = dict(zip(("embedding", "hidden", "readout"), b, strict=True))[kind]
            assert rms(after) / rms(before) == pytest.approx(4 ** -float(exponent), rel=0.05)


def test_base_stds():
    """Fixed by hand: a wrong constant changes no slope."""
    dense = MLP(Scaling(256, 128, *SCHEMES["sp"]), context=16, vocabulary=64, hidden_layers=1)
    assert jax.tree.map(rms, dense.init(KEY)) == {
        "embedding": pytest.approx(0.25, rel=0.02),
        "hidden": {"0": pytest.approx((2 / 256) ** 0.5, rel=0.02)},
        "readout": pytest.approx(1 / 16, rel=0.02),
    }
    decoder = Transformer(Scaling(256, 64, *SCHEMES["ntk"]), vocabulary=64, context=32, blocks=1)
    assert jax.tree.map(rms, decoder.init(KEY)) == {
        "embedding": {"tokens": pytest.approx(0.5**0.5, rel=0.02), "positions": pytest.approx(0.5**0.5, rel=0.02)},
        "blocks": {
            "0": {name: pytest.approx(1 / 16 if name == "down" else 1 / 8, rel=0.02) for name in decoder_matrices()}
        },
        "readout": pytest.approx(1 / 8, rel=0.02),
    }


def decoder_matrices() -> tuple[str, ...]:
    return ("q", "k", "v", "o", "up", "down")


@BOTH
def test_init_is_drawn_again_bitwise(build: Build):
    # A width and a base whose stds are no powers of two, where merged constants would show.
    model = build("mup", 96, 64)
    params = model.init(KEY)
    assert same(params, model.init(KEY))
    assert same(params, jax.jit(model.init)(KEY))
    stacked = jax.jit(jax.vmap(model.init))(jnp.stack([jax.random.key(0), KEY]))
    assert same(params, jax.tree.map(lambda x: x[1], stacked))
    assert not same(params, model.init(jax.random.key(0)))
    alone = model.parameters()["readout"].draw(KEY)
    assert same(params["readout"], alone)


@BOTH
def test_every_parameter_has_its_own_key(build: Build):
    leaves = jax.tree.leaves(build("sp", 64).init(KEY))
    starts = {float(leaf.ravel()[0] / jnp.std(leaf)) for leaf in leaves}
    assert len(starts) == len(leaves)


def test_depth_leaves_the_other_parameters_alone():
    shallow = transformer("sp", 64)
    deep = replace(shallow, blocks=3)
    assert same(shallow.init(KEY)["readout"], deep.init(KEY)["readout"])
    assert same(shallow.init(KEY)["blocks"]["0"], deep.init(KEY)["blocks"]["0"])
    assert same(mlp("sp", 64).init(KEY)["readout"], replace(mlp("sp", 64), hidden_layers=5).init(KEY)["readout"])


def test_labels():
    dense, decoder = mlp("sp", 64), transformer("sp", 64)
    assert dense.labels(dense.init(KEY)) == {
        "embedding": "embedding",
        "hidden": {"0": "hidden", "1": "hidden"},
        "readout": "readout",
    }
    assert decoder.labels(decoder.init(KEY)) == {
        "embedding": {"tokens": "embedding", "positions": "embedding"},
        "blocks": {"0": dict.fromkeys(decoder_matrices(), "hidden")},
        "readout": "readout",
    }
    with pytest.raises(ValueError, match="key"):
        dense.labels(decoder.init(KEY))


# Sizes across widths


def slope(size: Callable[[int], float]) -> float:
    return float(np.polyfit(np.log(WIDTHS), np.log([size(width) for width in WIDTHS]), 1)[0])


@BOTH
@pytest.mark.parametrize(("scheme", "expected"), [("sp", 0.0), ("mup", -0.5)])
def test_logits_have_the_predicted_size_at_initialisation(build: Build, scheme: str, expected: float):
    def size(width: int) -> float:
        model = build(scheme, width, 64)
        keys = jax.random.split(KEY, SEEDS)
        return rms(jax.jit(jax.vmap(lambda key: model.apply(model.init(key), some_tokens())))(keys))

    assert slope(size) == pytest.approx(expected, abs=SLOPE_TOLERANCE)


@pytest.mark.parametrize("scheme", ["sp", "mfp"])
def test_what_a_block_adds_has_the_same_size_at_every_width(scheme: str):
    """The norm before the readout hides the blocks' size in the logits, so compare them with the blocks silenced."""

    def size(width: int) -> float:
        model = transformer(scheme, width, 64)

        def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            params = model.init(key)
            silent = params | {"blocks": jax.tree.map(jnp.zeros_like, params["blocks"])}
            return model.apply(params, some_tokens()), model.apply(silent, some_tokens())

        full, silenced = jax.jit(jax.vmap(both))(jax.random.split(KEY, SEEDS))
        return rms(full - silenced) / rms(silenced)

    assert 0.3 < size(64) < 3
    assert slope(size) == pytest.approx(0, abs=SLOPE_TOLERANCE)


# Oracles that share no code with the models


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mlp_is_its_formula_with_explicit_one_hot(scheme: str):
    model = mlp(scheme, 96)
    params = model.init(KEY)
    tokens = np.asarray(some_tokens())
    one_hot = np.zeros((8, 4, 24))
    for row in range(8):
        for position in range(4):
            one_hot[row, position, tokens[row, position]] = 1
    a = [float(exponent) for exponent in SCHEMES[scheme][0]]
    w = [params["embedding"], params["hidden"]["0"], params["hidden"]["1"], params["readout"]]
    w1, w2, w3, w4 = (np.asarray(each, dtype=np.float64) for each in w)
    z = np.maximum(3 ** -a[0] * one_hot.reshape(8, 96) @ w1, 0)
    z = np.maximum(3 ** -a[1] * z @ w2, 0)
    z = np.maximum(3 ** -a[1] * z @ w3, 0)
    np.testing.assert_allclose(model.apply(params, some_tokens()), 3 ** -a[2] * z @ w4, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_transformer_is_its_formula(scheme: str, qk_norm: bool):
    """Written out position by position and head by head, in float64."""
    model = replace(transformer(scheme, 48, 16), qk_norm=qk_norm)
    params = model.init(KEY)
    tokens = np.asarray(some_tokens(2))
    first, hidden, last = (3 ** -float(exponent) for exponent in SCHEMES[scheme][0])
    tree = jax.tree.map(lambda x: np.asarray(x, dtype=np.float64), params)
    w = tree["blocks"]["0"]

    def norm(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

    for row in range(2):
        z = np.stack(
            [
                first * (tree["embedding"]["tokens"][t] + tree["embedding"]["positions"][i])
                for i, t in enumerate(tokens[row])
            ]
        )
        q, k, v = (hidden * norm(z) @ w[name] for name in "qkv")
        mixed = np.zeros_like(z)
        for head in range(3):
            columns = slice(16 * head, 16 * head + 16)
            for i in range(4):
                query, keys = q[i, columns], k[: i + 1, columns]
                if qk_norm:
                    query, keys = norm(query), norm(keys)
                weights = np.exp(keys @ query / 4)
                mixed[i, columns] = weights @ v[: i + 1, columns] / weights.sum()
        z = z + hidden * mixed @ w["o"]
        z = z + hidden * gelu(hidden * norm(z) @ w["up"]) @ w["down"]
        expected = last * norm(z) @ tree["readout"]
        np.testing.assert_allclose(model.apply(params, some_tokens(2))[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_no_position_sees_the_future(qk_norm: bool):
    model = replace(transformer("sp", 64), blocks=2, context=12, qk_norm=qk_norm)
    params = model.init(KEY)
    tokens = jax.random.randint(jax.random.key(1), (3, 12), 0, 24)
    before = model.apply(params, tokens)
    for position in (1, 6, 11):
        after = model.apply(params, tokens.at[:, position].set((tokens[:, position] + 1) % 24))
        assert same(before[:, :position], after[:, :position])
        assert bool((before[:, position:] != after[:, position:]).any(axis=(0, 2)).all())


def test_shorter_sequences_are_prefixes():
    model = replace(transformer("sp", 64), context=12)
    params, tokens = model.init(KEY), jax.random.randint(jax.random.key(1), (3, 12), 0, 24)
    short, whole = model.apply(params, tokens[:, :5]), model.apply(params, tokens)
    np.testing.assert_allclose(short, whole[:, :5], rtol=1e-4, atol=1e-5)


# Loss


@pytest.mark.parametrize("shape", [(8,), (3, 5)])
def test_loss_is_mean_cross_entropy(shape: tuple[int, ...]):
    logits = 3 * jax.random.normal(KEY, (*shape, 24))
    targets = jax.random.randint(jax.random.key(1), shape, 0, 24)
    rows, chosen = np.asarray(logits, dtype=np.float64).reshape(-1, 24), np.asarray(targets).ravel()
    nats = [np.log(np.exp(row).sum()) - row[target] for row, target in zip(rows, chosen, strict=True)]
    assert float(loss(logits, targets)) == pytest.approx(np.mean(nats), rel=1e-5)
    assert loss(logits.astype(jnp.bfloat16), targets).dtype == jnp.float32
    assert float(loss(jnp.zeros((*shape, 24)), targets)) == pytest.approx(np.log(24), rel=1e-6)


# Errors

SIZES = Scaling(64, 32, *SCHEMES["sp"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: replace(SIZES, width=0), "width 0 is too small; it starts at 1"),
        (lambda: replace(SIZES, base_width=-1), "base_width -1 is too small; it starts at 1"),
        (lambda: MLP(SIZES, hidden_layers=-1), "hidden_layers -1 is too small; it starts at 0"),
        (lambda: MLP(SIZES, context=0), "context 0 is too small"),
        (lambda: MLP(SIZES, vocabulary=0), "vocabulary 0 is too small"),
        (lambda: Transformer(SIZES, blocks=-1), "blocks -1 is too small; it starts at 0"),
        (lambda: Transformer(SIZES, head_dimension=0), "head_dimension 0 is too small"),
        (lambda: Transformer(SIZES, head_dimension=48), "width 64 is not a multiple of the head dimension 48; give"),
        (lambda: logits_of(MLP(SIZES, context=1)), "the MLP reads exactly 1 tokens and was given 4"),
        (lambda: logits_of(Transformer(SIZES, context=3)), "the transformer reads up to 3 tokens and was given 4"),
    ],
)
def test_unusable_sizes(build: Callable[[], object], message: str):
    with pytest.raises(ModelError) as caught:
        build()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_hidden_layers():
    model = replace(mlp("mup", 64), hidden_layers=0)
    assert model.labels(model.init(KEY)) == {"embedding": "embedding", "hidden": {}, "readout": "readout"}
    assert logits_of(model).shape == (8, 24)
