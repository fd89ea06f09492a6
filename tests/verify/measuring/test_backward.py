"""The backward pass: what is measured, against numpy; what is predicted, derived by hand; and both in networks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derive.parameterizations import MFP, MUP, Parameterization
from derive.solve import Prescription, prescribe, solve_kinds, trained_gradients
from verify.fit.backward import Row, implied_cotangents, verdicts
from verify.fit.forward import slope
from verify.measuring.backward import backward, cotangents
from verify.measuring.trace import TraceError, trace
from verify.studies.epsilon.gradients import gradients
from verify.training.config import Config
from verify.training.data import load_corpus
from verify.training.networks import Scaling, loss
from verify.training.networks.mlp import MLP
from verify.training.networks.transformer import Transformer

BATCH, FEATURES, WIDTH, CLASSES = 5, 4, 6, 3
MULTIPLIER = 0.25
KINDS = {"embedding": "embedding", "hidden.0": "hidden", "readout": "readout"}


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.asarray(x, dtype=np.float64) ** 2)))


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def two_layers(params: Any, x: Any) -> Any:
    return MULTIPLIER * (jnp.maximum(x @ params["first"], 0) @ params["second"])


def squared_error(outputs: Any, targets: Any) -> Any:
    return jnp.sum((outputs - targets) ** 2) / 2


def two_layer_case(seed: int, size: float) -> tuple[Any, Any, Any, Any]:
    """W_0, W, inputs and targets."""
    initial = {"first": normal(seed, FEATURES, WIDTH), "second": normal(seed + 1, WIDTH, CLASSES)}
    params = {name: weight + np.float32(size) * normal(seed + 2, *weight.shape) for name, weight in initial.items()}
    return initial, params, normal(seed + 3, BATCH, FEATURES), normal(seed + 4, BATCH, CLASSES)


def by_hand(initial: Any, params: Any, x: Any, targets: Any) -> dict[str, dict[str, float]]:
    """Every size of the two layers, differentiated on paper, in float64."""
    first, second = (np.asarray(params[name], dtype=np.float64) for name in ("first", "second"))
    z = np.maximum(x @ first, 0)
    d_second = MULTIPLIER * (MULTIPLIER * z @ second - targets)
    d_first = (d_second @ second.T) * (z > 0)

    def sizes(name: str, z: Any, delta: Any) -> dict[str, float]:
        start, now = (np.asarray(each[name], dtype=np.float64) for each in (initial, params))
        return {
            "weight": rms(start),
            "delta_w": rms(now - start),
            "input": rms(z),
            "delta": rms(delta),
            "gradient": rms(z.T @ delta),
            "back_initial": rms(delta @ start.T),
            "back_change": rms(delta @ (now - start).T),
            "back": rms(delta @ now.T),
        }

    return {"first": sizes("first", x, d_first), "second": sizes("second", z, d_second)}


@jax.jit
def two_layer_sizes(initial: Any, params: Any, inputs: Any, targets: Any) -> Any:
    return backward(trace(two_layers, initial, inputs), squared_error, initial, params, inputs, targets)


def test_every_size_of_two_layers_is_that_found_on_paper() -> None:
    case = two_layer_case(0, 0.3)
    found = two_layer_sizes(*case)
    for name, expected in by_hand(*case).items():
        assert set(found[name]) == set(expected)
        for quantity, value in expected.items():
            assert float(found[name][quantity]) == pytest.approx(value, rel=1e-5), (name, quantity)


def test_half_precision_is_measured_in_its_own() -> None:
    case = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), part) for part in two_layer_case(0, 0.3)]
    expected = by_hand(*(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part) for part in case))
    for name, sizes in two_layer_sizes(*case).items():
        for quantity, size in sizes.items():
            assert float(size) == pytest.approx(expected[name][quantity], rel=0.02), (name, quantity)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-3, 1.0, 30.0]))
def test_the_two_signals_add_up_to_what_the_whole_weight_sends_back(seed: int, size: float) -> None:
    case = two_layer_case(seed, size)
    found = two_layer_sizes(*case)
    for name, expected in by_hand(*case).items():
        assert float(found[name]["back"]) == pytest.approx(expected["back"], rel=1e-4)
        parts = [float(found[name][part]) for part in ("back_initial", "back_change")]
        assert abs(parts[0] - parts[1]) * 0.999 <= float(found[name]["back"]) <= sum(parts) * 1.001
        assert (parts[1] == 0) == (size == 0)


def layers_params() -> dict[str, Any]:
    return {"in": normal(0, FEATURES, WIDTH), "layers": normal(1, 3, WIDTH, WIDTH), "out": normal(2, WIDTH, CLASSES)}


def scanned(params: Any, x: Any) -> Any:
    @jax.checkpoint
    def layer(z: Any, weight: Any) -> tuple[Any, None]:
        return jnp.tanh(z @ weight), None

    return jax.jit(lambda z: jax.lax.scan(layer, z, params["layers"])[0])(x @ params["in"]) @ params["out"]


def test_cotangents_inside_scan_checkpoint_and_jit_are_those_of_shifts_written_by_hand() -> None:
    params, x, targets = layers_params(), normal(3, BATCH, FEATURES), normal(4, BATCH, CLASSES)

    def unrolled(shifts: Any) -> Any:
        z = x @ params["in"] + shifts["in"]
        for i, weight in enumerate(params["layers"]):
            z = jnp.tanh(z @ weight + shifts[f"layers[{i}]"])
        return squared_error(z @ params["out"] + shifts["out"], targets)

    traced = trace(scanned, params, x)
    found, operands = cotangents(traced, squared_error, params, x, targets)
    shifts = {op.name: jnp.zeros(op.output_shape) for op in traced.ops}
    assert list(shifts) == ["in", "layers[0]", "layers[1]", "layers[2]", "out"] == list(operands)
    expected = jax.grad(unrolled)(shifts)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6)
        assert rms(value) > 0.01
    gradient = jax.grad(lambda p: squared_error(scanned(p, x), targets))(params)
    sizes = backward(traced, squared_error, params, params, x, targets)
    for i in range(3):
        assert float(sizes[f"layers[{i}]"]["gradient"]) == pytest.approx(rms(gradient["layers"][i]), rel=1e-4)


SCALING = Scaling(64, 32, MUP.a, MUP.b)  # type: ignore[arg-type]
MODELS = [
    MLP(SCALING, context=4, vocabulary=16),
    Transformer(SCALING, context=4, vocabulary=16, blocks=1),
]


@pytest.mark.parametrize(
    "model", [MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.slow)], ids=["mlp", "transformer"]
)
def test_gradients_per_op_are_those_of_the_parameters(model: MLP | Transformer) -> None:
    """Lookups and the multipliers after each product included; no two ops share a parameter here."""
    params = jax.jit(model.init)(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (BATCH, 4), 0, 16)
    targets = tokens[:, 0] if isinstance(model, MLP) else tokens
    traced = trace(model.apply, params, tokens)
    found = jax.jit(lambda params: backward(traced, loss, params, params, tokens, targets))(params)
    gradient = jax.jit(jax.grad(lambda p: loss(model.apply(p, tokens), targets)))(params)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    expected = {jax.tree_util.keystr(path, simple=True, separator="."): rms(leaf) for path, leaf in leaves}
    for op in traced.ops:
        assert float(found[op.name]["gradient"]) == pytest.approx(expected[op.path], rel=1e-4)
        assert ("back" in found[op.name]) == (op.primitive == "dot")


def test_an_op_under_a_derivative_rule_of_its_own_is_refused_by_name() -> None:
    @jax.custom_vjp
    def dense(z: Any, weight: Any) -> Any:
        return 2 * (z @ weight)

    dense.defvjp(lambda z, w: (2 * (z @ w), (z, w)), lambda saved, g: (2 * g @ saved[1].T, 2 * saved[0].T @ g))
    params, x = {"a": normal(0, FEATURES, WIDTH), "b": normal(1, WIDTH, CLASSES)}, normal(2, BATCH, FEATURES)
    traced = trace(lambda p, x: dense(x @ p["a"], p["b"]), params, x)
    with pytest.raises(TraceError, match=r"^b is inside a function with a derivative rule of its own"):
        cotangents(traced, squared_error, params, x, normal(3, BATCH, CLASSES))


# What the theory says, derived by hand. With d = a + s + c of the readout, d loss / d z_L is n^-min(a + b, d). full has
# d = alpha = 1 and a + b <= 1 everywhere, so that nothing changes. none has d = 1/2 where nothing keeps it larger: no
# less than SP's and NTK's a + b = 1/2, but less than muP's and MFP's a + b = 1. SGD keeps d >= a + b, since larger
# gradients would grow its own updates, and so does Adafactor, whose update must not outgrow the weights. So muP and MFP
# change, with Adam and none, by 1/2 on every layer but the readout.
AT_INITIALISATION = {
    "sp": ["1/2", "1/2", "0"],
    "ntk": ["1/2", "1", "1/2"],
    "mup": ["1/2", "1", "1/2"],
    "mfp": ["1", "3/2", "1"],
}
CHANGED = {("mup", "adam", "none"): ["0", "1/2", "1/2"], ("mfp", "adam", "none"): ["1/2", "1", "1"]}


@pytest.mark.parametrize("alignment", ["full", "none"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adafactor"])
@pytest.mark.parametrize("scheme", list(AT_INITIALISATION))
def test_the_trained_gradients_of_the_table(scheme: str, optimizer: str, alignment: str) -> None:
    answer = prescribe(optimizer, scheme, alignment, hidden_layers=2)
    embedding, hidden, readout = AT_INITIALISATION[scheme]
    assert [str(layer.g) for layer in answer.layers] == [embedding, hidden, hidden, readout]
    embedding, hidden, readout = CHANGED.get((scheme, optimizer, alignment), AT_INITIALISATION[scheme])
    assert [str(g) for g in trained_gradients(answer)] == [embedding, hidden, hidden, readout]


def test_trained_gradients_with_one_rate_for_all_layers_and_with_symbols() -> None:
    """SP's one rate n^-1 leaves the readout's update at d = 1; as a symbol, alpha is what d is."""
    assert [str(g) for g in trained_gradients(prescribe("adam", "sp", global_rate=True))] == ["1/2", "1/2", "0"]
    embedding, hidden, _ = trained_gradients(prescribe("adam", "mup", "alpha=x,u=x"))
    for x, g in ((0.5, 0.5), (0.75, 0.75), (1, 1)):
        assert float(hidden.subs(dict.fromkeys(hidden.free_symbols, x))) == g
        assert float(embedding.subs(dict.fromkeys(embedding.free_symbols, x))) == g - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [MUP, MFP])
def test_a_readout_that_outgrows_its_initial_weights_leaves_the_trained_gradients(scheme: Parameterization) -> None:
    """One large Adam step (a sign) on the readout alone, three times its initial weights and more.

    Only the readout, because under `none` hidden layers change what they send back as well; one step, because widths
    that have learnt unequally much are no longer comparable.
    """
    answer, widths = prescribe("adam", scheme, "none"), (128, 256, 512)
    rate, corpus = 0.3, load_corpus()
    (x, y), (tokens, targets) = (map(jnp.asarray, corpus.batch("train", 128, 8, step, 0)) for step in (1, 2))
    found = []
    for width in widths:
        model = MLP(Scaling(width, widths[0], scheme.a, scheme.b), context=8)  # type: ignore[arg-type]
        initial = jax.jit(jax.vmap(model.init))(jnp.stack([jax.random.key(seed) for seed in range(3)]))
        traced = trace(model.apply, jax.eval_shape(model.init, jax.random.key(0)), tokens)
        step = rate * (width / widths[0]) ** -float(answer.layers[-1].c)

        def measured(initial: Any) -> Any:
            gradient = jax.grad(lambda p: loss(model.apply(p, x), y))(initial)["readout"]  # noqa: B023
            params = {**initial, "readout": initial["readout"] - step * jnp.sign(gradient)}  # noqa: B023
            return backward(traced, loss, initial, params, tokens, targets)  # noqa: B023

        found.append(jax.device_get(jax.jit(jax.vmap(measured))(initial)))
    table = jax.tree.map(lambda *sizes: np.stack(sizes), *found)
    assert np.all(table["readout"]["back_change"] > 2 * table["readout"]["back_initial"])
    embedding, hidden, _ = map(float, trained_gradients(answer))
    for name, g in (("embedding", embedding), ("hidden.0", hidden), ("hidden.1", hidden)):
        assert abs(slope(widths, table[name]["delta"]).negated().value - g) < 0.06, name


def made_up(widths: Any, answer: Prescription, changed: float = 0.0, **shifts: float) -> dict[str, dict[str, Any]]:
    """Sizes that are exact powers as the theory has them for one hidden layer, but for shifts of their exponents.

    `changed` is how large a part of what the readout sends back its change sends, against its initial weights, at the
    first width.
    """
    n = np.asarray(widths, dtype=float)[:, None] / widths[0]
    readout = answer.layers[-1]
    initial, change = n ** -float(readout.a + readout.b), changed * n ** -float(readout.a + readout.c + readout.s)
    arriving = np.hypot(initial, change)  # d loss / d z_L, and on hidden layers all the way down
    table = {}
    for layer in answer.layers:
        a, b, c, s = (float(each) for each in (layer.a, layer.b, layer.c, layer.s))
        signal = np.ones_like(n) if layer.kind == "readout" else arriving
        name = "hidden.0" if layer.kind == "hidden" else layer.kind
        delta = signal * n ** (-a + shifts.get("delta", 0.0) * (layer.kind != "readout"))
        fan = n**0.5 if layer.kind == "hidden" else 1.0
        table[name] = {"weight": n**-b, "delta_w": n ** -(c + s), "delta": delta, "input": np.ones_like(n)}
        table[name]["gradient"] = delta * n ** shifts.get("batch", 0.0)
        table[name]["back_initial"] = n**-b * delta * fan * n ** shifts.get("beta", 0.0)
        amount = changed if layer.kind == "readout" else 1e-6
        table[name]["back_change"] = amount * n ** -(c + s) * delta * fan * n ** shifts.get("gamma", 0.0)
        table[name]["back"] = np.hypot(table[name]["back_initial"], table[name]["back_change"])
    return table


def failing(rows: list[Row]) -> set[str]:
    return {row.quantity for row in rows if row.verdict == "fails"}


WIDTHS = (64, 128, 256, 512)


@pytest.mark.parametrize("step", [0, 7])
@pytest.mark.parametrize("scheme", ["sp", "ntk", "mup", "mfp"])
def test_sizes_as_predicted_hold_and_others_fail_by_name(scheme: str, step: int) -> None:
    answer = solve_kinds(prescribe("adam", scheme).problem)

    def judged(**shifts: float) -> list[Row]:
        return verdicts(answer, WIDTHS, step, made_up(WIDTHS, answer, 1e-6, **shifts), KINDS)  # type: ignore[arg-type]

    rows = judged()
    assert {row.verdict for row in rows} == {"holds"}
    quantities = {"cotangent", "gradient", "input", "batch", "nonlinearity", "beta"}
    assert {row.quantity for row in rows} == quantities | ({"delta_w", "gamma", "coherence"} if step else set())
    assert failing(judged(delta=0.2)) == {"cotangent", "gradient", "nonlinearity"}
    assert failing(judged(batch=0.2)) == {"gradient", "batch"}
    assert "beta" in failing(judged(beta=0.2))
    # 0.5 more is where full alignment puts the bound on hidden layers; on the readout any is too much.
    assert failing(judged(gamma=0.4)) == ({"gamma"} if step else set())
    hidden = {row.verdict for row in judged(gamma=0.4) if (row.layer, row.quantity) == ("hidden.0", "gamma")}
    assert hidden == ({"holds"} if step else set())
    # Less is no fault where theory has a bound, and one where it has the exponent.
    less = {row.layer: row.verdict for row in judged(gamma=-0.2) if row.quantity == "gamma"}
    assert less == ({"hidden.0": "holds", "readout": "fails"} if step else {})
    assert {row.layer for row in judged(gamma=0.8) if row.verdict == "fails"} == (
        {"hidden.0", "readout"} if step else set()
    )


def test_between_both_regimes_the_larger_part_rules() -> None:
    """muP with Adam and none: g falls from 1 to 1/2 on the hidden layer as the change overtakes the initial weights."""
    answer = solve_kinds(prescribe("adam", "mup", "none").problem)
    layers = dict(zip(KINDS, answer.layers, strict=True))
    for changed, expected in ((1e-3, 1.0), (1e3, 0.5)):
        found = implied_cotangents(WIDTHS, made_up(WIDTHS, answer, changed), layers)
        assert found["hidden.0"] == pytest.approx(expected, abs=1e-3)
        assert found["embedding"] == pytest.approx(expected - 0.5, abs=1e-3)
    # Shares of the change at equal size: n / (1 + n) of the squares at n times the first width.
    shares = np.mean([n / (1 + n) for n in (1, 2, 4, 8)])
    table = made_up(WIDTHS, answer, 1.0)
    assert implied_cotangents(WIDTHS, table, layers)["hidden.0"] == pytest.approx(1 - shares / 2, abs=1e-6)
    rows = {(row.layer, row.quantity): row for row in verdicts(answer, WIDTHS, 9, table, KINDS)}  # type: ignore[arg-type]
    assert rows["hidden.0", "cotangent"].predicted == "1/2"
    assert rows["hidden.0", "cotangent"].verdict == rows["hidden.0", "gradient"].verdict == "holds"
    start = verdicts(answer, WIDTHS, 0, made_up(WIDTHS, answer), KINDS)  # type: ignore[arg-type]
    assert [row.predicted for row in start if row.quantity == "gradient"] == ["1/2", "1", "1/2"]
    assert {row.verdict for row in start} == {"holds"}


def test_signals_that_neither_cancel_nor_add_up_add_as_squares() -> None:
    """The change's signal overtakes that of the initial weights: sqrt(1 + n^2) of it, which is not 1 + n."""
    answer = solve_kinds(prescribe("adam", "sp").problem)
    table = made_up(WIDTHS, answer, 1e-6)
    sizes, n = table["readout"], np.array(WIDTHS)[:, None] / WIDTHS[0]
    sizes["back_change"] = n * sizes["back_initial"]
    for whole, verdict in ((np.hypot(1, n), "holds"), (1 + n, "fails"), (n**-0.2 * np.hypot(1, n), "fails")):
        sizes["back"] = whole * sizes["back_initial"]
        rows = {(row.layer, row.quantity): row for row in verdicts(answer, WIDTHS, 3, table, KINDS)}  # type: ignore[arg-type]
        assert rows["readout", "coherence"].verdict == verdict


def test_a_gradient_is_its_cotangent_times_what_the_layer_takes_in() -> None:
    """An input that grows is a fault of its own, and none of the batch where the gradient grows with it."""
    answer = solve_kinds(prescribe("adam", "sp").problem)
    table = made_up(WIDTHS, answer)
    for name in ("input", "gradient"):
        table["hidden.0"][name] = table["hidden.0"][name] * (np.array(WIDTHS)[:, None] / WIDTHS[0]) ** 0.3
    rows = {(row.layer, row.quantity): row for row in verdicts(answer, WIDTHS, 0, table, KINDS)}  # type: ignore[arg-type]
    assert {name for (layer, name), row in rows.items() if row.verdict == "fails"} == {"input", "gradient"}
    assert rows["hidden.0", "batch"].measured.value == pytest.approx(0.0)
    assert rows["hidden.0", "input"].measured.value == pytest.approx(0.3)


def test_a_seed_that_diverged_is_not_measured() -> None:
    answer = solve_kinds(prescribe("adam", "sp").problem)
    table = made_up(WIDTHS, answer, 1e-6)
    for sizes in table.values():
        for quantity in set(sizes) - {"weight"}:
            sizes[quantity] = np.where(np.arange(4)[:, None] == 3, np.nan, sizes[quantity])
    rows = verdicts(answer, WIDTHS, 5, table, KINDS)  # type: ignore[arg-type]
    assert {row.verdict for row in rows} == {"not measured"}


def test_outside_of_a_chain_hidden_layers_are_taken_to_preserve_the_signal() -> None:
    """Two hidden layers, half of whose signal is their change's, with gamma = 0.8, 0.3 above d: each adds n^0.15."""
    answer = solve_kinds(prescribe("adam", "mup", "none").problem)
    table = made_up(WIDTHS, answer, 1.0)
    hidden = {**table["hidden.0"], "back_change": table["hidden.0"]["back_initial"]}
    hidden["delta_w"] = hidden["delta_w"] * (np.array(WIDTHS)[:, None] / WIDTHS[0]) ** -0.3
    table = {"embedding": table["embedding"], "hidden.0": hidden, "hidden.1": hidden, "readout": table["readout"]}
    for chain, drop in ((False, 0.0), (True, 0.15)):
        rows = verdicts(answer, WIDTHS, 9, table, {**KINDS, "hidden.1": "hidden"}, chain=chain)  # type: ignore[arg-type]
        assert ("nonlinearity" in {row.quantity for row in rows}) == chain
        implied = {row.layer: row.reference for row in rows if row.quantity == "cotangent"}
        assert implied["hidden.0"] == pytest.approx(implied["hidden.1"] - drop)
        assert implied["embedding"] == pytest.approx(implied["hidden.0"] - drop - 0.5)


def study(scheme: str, model: str = "mlp", widths: tuple[int, ...] = (64, 256, 1024), steps: int = 0) -> list[Row]:
    sizes: dict[str, Any] = {"context": 8} if model == "mlp" else {"context": 8, "blocks": 1, "head_dimension": 16}
    answer = solve_kinds(prescribe("adam", scheme).problem)
    config = Config(answer, widths[0], 1e-3, model=model, batch=128, sizes=sizes)  # type: ignore[arg-type]
    found = gradients(config, widths, range(8), steps, load_corpus())
    assert set(found.tables) == {0, steps}
    return verdicts(answer, widths, steps, found.tables[steps], found.kinds, chain=model == "mlp")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["sp", "ntk", "mup", "mfp"])
def test_gradients_and_backward_alignment_at_initialisation(scheme: str) -> None:
    rows = study(scheme)
    assert len(rows) == 21
    for row in rows:  # what varies most from seed to seed is how far the examples' gradients cancel
        bound = 0.05 if row.quantity in ("gradient", "batch") else 0.02
        assert abs(row.measured.value - row.reference) < bound, row


@pytest.mark.slow
def test_a_transformer_after_a_few_steps_has_every_row() -> None:
    rows = study("mup", "transformer", (32, 64), steps=2)
    assert len({row.layer for row in rows}) == 8
    assert all(np.isfinite(row.measured.value) for row in rows)
    assert not any(row.quantity == "nonlinearity" for row in rows)
