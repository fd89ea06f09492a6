"""Wrong theories meet made-up networks of known exponents: each is rejected by the name of the step that is wrong.

Networks follow the theory that they were made by, with a little noise; the theory that judges them is another one. No
training, so that what the verdict has to see is known exactly.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sympy import Expr, Rational, S

from derive.solve import Layer, Prescription, prescribe, solve_kinds
from derive.words import Kind
from verify.fit.forward import BLAMED, Row, largest_updates, verdicts
from verify.fit.four_steps import counts, rejected_by, resolution, summary
from verify.fit.judging import row_json
from verify.studies.pictures import sizes_against_width
from verify.sweeps.settings.one_rate import at_one_rate

WIDTHS = (128, 256, 512, 1024)
KINDS: dict[str, Kind] = {"embedding": "embedding", "hidden.0": "hidden", "hidden.1": "hidden", "readout": "readout"}
HALF = Rational(1, 2)
# How large the terms DW z, W Dz and DW Dz are at the smallest width, as in trained networks after a step.
SHARES = {"alpha": 1.0, "omega": 0.3, "u": 0.001}


def theory(optimizer: str = "adam", scheme: str = "sp", alignment: str = "full") -> Prescription:
    return solve_kinds(prescribe(optimizer, scheme, alignment).problem)


def with_layer(right: Prescription, kind: Kind, **values: Any) -> Prescription:
    """The same theory but for some exponents of one kind, moved by as much as is given."""
    layers = tuple(
        replace(layer, **{name: getattr(layer, name) + by for name, by in values.items()})
        if layer.kind == kind
        else layer
        for layer in right.layers
    )
    return replace(right, layers=layers)


def networks(truth: Prescription, omega_readout: Expr = HALF, noise: float = 0.01) -> dict[str, dict[str, Any]]:
    """Sizes of three seeds that obey a, b, c, s, g and the alignments of `truth`, whatever it says of r."""
    generator, ratio = np.random.default_rng(0), (np.array(WIDTHS, dtype=float) / WIDTHS[0])[:, None]

    def size(exponent: Any) -> Any:
        return ratio ** -float(exponent) * np.exp(noise * generator.standard_normal((len(WIDTHS), 3)))

    layers: dict[Kind, Layer] = {layer.kind: layer for layer in truth.layers}
    table: dict[str, dict[str, Any]] = {}
    z, shift = size(0), np.zeros((len(WIDTHS), 3))
    for name, kind in KINDS.items():
        layer = layers[kind]
        step = layer.c + layer.s
        sizes = {"weight": size(layer.b), "delta_w": size(step), "gradient": size(layer.g)}
        if kind == "embedding":
            sizes["term_alpha"] = sizes["delta_output"] = size(step)
            z = size(layer.a + layer.b)
        else:
            assert layer.alpha is not None and layer.omega is not None and layer.u is not None
            omega = omega_readout if kind == "readout" else layer.omega
            sizes |= {"input": z, "delta_input": shift}
            sizes["term_alpha"] = SHARES["alpha"] * size(step - layer.alpha) * z
            sizes["term_omega"] = SHARES["omega"] * size(layer.b - omega) * shift
            sizes["term_u"] = SHARES["u"] * size(step - layer.u) * shift
            sizes["delta_output"] = np.sqrt(sum(sizes[f"term_{term}"] ** 2 for term in SHARES))
            z = size(layer.a + layer.b - HALF) * z
        shift = ratio ** -float(layer.a) * sizes["delta_output"]
        table[name] = sizes
    return table


def judged(claim: Prescription, table: dict[str, dict[str, Any]], step: int = 1) -> list[Row]:
    return verdicts(claim, WIDTHS, step, table, KINDS)


def failing(rows: list[Row]) -> set[tuple[str, str]]:
    return {(row.kind, row.quantity) for row in rows if row.verdict == "fails"}


SETTINGS = [(optimizer, scheme) for optimizer in ("adam", "sgd", "adam-ps") for scheme in ("sp", "ntk", "mup", "mfp")]


@pytest.mark.parametrize(("optimizer", "scheme"), SETTINGS)
@pytest.mark.parametrize("step", [1, 10])
def test_the_right_theory_holds_in_every_row(optimizer: str, scheme: str, step: int) -> None:
    right = theory(optimizer, scheme)
    rows = judged(right, networks(right), step)
    assert not failing(rows) and not rejected_by(rows)
    quantities = {row.quantity for row in rows}
    assert {"delta_z", "largest", "consistent"} <= quantities and ("weight" in quantities) == (step == 1)


@pytest.mark.parametrize(("optimizer", "scheme"), SETTINGS)
@pytest.mark.parametrize("kind", ["embedding", "hidden", "readout"])
@pytest.mark.parametrize("by", [HALF, -HALF])
def test_a_wrong_rate_is_rejected_by_the_result(optimizer: str, scheme: str, kind: Kind, by: Expr) -> None:
    """The networks are trained at the wrong rate, and the theory claims the right r of it."""
    wrong = with_layer(theory(optimizer, scheme), kind, c=by)
    rows = judged(wrong, networks(wrong))
    assert list(rejected_by(rows)) == ["4 result"]
    assert (kind, "largest") in failing(rows)
    assert all(row.reason == BLAMED for row in rejected_by(rows)["4 result"])
    assert not any(row.quantity == "delta_w" and row.verdict == "fails" for row in rows)


def test_a_rate_that_freezes_features_fails_by_their_change() -> None:
    wrong = with_layer(theory(), "hidden", c=HALF)
    for row in judged(wrong, networks(wrong)):
        if (row.quantity, row.kind) == ("delta_z", "hidden"):
            assert row.verdict == "fails" and row.predicted == "0" and row.measured.value > 0.25
            # What terms imply stands beside it, and is not what it is judged by.
            assert row.reference == 0 and row.implied == pytest.approx(row.measured.value, abs=0.1)
        if (row.quantity, row.kind) == ("consistent", "hidden"):
            assert row.verdict == "holds" and row.predicted is None


def test_a_rate_that_is_too_small_shows_where_another_term_carries_the_change() -> None:
    """SP's readout at c = 3/2: the logits still change as W Dz does, n^0, but not by the readout's own update."""
    wrong = with_layer(theory(), "readout", c=HALF)
    table = networks(wrong)
    table["readout"]["term_omega"] *= 100
    table["readout"]["delta_output"] = np.hypot(table["readout"]["term_alpha"], table["readout"]["term_omega"])
    found = {row.quantity: row for row in judged(wrong, table) if row.layer == "readout"}
    assert found["delta_z"].verdict == "holds"
    assert (found["largest"].verdict, found["largest"].predicted) == ("fails", "0")
    assert found["largest"].measured.value == pytest.approx(0.5, abs=0.02)


def test_an_update_as_large_as_its_weights_may_be_is_the_largest() -> None:
    """SGD + muP, readout of alpha = 1/2, omega = 1: d = a + b = 1 binds, its update is n^-1/2 and r = 0 by W Dz."""
    right = theory("sgd", "mup", "readout.alpha=1/2,readout.u=1/2,readout.omega=1")
    readout = right.layers[-1]
    assert (readout.c + readout.s + readout.a, readout.r) == (1, 0)
    found = {row.kind: row for row in judged(right, networks(right)) if row.quantity == "largest"}
    assert (found["readout"].predicted, found["hidden"].predicted) == ("1/2", "0")
    assert {row.verdict for row in found.values()} == {"holds"}


def test_the_largest_updates_by_hand() -> None:
    """t_l = max(0, t_{l+1} + omega_{l+1} - 1/2): omega = 3/4 on the readout and 5/8 on hidden layers add up."""
    right = prescribe("adam", "sp", "readout.omega=3/4,hidden.omega=5/8")
    assert largest_updates(right) == [Rational(3, 8), Rational(1, 4), 0]
    assert largest_updates(prescribe("adam", "sp", "readout.omega=3/4", loss="ce"))[1:] == [0, 0]
    for optimizer in ("sgd", "adam"):  # alpha = u = 1/2 reaches n^-1/2 with DW as large as W in SGD alone bounded
        found = largest_updates(prescribe(optimizer, "mup", "readout.alpha=1/2,readout.u=1/2,readout.omega=1"))
        assert found == [0, 0, HALF if optimizer == "sgd" else 0]
    # Behind a layer of r = 1/4 the readout's update of d = a + b = 1/2 is n^-(1/2 - max(alpha, u - 1/4)).
    for u, last in (("1/2", Rational(1, 4)), ("5/8", Rational(1, 8))):
        behind = prescribe("sgd", "sp", f"readout.omega=3/4,readout.alpha=1/4,readout.u={u}")
        assert largest_updates(behind) == [Rational(1, 4), Rational(1, 4), last]


def test_which_rows_there_are_at_which_step() -> None:
    """Initial sizes and epsilon belong to the first step; what is only so in a chain is left out elsewhere."""
    right = theory()
    table, own = networks(right), {"delta_w", "cancellation", "gradient", "delta_z", "largest", "consistent"}
    first = {"weight", "size", "epsilon", "nonlinearity"}
    for chain, step, more in (
        (True, 1, first),
        (True, 2, {"nonlinearity"}),
        (False, 1, {"weight", "epsilon"}),
        (False, 2, set()),
    ):
        rows = verdicts(right, WIDTHS, step, table, KINDS, chain=chain)
        assert {row.quantity for row in rows if row.layer == "embedding"} == own | more
        assert {row.quantity for row in rows if row.layer == "hidden.0"} == own | more | {"alpha", "omega", "u"}
        assert {row.quantity for row in rows if row.layer == "readout"} == (own | more | {"alpha", "omega", "u"}) - {
            "nonlinearity"
        }


def test_logits_have_their_multiplier() -> None:
    """muP: RMS(Dh) of the readout is n^(1/2) as W z goes, and n^0 with the multiplier n^-1/2."""
    right = theory("adam", "mup")
    table = networks(right, noise=0.001)
    before = (np.array(WIDTHS, dtype=float) / WIDTHS[0])[:, None] ** 0.5 * np.exp(0.001 * np.arange(3))
    for name in ("term_alpha", "delta_output"):
        table["readout"][name] = before
    found = {row.quantity: row.measured.value for row in judged(right, table) if row.layer == "readout"}
    assert (found["delta_z"], found["largest"]) == (pytest.approx(0.0, abs=0.01), pytest.approx(0.0, abs=0.01))


CLAIMS = [
    ("hidden", {"r": HALF}, "4 result", "delta_z"),
    ("hidden", {"r": -HALF}, "4 result", "delta_z"),
    ("embedding", {"r": HALF}, "4 result", "delta_z"),
    ("readout", {"r": HALF}, "4 result", "delta_z"),
    ("hidden", {"s": HALF}, "1 optimizer", "delta_w"),
    ("readout", {"s": -HALF}, "1 optimizer", "delta_w"),
    ("hidden", {"g": HALF}, "2 propagation", "gradient"),
    ("embedding", {"g": -HALF}, "2 propagation", "gradient"),
    ("hidden", {"b": Rational(1, 4)}, "2 propagation", "weight"),
    ("readout", {"b": -Rational(1, 4)}, "2 propagation", "weight"),
    ("embedding", {"b": Rational(1, 4)}, "2 propagation", "weight"),
    ("hidden", {"a": HALF}, "2 propagation", "nonlinearity"),
    ("embedding", {"a": -HALF}, "2 propagation", "nonlinearity"),
]


@pytest.mark.parametrize("scheme", ["sp", "mup"])
@pytest.mark.parametrize(("kind", "change", "step", "quantity"), CLAIMS)
def test_a_wrong_claim_is_rejected_by_name(
    scheme: str, kind: Kind, change: dict[str, Expr], step: str, quantity: str
) -> None:
    """Right networks, and a theory that claims something else of one exponent."""
    right = theory("adam", scheme)
    rows = judged(with_layer(right, kind, **change), networks(right))
    assert (kind, quantity) in failing(rows)
    assert step in rejected_by(rows)


@pytest.mark.parametrize("kind", ["embedding", "hidden", "readout"])
@pytest.mark.parametrize("by", [HALF, -HALF])
def test_an_epsilon_that_does_not_follow_the_gradient_is_rejected_by_name(kind: Kind, by: Expr) -> None:
    right = theory("adam", "mup")
    assert all(layer.epsilon is not None for layer in right.layers)
    rows = judged(with_layer(right, kind, epsilon=by), networks(right))
    assert failing(rows) == {(kind, "epsilon")} and list(rejected_by(rows)) == ["1 optimizer"]
    assert (" and 1 more" in summary(rows)[1], "more" in summary(rows)[1]) == (kind == "hidden",) * 2
    assert not any(row.quantity == "epsilon" for row in judged(theory("sgd"), networks(theory("sgd"))))


@pytest.mark.parametrize(
    ("kind", "change"), [("hidden", {"a": HALF}), ("hidden", {"b": -HALF}), ("readout", {"b": -HALF})]
)
def test_a_network_that_is_unstable_at_initialisation_is_rejected(kind: Kind, change: dict[str, Expr]) -> None:
    """Here networks and theory agree on a and b, but not with section 1: a + b = 1/2, on the readout at least."""
    unstable = with_layer(theory(), kind, **change)
    rows = judged(unstable, networks(unstable))
    assert (kind, "size") in failing(rows) and "2 propagation" in rejected_by(rows)


def test_swapped_alignments_fail_the_assumption() -> None:
    right = theory()
    layers = tuple(
        layer if layer.kind == "embedding" else replace(layer, alpha=layer.omega, omega=layer.alpha)
        for layer in right.layers
    )
    rows = judged(replace(right, layers=layers), networks(right))
    assert {("hidden", "alpha"), ("hidden", "omega"), ("readout", "alpha")} <= failing(rows)


def test_a_failing_assumption_fails_the_result_and_not_what_is_consistent() -> None:
    """omega = 1 on SP's readout (`prior`): logits grow as n^(1/2) where W Dz rules, as its measured terms imply."""
    right = theory()
    table = networks(right, omega_readout=S.One)
    table["readout"]["term_omega"] *= 100
    terms = (table["readout"][f"term_{name}"] ** 2 for name in SHARES)
    table["readout"]["delta_output"] = np.sqrt(sum(terms))
    found = {row.quantity: row for row in judged(right, table) if row.layer == "readout"}
    assert (found["omega"].verdict, found["consistent"].verdict, found["delta_z"].verdict) == (
        "fails",
        "holds",
        "fails",
    )
    assert found["delta_z"].reason == BLAMED and found["largest"].verdict == "holds"


def test_later_gradients_are_judged_beside_the_readouts() -> None:
    """A loss that has fallen unequally takes all gradients along; a layer that goes another way is still found."""
    right = theory()
    table = networks(right)
    fallen = (np.array(WIDTHS, dtype=float) / WIDTHS[0])[:, None] ** -0.4
    for sizes in table.values():
        sizes["gradient"] *= fallen
    rows = judged(right, table, step=10)
    assert not failing(rows)
    assert {row.kind for row in rows if (row.quantity, row.verdict) == ("gradient", "open")} == {"readout"}
    table["hidden.0"]["gradient"] *= fallen
    assert failing(judged(right, table, step=10)) == {("hidden", "gradient")}
    assert {("embedding", "gradient"), ("hidden", "gradient")} <= failing(judged(right, table, step=1))


def test_gradients_follow_a_readout_that_has_outgrown_its_start() -> None:
    """One rate in SP: the readout moves by n^0 and starts at n^-1/2, so that later gradients go from g = 1/2 to 0."""
    one = at_one_rate(theory())
    for g, fails in ((0.5, False), (0.25, False), (0.0, False), (1.0, True), (-0.5, True)):
        table = networks(one)
        exact = (np.array(WIDTHS, dtype=float) / WIDTHS[0])[:, None] ** -g * np.exp(0.001 * np.arange(3))
        table["hidden.0"]["gradient"] = exact
        rows = judged(one, table, step=5)
        (row,) = [row for row in rows if (row.layer, row.quantity) == ("hidden.0", "gradient")]
        assert (row.verdict == "fails") == fails and row.predicted == "0", (g, row)
    assert not any(row.quantity == "largest" for row in rows), "one rate for all claims no layer's largest"


def test_the_summary_counts_every_step_and_names_what_rejects() -> None:
    right, wrong = theory(), with_layer(theory(), "hidden", c=HALF)
    lines = summary(judged(right, networks(right)))
    assert lines[0] == (
        "1 optimizer 8 hold, 0 fail, 0 open; 2 propagation 19 hold, 0 fail, 0 open; "
        "3 assumption 9 hold, 0 fail, 0 open; 4 result 8 hold, 0 fail, 0 open; 4 consistent 4 hold, 0 fail, 0 open"
    )
    assert lines[1] == "not rejected: steps 1, 2 and the result of step 4 fail nowhere"
    rows = judged(wrong, networks(wrong))
    found = counts(rows)
    assert found["4 result"].fails == 4 and found["1 optimizer"].fails == found["2 propagation"].fails == 0
    assert summary(rows)[1].startswith("rejected by step 4 result: after 1 step hidden.0 delta_z +0.")
    assert summary(rows)[1].endswith(f"not +0.00 and 3 more ({BLAMED})")


def test_what_can_be_told_apart_is_read_off_the_intervals() -> None:
    """Per layer the sharper of both results, tolerance + half the interval; and of the layers the bluntest."""
    right = theory()
    rows = judged(right, networks(right, noise=0.02))
    reach = {
        (row.layer, row.quantity): row.tolerance + row.measured.high - row.measured.value
        for row in rows
        if row.quantity in ("delta_z", "largest") and row.tolerance
    }
    apart = max(min(reach[layer, "delta_z"], reach[layer, "largest"]) for layer in KINDS)
    assert resolution(rows) == pytest.approx(apart) and f"differ by {apart:.2f}" in summary(rows)[2]
    assert 0.1 < apart < resolution(judged(right, networks(right, noise=0.1)))
    # A prediction that far away fails in every layer, whichever way; half as far it does not.
    for quantity, far, fails in (("delta_z", 0.3, True), ("delta_z", -0.3, True), ("delta_z", 0.05, False)):
        moved = judged(with_layer(right, "hidden", r=Rational(str(far))), networks(right, noise=0.02))
        assert (("hidden", quantity) in failing(moved)) == fails
    one = {name: {each: sizes[:2, :1] for each, sizes in table.items()} for name, table in networks(right).items()}
    verdict, told = summary(verdicts(right, WIDTHS[:2], 1, one, KINDS))[1:]
    assert verdict.startswith("undecided: ") and "not known" in told


def test_picture_and_json_show_the_sign_and_the_verdict_of_the_table() -> None:
    wrong = with_layer(theory(), "hidden", c=HALF)
    table = networks(wrong)
    rows = judged(wrong, table)
    figure = sizes_against_width(rows, WIDTHS, table, 1, "wrong", wrong.layers[-1].a)
    shown = [text.get_text() for axis in figure.axes for text in axis.texts]
    (row,) = [row for row in rows if (row.layer, row.quantity) == ("hidden.0", "delta_z")]
    assert row.measured.value > 0.25 and row.verdict == "fails"
    assert f"x = 0, measured +{row.measured.value:.2f}: fails" in shown
    assert (row_json(row)["measured"], row_json(row)["holds"]) == (row.measured.value, False)
