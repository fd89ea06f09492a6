"""The models: one model at the base width, the two symmetries on the way up, sizes, causality, independent oracles."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from derive.parameterizations import MFP, MUP, NTK, SP
from verify.training.networks import Exponents, Model, ModelError, Params, Scaling, loss
from verify.training.networks.mlp import MLP
from verify.training.networks.transformer import MATRICES, Transformer

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
CONTEXT, VOCABULARY = 4, 32  # few different shapes: each costs half a second to compile


def mlp(scheme: str, width: int, base: int = BASE) -> MLP:
    return MLP(Scaling(width, base, *SCHEMES[scheme]), CONTEXT, VOCABULARY)


def transformer(scheme: str, width: int, base: int = BASE) -> Transformer:
    return Transformer(Scaling(width, base, *SCHEMES[scheme]), VOCABULARY, CONTEXT, blocks=1, head_dimension=16)


BOTH = pytest.mark.parametrize("build", [mlp, transformer])
Build = Callable[..., Model]


def some_tokens(batch: int = 8, context: int = CONTEXT) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).integers(0, VOCABULARY, (batch, context)))


def some_params(model: Model, seed: int = 0) -> Params:
    """Parameters of the prescribed sizes without the seconds it takes to compile `init` at a new width."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda parameter: generator.standard_normal(parameter.shape, np.float32) * np.float32(parameter.std),
        model.parameters(),
    )


@partial(jax.jit, static_argnums=0)
def logits_of(model: Model, params: Params, tokens: jax.Array) -> jax.Array:
    return model.apply(params, tokens)


def same(first: Params | jax.Array, second: Params | jax.Array) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), first, second))


def rms(x: jax.Array) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


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
    """The same weights and, to the last constant, the same program: so the same logits bit for bit."""
    reference = build("sp", BASE)
    params = reference.init(KEY)
    for scheme in ("ntk", "mup", "mfp"):
        assert same(build(scheme, BASE).init(KEY), params)
        assert program(build(scheme, BASE), params) == program(reference, params)
        assert program(build(scheme, 2 * BASE), params) != program(build("sp", 2 * BASE), params)
    first, second = (logits_of(build(scheme, BASE), params, some_tokens()) for scheme in ("sp", "mfp"))
    assert same(first, second)


def program(model: Model, params: Params) -> str:
    return jax.jit(model.apply).lower(params, some_tokens()).as_text()


@BOTH
@pytest.mark.parametrize("ratio", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_sp_is_ntk_and_mup_is_mfp_bitwise(build: Build, ratio: int):
    models = {scheme: build(scheme, ratio * BASE) for scheme in SCHEMES}
    params = {scheme: some_params(model) for scheme, model in models.items()}
    logits = {scheme: logits_of(model, params[scheme], some_tokens()) for scheme, model in models.items()}
    assert same(logits["sp"], logits["ntk"])
    assert same(logits["mup"], logits["mfp"])
    assert not same(params["sp"], params["ntk"])
    assert not same(params["mup"], params["mfp"])
    # muP differs from SP in the readout's initial size alone, by ratio^-1/2.
    assert not same(logits["sp"], logits["mup"])
    assert same(logits["sp"] * ratio**-0.5, logits["mup"])


# Initialisation


def test_base_stds():
    """Fixed by hand: a wrong constant changes no slope."""
    dense = MLP(Scaling(256, 128, *SCHEMES["sp"]), context=16, hidden_layers=1)
    assert stds(dense) == {
        "embedding": pytest.approx(0.25),
        "hidden": {"0": pytest.approx((2 / 256) ** 0.5)},
        "readout": pytest.approx(1 / 16),
    }
    decoder = Transformer(Scaling(256, 64, *SCHEMES["ntk"]), blocks=1)
    assert stds(decoder) == {
        "embedding": {"tokens": pytest.approx(0.5**0.5), "positions": pytest.approx(0.5**0.5)},
        "blocks": {"0": {name: pytest.approx(1 / 16 if name == "down" else 1 / 8) for name in MATRICES}},
        "readout": pytest.approx(1 / 8),
    }


def stds(model: Model) -> Params:
    return jax.tree.map(lambda parameter: parameter.std, model.parameters())


@BOTH
def test_init_draws_the_prescribed_sizes(build: Build):
    for scheme, (_, b) in SCHEMES.items():
        exponents = dict(zip(("embedding", "hidden", "readout"), b, strict=True))
        base, wide = build(scheme, BASE).init(KEY), build(scheme, 4 * BASE).init(KEY)
        kinds = build(scheme, 4 * BASE).labels(wide)
        for kind, before, after in zip(*map(jax.tree.leaves, (kinds, base, wide)), strict=True):
            noise = 5 / before.size**0.5
            assert rms(after) / rms(before) == pytest.approx(4 ** -float(exponents[kind]), rel=noise)


@BOTH
def test_init_is_drawn_again_bitwise(build: Build):
    model = build("sp", BASE)
    params = model.init(KEY)
    assert same(params, model.init(KEY))
    assert same(params, jax.tree.map(lambda parameter: parameter.draw(KEY), model.parameters()))
    assert not same(params, model.init(jax.random.key(0)))


def test_a_parameter_is_drawn_again_bitwise_inside_compiled_functions():
    # A ratio whose std is no power of two, where a product merged with its neighbours shows.
    readout = mlp("mup", 4 * BASE, 3 * BASE).parameters()["readout"]
    weights = readout.draw(KEY)
    assert same(weights, jax.jit(readout.draw)(KEY))
    assert same(weights, jax.vmap(readout.draw)(jnp.stack([jax.random.key(0), KEY]))[1])
    # W - W_0 at step 0 is 0, not the rounding of a fused multiply and add.
    assert not jax.jit(lambda weights, key: weights - readout.draw(key))(weights, KEY).any()


@pytest.mark.parametrize(
    "model", [mlp("sp", BASE), replace(transformer("sp", BASE), blocks=3)], ids=["mlp", "transformer"]
)
def test_every_parameter_has_its_own_key(model: Model):
    starts = jax.tree.map(lambda w, parameter: float(w[0, 0]) / parameter.std, model.init(KEY), model.parameters())
    assert len({round(start, 4) for start in jax.tree.leaves(starts)}) == len(jax.tree.leaves(starts))


def test_depth_leaves_the_other_parameters_alone():
    shallow, deep = mlp("sp", BASE).init(KEY), replace(mlp("sp", BASE), hidden_layers=3).init(KEY)
    assert same(shallow["readout"], deep["readout"])
    assert same(shallow["hidden"]["1"], deep["hidden"]["1"])
    decoder = transformer("sp", BASE)
    shallow, deep = decoder.init(KEY), replace(decoder, blocks=2).init(KEY)
    assert same(shallow["readout"], deep["readout"])
    assert same(shallow["blocks"]["0"], deep["blocks"]["0"])


def test_labels():
    dense, decoder = mlp("sp", BASE), transformer("sp", BASE)
    assert dense.labels(dense.init(KEY)) == {
        "embedding": "embedding",
        "hidden": {"0": "hidden", "1": "hidden"},
        "readout": "readout",
    }
    assert decoder.labels(decoder.init(KEY)) == {
        "embedding": {"tokens": "embedding", "positions": "embedding"},
        "blocks": {"0": dict.fromkeys(MATRICES, "hidden")},
        "readout": "readout",
    }
    with pytest.raises(ValueError, match="key"):
        dense.labels(decoder.init(KEY))


# Sizes across widths


def slope(size: Callable[[Model, int], float], build: Build, scheme: str) -> float:
    """The slope of log size, a mean over seeds, against log width."""
    sizes = [np.mean([size(build(scheme, width), seed) for seed in range(SEEDS)]) for width in WIDTHS]
    return float(np.polyfit(np.log(WIDTHS), np.log(sizes), 1)[0])


@BOTH
@pytest.mark.parametrize(("scheme", "expected"), [("sp", 0.0), ("mup", -0.5)])
def test_logits_have_the_predicted_size_at_initialisation(build: Build, scheme: str, expected: float):
    def size(model: Model, seed: int) -> float:
        return rms(logits_of(model, some_params(model, seed), some_tokens()))

    assert slope(size, build, scheme) == pytest.approx(expected, abs=SLOPE_TOLERANCE)


def test_what_a_block_adds_has_the_same_size_at_every_width():
    """The norm before the readout hides the blocks' size in the logits, so compare them with the blocks silenced."""

    def size(model: Model, seed: int) -> float:
        params = some_params(model, seed)
        silenced = params | {"blocks": jax.tree.map(np.zeros_like, params["blocks"])}
        silent = logits_of(model, silenced, some_tokens())
        return rms(logits_of(model, params, some_tokens()) - silent) / rms(silent)

    assert slope(size, transformer, "sp") == pytest.approx(0, abs=SLOPE_TOLERANCE)


# Oracles that share no code with the models


ODD: Exponents = (-0.3, 0.4, 0.9)  # three different multipliers, none of them 1


def test_mlp_is_its_formula_with_explicit_one_hot():
    model = replace(mlp("sp", 96), scaling=Scaling(96, 32, ODD, ODD))
    params, tokens = some_params(model), some_tokens()
    one_hot = np.zeros((8, CONTEXT, VOCABULARY))
    for row in range(8):
        for position in range(CONTEXT):
            one_hot[row, position, tokens[row, position]] = 1
    z = np.maximum(3**0.3 * one_hot.reshape(8, -1) @ params["embedding"], 0)
    z = np.maximum(3**-0.4 * z @ params["hidden"]["0"], 0)
    z = np.maximum(3**-0.4 * z @ params["hidden"]["1"], 0)
    expected = 3**-0.9 * z @ params["readout"]
    np.testing.assert_allclose(logits_of(model, params, tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_transformer_is_its_formula(qk_norm: bool):
    """Written out row by row, head by head and position by position, in float64."""
    model = replace(transformer("sp", 48), scaling=Scaling(48, 16, ODD, ODD), qk_norm=qk_norm)
    params, tokens = some_params(model), some_tokens()
    tree = jax.tree.map(lambda x: x.astype(np.float64), params)
    embedding, w = tree["embedding"], tree["blocks"]["0"]

    def norm(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

    for row in range(8):
        z = 3**0.3 * (embedding["tokens"][np.asarray(tokens[row])] + embedding["positions"])
        q, k, v = (3**-0.4 * norm(z) @ w[name] for name in "qkv")
        mixed = np.zeros_like(z)
        for head in range(3):
            columns = slice(16 * head, 16 * head + 16)
            for i in range(CONTEXT):
                query, keys = q[i, columns], k[: i + 1, columns]
                if qk_norm:
                    query, keys = norm(query), norm(keys)
                weights = np.exp(keys @ query / 4)
                mixed[i, columns] = weights @ v[: i + 1, columns] / weights.sum()
        z = z + 3**-0.4 * mixed @ w["o"]
        z = z + 3**-0.4 * gelu(3**-0.4 * norm(z) @ w["up"]) @ w["down"]
        expected = 3**-0.9 * norm(z) @ tree["readout"]
        np.testing.assert_allclose(logits_of(model, params, tokens)[row], expected, rtol=1e-4, atol=1e-5)


def test_no_position_sees_the_future():
    model = replace(transformer("sp", 64), blocks=2, context=12)
    params, tokens = some_params(model), np.array(some_tokens(3, 12))
    before = np.asarray(logits_of(model, params, jnp.asarray(tokens)))
    for position in (1, 6, 11):
        changed = tokens.copy()
        changed[:, position] = (tokens[:, position] + 1) % VOCABULARY
        after = np.asarray(logits_of(model, params, jnp.asarray(changed)))
        assert np.array_equal(before[:, :position], after[:, :position])
        # and every position from there on does see the change
        assert (before != after)[:, position:].any(axis=(0, 2)).all()
    shorter = logits_of(model, params, jnp.asarray(tokens[:, :5]))
    np.testing.assert_allclose(shorter, before[:, :5], rtol=1e-4, atol=1e-5)


# Loss


@pytest.mark.parametrize("shape", [(8,), (3, 5)])
def test_loss_is_mean_cross_entropy(shape: tuple[int, ...]):
    logits = jnp.asarray(3 * np.random.default_rng(0).standard_normal((*shape, VOCABULARY), np.float32))
    targets = jnp.asarray(np.random.default_rng(1).integers(0, VOCABULARY, shape))
    rows, chosen = np.asarray(logits, dtype=np.float64).reshape(-1, VOCABULARY), np.asarray(targets).ravel()
    nats = [np.log(np.exp(row).sum()) - row[target] for row, target in zip(rows, chosen, strict=True)]
    assert float(loss(logits, targets)) == pytest.approx(np.mean(nats), rel=1e-5)
    assert loss(logits.astype(jnp.bfloat16), targets).dtype == jnp.float32
    assert float(loss(jnp.zeros((*shape, VOCABULARY)), targets)) == pytest.approx(np.log(VOCABULARY), rel=1e-6)


# Errors

SIZES = Scaling(64, 32, *SCHEMES["sp"])


def read_four(model: Model) -> None:
    jax.eval_shape(model.apply, some_params(model), some_tokens())


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
        (lambda: read_four(MLP(SIZES, context=1)), "the MLP reads exactly 1 tokens and was given 4"),
        (lambda: read_four(Transformer(SIZES, context=3)), "the transformer reads up to 3 tokens and was given 4"),
    ],
)
def test_unusable_sizes(build: Callable[[], object], message: str):
    with pytest.raises(ModelError) as caught:
        build()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_hidden_layers():
    model = replace(mlp("mup", 64), hidden_layers=0)
    params = some_params(model)
    assert model.labels(params) == {"embedding": "embedding", "hidden": {}, "readout": "readout"}
    assert logits_of(model, params, some_tokens()).shape == (8, VOCABULARY)
