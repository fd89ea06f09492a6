"""Tracing: every dense op of a function is found, its operands are the real ones, and nothing changes the function."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from verify.measuring.trace import Trace, TraceError, roles, trace
from verify.training.networks import Scaling
from verify.training.networks.mlp import MLP
from verify.training.networks.transformer import Transformer

KEY = jax.random.key(7)
BATCH, FEATURES, WIDTH, CLASSES, DEPTH = 5, 6, 16, 3, 4
ROUNDING = 1e-5
Apply = Callable[[Any, Any], Any]


def normal(index: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(index).standard_normal(shape, dtype=np.float32))


def mlp_params(width: int = WIDTH) -> dict[str, Any]:
    return {
        "embedding": {"kernel": normal(0, FEATURES, width), "bias": normal(1, width)},
        "hidden": [normal(2, width, width), normal(3, width, width)],
        "readout": normal(4, width, CLASSES),
    }


def mlp(params: Any, x: Array, activation: Callable[[Array], Array] = jnp.tanh) -> Array:
    z = activation(x @ params["embedding"]["kernel"] + params["embedding"]["bias"])
    for weight in params["hidden"]:
        z = activation(z @ (0.3 * weight.T))
    return z @ params["readout"]


def stack_params() -> dict[str, Array]:
    return {
        "embedding": normal(0, FEATURES, WIDTH),
        "layers": normal(1, DEPTH, WIDTH, WIDTH) / WIDTH**0.5,
        "gains": normal(2, DEPTH, WIDTH),
        "shared": normal(3, WIDTH, WIDTH) / WIDTH**0.5,
        "readout": normal(4, WIDTH, CLASSES),
    }


def stack(params: Any, x: Array, reverse: bool = False) -> tuple[Array, Array]:
    def layer(z: Array, weights: tuple[Array, Array]) -> tuple[Array, Array]:
        weight, gain = weights
        return jnp.tanh(gain * (z @ weight)) @ params["shared"], jnp.mean(z)

    z, means = jax.lax.scan(layer, x @ params["embedding"], (params["layers"], params["gains"]), reverse=reverse)
    return z @ params["readout"], means


def lookup(params: Any, tokens: Array) -> Array:
    return params["table"][tokens] @ params["readout"]


def convolution(params: Any, images: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    z = jax.lax.conv_general_dilated(images, params["kernel"], (1, 1), "SAME", dimension_numbers=layout)
    return z.mean(axis=(1, 2)) @ params["readout"]


INPUT = normal(10, BATCH, FEATURES)
TOKENS = jnp.array([[0, 2, 1], [3, 3, 0]])
LOOKUP = {"table": normal(11, 4, WIDTH), "readout": normal(12, WIDTH, CLASSES)}
CONVOLUTION = {"kernel": normal(13, 3, 2, 4, WIDTH), "readout": normal(14, WIDTH, CLASSES)}
IMAGES = normal(15, 2, 5, 5, 4)


def names(traced: Trace) -> list[str]:
    return [op.name for op in traced.ops]


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING), actual, expected)


def assert_unchanged(apply: Apply, params: Any, inputs: Any) -> Trace:
    """Outputs are apply's own bit for bit, both sides compiled, as parts that apply compiles itself are rounded so."""
    traced = trace(apply, params, inputs)
    outputs, _ = jax.jit(traced.run)(params, inputs)
    assert_same(outputs, jax.jit(apply)(params, inputs))
    return traced


def message(apply: Apply, params: Any, inputs: Any) -> str:
    with pytest.raises(TraceError) as error:
        trace(apply, params, inputs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_mlp_has_its_matrices_in_order_with_their_fans_and_operands():
    params = mlp_params()
    traced = assert_unchanged(mlp, params, INPUT)
    assert [(op.name, op.path, op.primitive, op.fan_in, op.fan_out) for op in traced.ops] == [
        ("embedding.kernel", "embedding.kernel", "dot", FEATURES, WIDTH),
        ("hidden.0", "hidden.0", "dot", WIDTH, WIDTH),
        ("hidden.1", "hidden.1", "dot", WIDTH, WIDTH),
        ("readout", "readout", "dot", WIDTH, CLASSES),
    ]
    assert traced.others == ("embedding.bias",)
    outputs, operands = traced.run(params, INPUT)
    assert_same(outputs, mlp(params, INPUT))
    z = jnp.tanh(INPUT @ params["embedding"]["kernel"] + params["embedding"]["bias"])
    assert_same(operands["hidden.0"].input, z)
    # The multiplier and the transposition belong to the weight as it enters.
    assert_same(operands["hidden.0"].weight, 0.3 * params["hidden"][0].T)


def test_abstract_arguments_find_the_same_ops():
    params = mlp_params()
    abstract = jax.eval_shape(lambda *arguments: arguments, params, INPUT)
    with jax.checking_leaks():
        traced = trace(mlp, *abstract)
    assert traced.ops == trace(mlp, params, INPUT).ops
    assert_same(traced.run(params, INPUT)[0], mlp(params, INPUT))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_has_one_op_per_iteration_in_the_order_of_execution(reverse: bool):
    params = stack_params()
    traced = assert_unchanged(lambda p, x: stack(p, x, reverse), params, INPUT)
    order = range(DEPTH)[::-1] if reverse else range(DEPTH)
    inside = [(f"{path}[{i}]", path, (i,)) for i in order for path in ("layers", "shared")]
    assert [(op.name, op.path, op.iteration) for op in traced.ops] == [
        ("embedding", "embedding", ()),
        *inside,
        ("readout", "readout", ()),
    ]
    assert traced.others == ("gains",)
    _, operands = traced.run(params, INPUT)
    z = INPUT @ params["embedding"]
    for i in order:
        assert_same(operands[f"layers[{i}]"].weight, params["layers"][i])
        assert_close(operands[f"layers[{i}]"].input, z)
        z = jnp.tanh(params["gains"][i] * (z @ params["layers"][i])) @ params["shared"]


def test_a_weight_sliced_by_a_loop_counter_and_nested_scans():
    def apply(params: Any, x: Array) -> Array:
        def outer(_: int, z: Array) -> Array:
            return jax.lax.fori_loop(0, DEPTH, lambda i, z: jnp.tanh(z @ params["layers"][i]), z)

        return jax.lax.fori_loop(0, 2, outer, x @ params["embedding"])

    traced = assert_unchanged(apply, stack_params(), INPUT)
    assert names(traced) == ["embedding", *(f"layers[{i}][{j}]" for i in range(2) for j in range(DEPTH))]


def test_a_scan_over_no_layers_has_no_ops():
    params = stack_params() | {"layers": jnp.zeros((0, WIDTH, WIDTH)), "gains": jnp.zeros((0, WIDTH))}
    assert names(assert_unchanged(stack, params, INPUT)) == ["embedding", "readout"]


def test_an_activation_permuted_by_a_parameter_is_no_lookup():
    params = {"order": jnp.array([2, 0, 1]), "weight": normal(0, FEATURES, WIDTH)}
    assert names(assert_unchanged(lambda p, x: x[p["order"]] @ p["weight"], params, INPUT)) == ["weight"]


@pytest.mark.parametrize("wrap", [jax.checkpoint, jax.jit, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))])
def test_ops_are_found_inside_checkpoint_and_jit(wrap: Callable[[Apply], Apply]):
    params = mlp_params()
    traced = assert_unchanged(lambda p, x: 2 * wrap(mlp)(p, x), params, INPUT)
    assert names(traced) == names(trace(mlp, params, INPUT))
    for name, operands in traced.run(params, INPUT)[1].items():
        assert_same(operands, trace(mlp, params, INPUT).run(params, INPUT)[1][name])


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.gelu, jax.nn.silu])
def test_activations_with_rules_of_their_own(activation: Callable[[Array], Array]):
    params = mlp_params()
    assert names(assert_unchanged(lambda p, x: mlp(p, x, activation), params, INPUT)) == names(
        trace(mlp, params, INPUT)
    )


def test_custom_derivatives_stay_those_of_apply():
    # jax.nn.relu has derivative 0 at 0, where jnp.maximum has 1/2; the second rule is wrong on purpose.
    @jax.custom_vjp
    def dense(z: Array, weight: Array) -> Array:
        return z @ weight

    dense.defvjp(lambda z, w: (z @ w, (z, w)), lambda saved, g: (7 * g @ saved[1].T, 7 * saved[0].T @ g))

    def relu_at_zero(params: Any, x: Array) -> Array:
        return jax.nn.relu(0 * (x @ params))

    for apply in (relu_at_zero, lambda params, x: dense(x, params)):
        weight = normal(0, FEATURES, WIDTH)
        traced = assert_unchanged(apply, weight, INPUT)
        assert names(traced) == ["params"]
        expected = jax.grad(lambda w, apply=apply: jnp.sum(apply(w, INPUT)))(weight)
        assert_close(jax.grad(lambda w, traced=traced: jnp.sum(traced.run(w, INPUT)[0]))(weight), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_flax_attention_block_has_every_kernel_and_two_products():
    nn = pytest.importorskip("flax.linen", reason="flax is not installed")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, tokens: Array) -> Array:
            embed = nn.Embed(4, WIDTH)
            z = embed(tokens)
            z = z + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(z))
            z = z + nn.Dense(WIDTH, name="down")(nn.gelu(nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm()(z))))
            return embed.attend(z)

    block = Block()
    params = jax.jit(block.init)(KEY, TOKENS)
    traced = assert_unchanged(block.apply, params, TOKENS)
    attention = "params.MultiHeadDotProductAttention_0"
    assert [(op.name, op.primitive, op.fan_in, op.fan_out) for op in traced.ops] == [
        ("params.Embed_0.embedding", "gather", 1, WIDTH),
        (f"{attention}.query.kernel", "dot", WIDTH, WIDTH),
        (f"{attention}.key.kernel", "dot", WIDTH, WIDTH),
        (f"{attention}.value.kernel", "dot", WIDTH, WIDTH),
        (f"{attention}.out.kernel", "dot", WIDTH, WIDTH),
        ("params.up.kernel", "dot", WIDTH, 4 * WIDTH),
        ("params.down.kernel", "dot", 4 * WIDTH, WIDTH),
        ("params.Embed_0.embedding#2", "dot", WIDTH, 4),
    ]
    assert [product.name for product in traced.products] == ["dot", "dot#2"]
    assert_same(traced.run(params, TOKENS)[0], block.apply(params, TOKENS))


def test_a_tied_weight_is_two_ops_of_one_path():
    def apply(table: Array, tokens: Array) -> Array:
        return jnp.tanh(table[tokens]) @ table.T

    traced = assert_unchanged(apply, LOOKUP["table"], TOKENS)
    assert [(op.name, op.path, op.primitive, op.fan_in, op.fan_out) for op in traced.ops] == [
        ("params", "params", "gather", 1, WIDTH),
        ("params#2", "params", "dot", WIDTH, 4),
    ]


def test_a_constant_lookup_is_part_of_the_parameter_and_two_activations_are_a_product():
    def apply(params: Any, x: Array) -> Array:
        positions = params["positions"][jnp.arange(BATCH)]
        z = (x + positions) @ params["layers"][jnp.array([2, 0])].reshape(FEATURES, -1)
        return z @ z.T

    params = {"positions": normal(0, BATCH + 1, FEATURES), "layers": normal(1, 3, FEATURES // 2, WIDTH)}
    traced = assert_unchanged(apply, params, INPUT)
    assert names(traced) == ["layers"]
    assert traced.others == ("positions",)
    (product,) = traced.products
    assert product == ("dot", (BATCH, WIDTH), (WIDTH, BATCH), (BATCH, BATCH))
    _, operands = traced.run(params, INPUT)
    assert_same(operands["layers"].weight, params["layers"][jnp.array([2, 0])].reshape(FEATURES, -1))


@pytest.mark.parametrize(
    ("apply", "params", "inputs"),
    [
        (mlp, mlp_params(), INPUT),
        (stack, stack_params(), INPUT),
        (lookup, LOOKUP, TOKENS),
        (convolution, CONVOLUTION, IMAGES),
        (lambda p, x: jnp.einsum("ij,bi->jb", p, x), normal(0, FEATURES, WIDTH), INPUT),
    ],
    ids=["mlp", "scan", "lookup", "convolution", "weight first"],
)
def test_product_replays_every_op_and_is_linear_in_the_weight(apply: Apply, params: Any, inputs: Any):
    traced = assert_unchanged(apply, params, inputs)
    _, operands = traced.run(params, inputs)
    for op in traced.ops:
        z, weight = operands[op.name]
        delta = normal(99, *weight.shape)
        output = traced.product(op, z, weight)
        assert (z.shape, weight.shape, output.shape) == (op.input_shape, op.weight_shape, op.output_shape)
        assert_close(traced.product(op, z, weight + delta), output + traced.product(op, z, delta))
        if op.primitive == "gather":
            assert_same(output.reshape(*TOKENS.shape, WIDTH), LOOKUP["table"][TOKENS])
        else:
            assert_close(traced.product(op, 3 * z, weight), 3 * output)


def test_the_last_product_is_the_output():
    params = mlp_params()
    traced = trace(mlp, params, INPUT)
    outputs, operands = traced.run(params, INPUT)
    assert_same(traced.product(traced.ops[-1], *operands["readout"]), outputs)
    transposed = trace(lambda p, x: jnp.einsum("ij,bi->jb", p, x), params["hidden"][0], normal(5, BATCH, WIDTH))
    outputs, operands = transposed.run(params["hidden"][0], normal(5, BATCH, WIDTH))
    assert_close(transposed.product(transposed.ops[0], *operands["params"]).reshape(outputs.shape), outputs)


def test_batch_dimensions_count_in_no_fan():
    (op,) = trace(lambda p, x: jnp.einsum("bhi,hio->bho", x, p), normal(0, 2, 8, 3), normal(1, BATCH, 2, 8)).ops
    assert (op.fan_in, op.fan_out) == (8, 3)


def test_a_convolution_counts_taps_times_channels():
    kernel, readout = trace(convolution, CONVOLUTION, IMAGES).ops
    assert (kernel.primitive, kernel.fan_in, kernel.fan_out) == ("conv", 3 * 2 * 4, WIDTH)
    assert (readout.fan_in, readout.fan_out) == (WIDTH, CLASSES)


@pytest.mark.parametrize(("apply", "params"), [(mlp, mlp_params()), (stack, stack_params())], ids=["mlp", "scan"])
def test_the_gradient_through_run_is_that_of_apply(apply: Apply, params: Any):
    traced = trace(apply, params, INPUT)

    def loss(outputs: Any) -> Array:
        return sum((jnp.sum(output**2) for output in jax.tree.leaves(outputs)), jnp.zeros(()))

    gradient = jax.grad(lambda p: loss(traced.run(p, INPUT)[0]))(params)
    expected = jax.grad(lambda p: loss(apply(p, INPUT)))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradient, expected)


def test_shifts_are_added_to_the_outputs_of_their_ops():
    """Against the same function with the sums written into it; one op shifted, then all."""
    params = stack_params()
    traced = trace(stack, params, INPUT)
    shifts = {op.name: normal(i, *op.output_shape) for i, op in enumerate(traced.ops)}

    def shifted(given: dict[str, Array]) -> tuple[Array, Array]:
        z, means = INPUT @ params["embedding"] + given.get("embedding", 0), []
        for i in range(DEPTH):
            means.append(jnp.mean(z))
            inner = jnp.tanh(params["gains"][i] * (z @ params["layers"][i] + given.get(f"layers[{i}]", 0)))
            z = inner @ params["shared"] + given.get(f"shared[{i}]", 0)
        return z @ params["readout"] + given.get("readout", 0), jnp.stack(means)

    plain = traced.run(params, INPUT)[0]
    for given in ({"layers[1]": shifts["layers[1]"]}, shifts):
        outputs, _ = traced.run(params, INPUT, given)
        assert_close(outputs, shifted(given))
        assert float(jnp.max(jnp.abs(outputs[0] - plain[0]))) > 0.1
    zeros = jax.tree.map(jnp.zeros_like, shifts)
    assert_same(traced.run(params, INPUT, zeros)[0], plain)


@pytest.mark.parametrize("wrap", [jax.checkpoint, jax.jit])
def test_shifts_reach_into_checkpoint_and_jit(wrap: Callable[[Apply], Apply]):
    params = mlp_params()
    traced, plain = trace(lambda p, x: 2 * wrap(mlp)(p, x), params, INPUT), trace(mlp, params, INPUT)
    shifts = {op.name: normal(i, *op.output_shape) for i, op in enumerate(traced.ops)}
    assert_close(traced.run(params, INPUT, shifts)[0], 2 * plain.run(params, INPUT, shifts)[0])


def test_a_shift_has_the_precision_of_the_output_it_is_added_to():
    params = {name: leaf.astype(jnp.bfloat16) for name, leaf in LOOKUP.items()}
    traced = trace(lookup, params, TOKENS)
    shifts = {op.name: jnp.ones(op.output_shape) for op in traced.ops}
    outputs, operands = traced.run(params, TOKENS, shifts)
    assert outputs.dtype == operands["readout"].input.dtype == jnp.bfloat16
    assert_same(operands["readout"].input, params["table"][TOKENS] + 1)


def test_shifts_that_fit_no_op_are_named():
    traced = trace(mlp, mlp_params(), INPUT)
    with pytest.raises(
        TraceError, match=r"^a shift of hidden\.7 has shape \(5, 16\), and there is no dense op of that name"
    ):
        traced.run(mlp_params(), INPUT, {"hidden.7": jnp.zeros((BATCH, WIDTH))})
    with pytest.raises(TraceError, match=r"^a shift of hidden\.1 has shape \(16,\), and its output \(5, 16\); give"):
        traced.run(mlp_params(), INPUT, {"hidden.1": jnp.zeros(WIDTH)})


def test_a_shift_under_a_derivative_rule_of_its_own_is_refused_and_others_pass():
    @jax.custom_vjp
    def dense(z: Array, weight: Array) -> Array:
        return 2 * (z @ weight)

    dense.defvjp(lambda z, w: (2 * (z @ w), (z, w)), lambda saved, g: (2 * g @ saved[1].T, 2 * saved[0].T @ g))
    params = {"a": normal(0, FEATURES, WIDTH), "b": normal(1, WIDTH, CLASSES)}
    traced = trace(lambda p, x: dense(x @ p["a"], p["b"]), params, INPUT)
    with pytest.raises(TraceError, match=r"^b is inside a function with a derivative rule of its own"):
        traced.run(params, INPUT, {"b": jnp.zeros((BATCH, CLASSES))})
    shift = normal(2, BATCH, WIDTH)
    assert_close(traced.run(params, INPUT, {"a": shift})[0], 2 * (INPUT @ params["a"] + shift) @ params["b"])


def test_a_shift_passes_where_a_derivative_rule_ends_in_the_op():
    @jax.custom_vjp
    def dense(z: Array, weight: Array) -> Array:
        return z @ weight

    # A rule that is none of the product's, so that it shows whose derivative was taken.
    dense.defvjp(lambda z, w: (z @ w, (z, w)), lambda saved, g: (3 * g @ saved[1].T, saved[0].T @ g))
    params = {"a": normal(0, FEATURES, WIDTH), "b": normal(1, WIDTH, CLASSES)}
    traced = trace(lambda p, x: dense(x @ p["a"], p["b"]), params, INPUT)
    shifts = {"a": normal(2, BATCH, WIDTH), "b": normal(3, BATCH, CLASSES)}
    outputs = traced.run(params, INPUT, shifts)[0]
    assert_close(outputs, (INPUT @ params["a"] + shifts["a"]) @ params["b"] + shifts["b"])
    sent = jax.grad(lambda shifts: traced.run(params, INPUT, shifts)[0].sum())(shifts)
    assert_close(sent["b"], jnp.ones((BATCH, CLASSES)))
    assert_close(sent["a"], 3 * jnp.ones((BATCH, CLASSES)) @ params["b"].T)


def test_run_vmaps_over_parameters():
    params = [mlp_params(), jax.tree.map(lambda leaf: leaf / 2, mlp_params())]
    traced = trace(mlp, params[0], INPUT)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    outputs, operands = jax.vmap(traced.run, in_axes=(0, None))(stacked, INPUT)
    for i, one in enumerate(params):
        expected, single = traced.run(one, INPUT)
        assert_close(outputs[i], expected)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], operands), single)


def test_a_while_loop_over_a_parameter_is_refused():
    def apply(params: Any, x: Array) -> Array:
        return jax.lax.while_loop(lambda z: jnp.sum(z) < 9, lambda z: z @ params["hidden"][0], x @ params["hidden"][1])

    text = message(apply, mlp_params(), normal(5, BATCH, WIDTH))
    assert "while" in text
    assert "parameter hidden.0" in text
    assert "jax.lax.scan" in text


def test_a_branch_with_a_dense_op_is_refused_and_others_run_whole():
    def apply(params: Any, x: Array, branch: Callable[[Array, Array], Array]) -> Array:
        z = x @ params["a"]
        z = jax.lax.cond(jnp.sum(x) > 0, branch, lambda z, _: z, z, params["b"])
        return jax.lax.while_loop(lambda z: jnp.max(z) > 1, lambda z: z / 2 - params["c"], z)

    params = {"a": normal(0, FEATURES, WIDTH), "b": normal(1, WIDTH, WIDTH), "c": jnp.array(0.1)}
    text = message(lambda p, x: apply(p, x, jnp.matmul), params, INPUT)
    assert "cond" in text
    assert "parameter b" in text
    whole = assert_unchanged(lambda p, x: apply(p, x, lambda z, b: z + b[0]), params, INPUT)
    assert names(whole) == ["a"]
    assert whole.others == ("b", "c")


def test_a_weight_made_of_two_parameters_is_refused_and_such_a_product_alone_is_not():
    params = {"a": normal(0, FEATURES, 2), "b": normal(1, 2, WIDTH), "c": normal(2, FEATURES, WIDTH)}
    text = message(lambda p, x: x @ (p["a"] @ p["b"]), params, INPUT)
    assert "parameter a and parameter b" in text
    traced = assert_unchanged(lambda p, x: x @ p["c"] + jnp.sum(p["a"] @ p["b"]), params, INPUT)
    assert names(traced) == ["c"]


def test_a_convolution_over_a_parameter_is_refused():
    def apply(image: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME")

    assert "a convolution slides over parameter params" in message(apply, normal(0, 1, 4, 5, 5), normal(1, 2, 4, 3, 3))


def test_a_function_that_closes_over_its_data_is_refused():
    assert "no dense op" in message(lambda params, _: mlp(params, INPUT), mlp_params(), INPUT)


def test_two_parameters_of_one_path_are_refused():
    kernel = normal(0, FEATURES, WIDTH)
    params = {"a.b": kernel, "a": {"b": kernel}}
    assert "path a.b" in message(lambda p, x: x @ p["a.b"] + x @ p["a"]["b"], params, INPUT)


def test_run_names_the_leaf_that_differs_from_the_traced_one():
    traced = trace(mlp, mlp_params(), INPUT)
    with pytest.raises(TraceError, match=r"^params\['embedding'\]\['bias'\] is float32\(32,\) and was float32\(16,\)"):
        traced.run(mlp_params(2 * WIDTH), INPUT)
    with pytest.raises(TraceError, match=r"^params\['readout'\] is missing"):
        traced.run({name: leaf for name, leaf in mlp_params().items() if name != "readout"}, INPUT)


def test_the_roles_of_an_mlp_and_of_tables():
    small, large = trace(mlp, mlp_params(), INPUT), trace(mlp, mlp_params(3 * WIDTH), INPUT)
    expected = {"embedding.kernel": "embedding", "hidden.0": "hidden", "hidden.1": "hidden", "readout": "readout"}
    assert roles(small, large) == expected
    assert roles(small, large, width_ratio=3) == expected
    narrow, wide = (
        trace(lookup, {"table": normal(0, 4, width), "readout": normal(1, width, CLASSES)}, TOKENS) for width in (8, 16)
    )
    assert roles(narrow, wide) == {"table": "embedding", "readout": "readout"}


@pytest.mark.parametrize("kind", [MLP, Transformer])
def test_the_roles_of_the_models_are_their_labels(kind: type[MLP] | type[Transformer]):
    def build(width: int) -> tuple[Trace, Any]:
        model = kind(Scaling(width, 32, (0, 0, 0), (0, Fraction(1, 2), Fraction(1, 2))), context=3)
        params = jax.eval_shape(model.init, KEY)
        return trace(model.apply, params, TOKENS), model.labels(params)

    (small, labels), (large, _) = build(32), build(64)
    leaves = jax.tree_util.tree_leaves_with_path(labels)
    expected = {jax.tree_util.keystr(path, simple=True, separator="."): label for path, label in leaves}
    # Positions meet no input: to the theory they are a vector, not a dense op.
    expected.pop("embedding.positions", None)
    assert roles(small, large) == expected


@pytest.mark.parametrize(
    ("sizes", "ratio", "wrong"),
    [
        ([(8, 8, 7, 7), (16, 16, 7, 7)], None, "third"),
        ([(8, 8, 64, 8), (16, 16, 256, 16)], None, "second"),
        ([(8, 8, 8, 8), (16, 16, 16, 16)], 4, "first"),
        ([(8, 8, 8, 8), (8, 8, 8, 8)], None, "first"),
        ([(16, 16, 16, 16), (8, 8, 8, 8)], None, "first"),
    ],
    ids=["fixed layer", "squared growth", "other ratio", "one width", "widths swapped"],
)
def test_a_layer_without_a_role_is_named(sizes: list[tuple[int, ...]], ratio: float | None, wrong: str):
    def build(first: int, second: int, third: int, fourth: int) -> Trace:
        shapes = {"first": (first, second), "second": (second, third), "third": (third, fourth)}
        params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        inputs = jax.ShapeDtypeStruct((BATCH, first), jnp.float32)
        return trace(lambda p, x: x @ p["first"] @ p["second"] @ p["third"], params, inputs)

    with pytest.raises(TraceError, match=rf"^{wrong} has no role in width: \d+ -> \d+ with weight \(.*\) became"):
        roles(build(*sizes[0]), build(*sizes[1]), ratio)


def test_an_op_at_one_width_only_is_named():
    small = trace(lambda p, x: x @ p["a"], {"a": normal(0, FEATURES, 4)}, INPUT)
    large = trace(lambda p, x: x @ p["a"] @ p["b"], {"a": normal(0, FEATURES, 8), "b": normal(1, 8, 8)}, INPUT)
    with pytest.raises(TraceError, match=r"^b is a dense op at one of the two widths only"):
        roles(small, large)
