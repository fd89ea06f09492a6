"""Every table of the paper, against published numbers, arithmetic by hand and the stored measurements themselves."""

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.mathtext import MathTextParser
from sympy import Rational

from derive.emit import dump
from derive.emit_latex import standalone
from derive.registry import REGISTRY
from paper_figures.build import ITEMS
from paper_figures.items import Table
from paper_figures.paths import DATA, MissingResultError
from paper_figures.table_7_measured_exponents import UPDATES
from tests.helpers.built import build
from tests.helpers.published import (
    GRADIENTS,
    LARGEST_MODEL,
    MODEL_HEADS,
    MODEL_MILLIONS,
    PARAMETERIZATIONS,
    RATES,
    VOCABULARY,
)
from tests.helpers.tex import complaints
from tests.verify.studies.test_epsilon import RATES as BASE_RATES
from tests.verify.studies.test_epsilon import made_up, made_up_study
from verify.commands.plan import WIDTHS as PLANNED
from verify.studies.epsilon.onsets import Result
from verify.studies.epsilon.text import as_json
from verify.training.networks import Scaling
from verify.training.networks.transformer import Transformer

KINDS = ("embedding", "hidden", "readout")
SCHEMES = ("SP", "NTK", "muP", "MFP")
NAMES = [name for name in ITEMS if name.startswith("table_")]
Folders = pytest.TempPathFactory


def exact(values: tuple[str, ...]) -> list[Fraction]:
    return [Fraction(value) for value in values]


def epsilon_study(folder: Path) -> None:
    """What `verify epsilon` writes, of gradients that are known: 4e-4, 8e-3 and 2e-3 at width 64, step 1."""
    result = Result(made_up_study(), BASE_RATES, tuple(made_up(scheme.lower()) for scheme in SCHEMES))
    (folder / "float32").mkdir(parents=True)
    (folder / "float32" / "epsilon.json").write_text(dump(as_json([result])), encoding="utf-8")


@pytest.fixture(scope="module")
def made_up_data(tmp_path_factory: Folders) -> Path:
    """The committed studies, the one of epsilon made up."""
    data = tmp_path_factory.mktemp("data")
    for folder in DATA.iterdir():
        if folder.name != "epsilon":
            (data / folder.name).symlink_to(folder)
    epsilon_study(data / "epsilon")
    return data


@pytest.fixture(scope="module")
def data(made_up_data: Path) -> Path:
    """The committed studies, the one of epsilon made up until it is one of them."""
    return DATA if (DATA / "epsilon").exists() else made_up_data


def cells(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


def table(data: Path, name: str, which: str = "") -> list[dict[str, str]]:
    return cells(build(name, data).tables[which or name])


def test_table_1_is_the_published_one(data: Path) -> None:
    rows = table(data, "table_1_stable_rates")
    assert [row["parameterization"] for row in rows] == [scheme for scheme in SCHEMES for _ in KINDS]
    for place, row in enumerate(rows):
        scheme, index = row["parameterization"], place % 3
        assert row["layer"] == KINDS[index]
        assert (row["a"], row["b"]) == tuple(part[index] for part in PARAMETERIZATIONS[scheme])
        assert row["gradient"] == GRADIENTS[scheme][index]
        for (optimizer, alignment), rates in RATES.items():
            assert row[f"{optimizer} {alignment}"] == rates[scheme][index]
    assert r"$-1/2$" in build("table_1_stable_rates", data).tables["table_1_stable_rates"].latex()


SYMBOLS = (
    *("a_1", "b_1", "c_1", "g_1", "a_l", "b_l", "c_l", "g_l", "alpha_l", "omega_l", "u_l", "r_{l-1}", "r_L"),
    *("a_{L+1}", "b_{L+1}", "c_{L+1}", "g_{L+1}", "alpha_{L+1}", "omega_{L+1}", "u_{L+1}"),
)
SEVENTHS = (3, 5, -2, 8, 1, 4, 6, 9, 5, 4, 2, 1, 3, -1, 6, 2, 11, 6, 5, 7)
NUMBERS = {name: Fraction(value, 7) for name, value in zip(SYMBOLS, SEVENTHS, strict=True)}
"""Exponents without meaning, at which every relation has a value of its own."""


@pytest.mark.parametrize("readout_rate", [Fraction(-5), Fraction(9)])
@pytest.mark.parametrize("family", ["SGD", "Adam", "Adafactor", "Muon"])
def test_table_2_is_the_constraints_written_by_hand(data: Path, family: str, readout_rate: Fraction) -> None:
    """docs/theory.md, sections 3 and 4 in plain arithmetic; the gradient takes the smaller exponent."""
    x = NUMBERS | {"c_{L+1}": readout_rate}
    half = Fraction(1, 2)

    def s(layer: str, gradient: Fraction) -> Fraction:
        return {"SGD": gradient, "Adam": Fraction(0), "Adafactor": x[f"b_{layer}"], "Muon": half}[family]

    last = "{L+1}"
    back = min(x[f"a_{last}"] + x[f"b_{last}"], x[f"a_{last}"] + x[f"c_{last}"] + s(last, x[f"a_{last}"]))
    expected = {
        ("gradient", "embedding"): x["a_1"] + back,
        ("gradient", "hidden"): x["a_l"] + back,
        ("gradient", "readout"): x[f"a_{last}"],
        ("change", "embedding"): x["a_1"] + x["c_1"] + s("1", x["g_1"]),
        **{("stable", kind): Fraction(0) for kind in KINDS},
    }
    for kind, layer, before in (("hidden", "l", x["r_{l-1}"]), ("readout", last, x["r_L"])):
        d = x[f"a_{layer}"] + x[f"c_{layer}"] + s(layer, x[f"g_{layer}"])
        alpha, u = x[f"alpha_{layer}"], x[f"u_{layer}"]
        if (family, kind) == ("Muon", "hidden"):
            alpha, u = min(alpha, half), min(u, half)
        initial = x[f"a_{layer}"] + x[f"b_{layer}"] + before - x[f"omega_{layer}"]
        expected["change", kind] = min(d - alpha, d + before - u, initial)
    if family == "SGD":
        expected["bounded update", "readout"] = x[f"c_{last}"] + x[f"g_{last}"] - x[f"b_{last}"]
    if family == "Adafactor":
        expected |= {("bounded update", kind): x[f"c_{at}"] for kind, at in zip(KINDS, ("1", "l", last), strict=True)}

    built = build("table_2_stability_constraints", data).tables["table_2_stability_constraints"]
    found = {}
    for what, layer, families, relation in built.rows:
        if family in str(families).split(", "):
            side = relation.lhs if what == "bounded update" else relation.rhs  # type: ignore[union-attr]
            values = {symbol: Rational(x[str(symbol)]) for symbol in side.free_symbols}
            found[what, layer] = Fraction(str(side.subs(values)))
    assert found == expected


def test_table_3_is_the_changes_of_prior_by_hand(data: Path) -> None:
    """d = (0, 1, 1), and under prior (1/2, 3/2, 1) where a + b = 1/2 on the readout; c = d - a - s."""
    rows = table(data, "table_3_prior_excludes")
    assert [(row["optimizer"], row["parameterization"]) for row in rows] == [
        (optimizer, scheme) for optimizer in ("sgd", "adam", "adafactor") for scheme in SCHEMES
    ]
    for row in rows:
        scheme = row["parameterization"]
        a, b = map(exact, PARAMETERIZATIONS[scheme])
        s = {"sgd": exact(GRADIENTS[scheme]), "adam": [Fraction(0)] * 3, "adafactor": b}[row["optimizer"]]
        lazy = a[2] + b[2] == Fraction(1, 2)
        for assumed, change in (("full", (0, 1, 1)), ("prior", ("1/2", "3/2", 1) if lazy else (0, 1, 1))):
            expected = [str(Fraction(d) - a_l - s_l) for d, a_l, s_l in zip(change, a, s, strict=True)]
            assert [row[f"{assumed}: c {kind}"] for kind in KINDS] == expected
        assert (row["full: r"], row["full: learns"]) == ("0", "yes")
        assert (row["prior: r"], row["prior: learns"]) == (("1/2", "no") if lazy else ("0", "yes"))
        assert [row[f"full: c {kind}"] for kind in KINDS] == list(RATES[row["optimizer"], "full"][scheme])


def test_table_4_turns_one_published_row_into_another(data: Path) -> None:
    rows = table(data, "table_4_equivalences")
    assert len(rows) == 2 * 3 * 3
    for row in rows:
        first, second = row["pair"].split(" = ")
        optimizer, index = row["optimizer"], KINDS.index(row["layer"])
        theta = Fraction(row["θ"])
        (a, b), (new_a, new_b) = (map(exact, PARAMETERIZATIONS[scheme]) for scheme in (first, second))
        assert a[index] + theta == new_a[index] and b[index] - theta == new_b[index]
        for alignment in ("full", "none"):
            rates = RATES[optimizer, alignment]
            assert Fraction(rates[first][index]) + Fraction(row["add to c"]) == Fraction(rates[second][index])
        powers = {"sgd": None, "adam": 1, "adafactor": 2}[optimizer]  # epsilon beside sqrt(v), and beside v
        shift = Fraction(GRADIENTS[second][index]) - Fraction(GRADIENTS[first][index])
        assert row["add to ε exponent"] == ("-" if powers is None else str(powers * shift))


def test_table_4_mup_without_multipliers_is_sp_with_a_smaller_readout(data: Path) -> None:
    rows = table(data, "table_4_equivalences", "table_4_gauge_zero")
    assert [row["layer"] for row in rows if row["initialisation: b of SP"] != row["initialisation: b of muP"]] == [
        "readout"
    ]
    for scheme in ("SP", "muP"):
        a, b = map(exact, PARAMETERIZATIONS[scheme])
        for index, row in enumerate(rows):
            assert row["a"] == "0" and Fraction(row[f"initialisation: b of {scheme}"]) == a[index] + b[index]
            for optimizer, degree in (("sgd", 2), ("adam", 1), ("adafactor", 0)):
                c = Fraction(RATES[optimizer, "full"][scheme][index])
                assert Fraction(row[f"{optimizer}: c of {scheme}"]) == c + degree * a[index]


def test_table_5_exponents_follow_gradients_and_rates(data: Path) -> None:
    rows = table(data, "table_5_epsilon_and_decay")
    assert len(rows) == 12
    for place, row in enumerate(rows):
        scheme, index = SCHEMES[place // 3], place % 3
        c = Fraction(RATES["adam", "full"][scheme][index])
        assert (row["parameterization"], row["layer"], Fraction(row["rate c"])) == (scheme, KINDS[index], c)
        assert row["ε exponent"] == row["gradient g"] == GRADIENTS[scheme][index]
        # rate x decay is n^0, n^(-c/2) and n^-c
        for convention, product in (("independent", 0), ("sqrt", c / 2), ("constant", c)):
            assert c + Fraction(row[f"λ: {convention}"]) == product


def said_width(cell: str, base: int) -> float:
    if cell == "never":
        return math.inf
    return float("nan") if cell == f"below {base}" else float(cell.replace(",", ""))


def test_table_5_onsets_of_known_gradients(made_up_data: Path) -> None:
    """n = 64 (RMS / epsilon)^(1/g), by hand."""
    rows = table(made_up_data, "table_5_epsilon_and_decay", "table_5_epsilon_onsets")
    assert [row["RMS(G) at 64"] for row in rows] == ["0.0004", "0.008", "0.002"] * 4
    found = {(row["parameterization"], row["layer"].partition(".")[0]): row for row in rows}
    assert found["SP", "readout"]["width where it meets ε: 1e-08"] == "never"
    assert found["SP", "embedding"]["width where it meets ε: 1e-06"] == "1.0e+07"  # 64 x 400^2 = 10,240,000
    assert found["MFP", "embedding"]["width where it meets ε: 1e-06"] == "26,000"  # 64 x 400 = 25,600
    assert found["MFP", "hidden"]["width where it meets ε: 1e-06"] == "26,000"  # 64 x 8000^(2/3) = 25,600
    assert found["muP", "readout"]["width where it meets ε: 1e-06"] == "2.6e+08"  # 64 x 2000^2 = 256,000,000
    assert found["MFP", "hidden"]["width where it meets ε: 1e-08"] == "550,000"  # 64 x 800,000^(2/3) = 551,548


def test_table_5_onsets_are_those_of_the_measured_gradients(data: Path) -> None:
    """From the gradients of every seed where they are committed, from the study's own list of layers where not."""
    folder = data / "epsilon" / "float32"
    study = json.loads((folder / "epsilon.json").read_text(encoding="utf-8"))["studies"][0]
    base = study["widths"][0]
    for row in table(data, "table_5_epsilon_and_decay", "table_5_epsilon_onsets"):
        scheme, layer = row["parameterization"], row["layer"]
        path = folder / f"gradients_{scheme.lower()}.json"
        if path.exists():
            per_seed = json.loads(path.read_text(encoding="utf-8"))["sizes"]["1"][layer]["rms"][0]
            rms = math.exp(float(np.log(per_seed).mean()))
        else:
            (rms,) = {
                x["rms"]
                for x in study["layers"]
                if (x["parameterization"], x["layer"], x["step"]) == (scheme, layer, 1)
            }
        g = Fraction(GRADIENTS[scheme][KINDS.index(layer.partition(".")[0])])
        assert Fraction(row["gradient g"]) == g
        assert float(row[f"RMS(G) at {base}"]) == pytest.approx(rms, rel=0.06)
        for epsilon in ("1e-06", "1e-08"):
            expected = base * (rms / float(epsilon)) ** (1 / float(g)) if g else math.inf
            said = said_width(row[f"width where it meets ε: {epsilon}"], base)
            assert said == pytest.approx(expected, rel=0.06) or (math.isnan(said) and expected < base)


def products(jaxpr: Any) -> Iterator[int]:
    """The floating-point operations of every matrix product of a program, two per multiplication."""
    for line in jaxpr.eqns:
        if line.primitive.name == "dot_general":
            (contracted, _), _ = line.params["dimension_numbers"]
            shape = line.invars[0].aval.shape
            yield 2 * math.prod(line.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        for inner in line.params.values():
            if hasattr(inner, "jaxpr"):
                yield from products(inner.jaxpr)


def model(width: int) -> Transformer:
    none = (0.0, 0.0, 0.0)
    scaling = Scaling(width, 128, none, none)
    return Transformer(scaling, vocabulary=VOCABULARY, context=512, blocks=8, head_dimension=128)


@pytest.mark.parametrize("place", [0, *(pytest.param(place, marks=pytest.mark.slow) for place in (3, 8)), 13])
def test_table_6_counts_our_own_transformer(data: Path, place: int) -> None:
    """Its parameters and the matrix products of a training step, counted in the traced program; nothing is run."""
    row = table(data, "table_6_model_sizes")[place]
    network = model(int(row["width D"].replace(",", "")))
    params = jax.eval_shape(network.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert int(row["parameters"].replace(",", "")) == count
    assert int(row["heads"]) == network.scaling.width // 128
    assert float(row["training memory (GiB)"]) == pytest.approx(4 * 4 * count / 2**30, rel=1e-3)

    def loss(params: Any, tokens: Any) -> Any:
        return jnp.mean(network.apply(params, tokens) ** 2)

    step = jax.make_jaxpr(jax.grad(loss))(params, jax.ShapeDtypeStruct((1, 512), jnp.int32))
    assert float(row["GFLOP per token"]) == pytest.approx(sum(products(step.jaxpr)) / 512 / 1e9, rel=1e-3)


def test_table_6_has_the_published_models(data: Path) -> None:
    rows = table(data, "table_6_model_sizes")
    billions, width = LARGEST_MODEL
    widths = [int(row["width D"].replace(",", "")) for row in rows]
    assert (
        widths == [128 * heads for heads in MODEL_HEADS] == list(map(int, PLANNED.split(","))) and widths[-1] == width
    )
    assert f"{int(rows[-1]['parameters'].replace(',', '')) / 1e9:.1f}" == billions
    for row, each, millions in zip(rows, widths, MODEL_MILLIONS, strict=True):
        without_positions = int(row["parameters"].replace(",", "")) - 512 * each
        assert without_positions == 96 * each**2 + 2 * VOCABULARY * each
        assert without_positions / 1e6 == pytest.approx(millions, rel=6e-3)


def power(widths: list[int], sizes: Any) -> float:
    """The mean over seeds of the least-squares slope of log size on log width."""
    return float(np.polyfit(np.log(widths), np.log(np.array(sizes, dtype=float)), 1)[0].mean())


def test_table_7_updates_are_slopes_of_the_stored_sizes(data: Path) -> None:
    """s from RMS(DW) = n^-(c + s), c of the rate as published for SP."""
    rows = table(data, "table_7_measured_exponents", "table_7_update_exponents")
    stored = {path.stem: path for name in UPDATES for path in (data / name).glob("*.json") if path.stem != "updates"}
    assert {row["optimizer"] for row in rows} == set(stored)
    checked = 0
    for row in rows:
        content = json.loads(stored[row["optimizer"]].read_text(encoding="utf-8"))
        sizes = content["sizes"]["1"][row["layer"]]
        assert float(row["low"]) <= float(row["measured"]) <= float(row["high"])
        if row["exponent"] == "s" and (row["optimizer"], "full") in RATES:
            c = float(Fraction(RATES[row["optimizer"], "full"]["SP"][KINDS.index(row["layer"].partition(".")[0])]))
            measured = -power(content["conditions"]["widths"], sizes["delta_w"]) - c
            assert float(row["measured"]) == pytest.approx(measured, abs=1e-3)
            holds = abs(measured - float(Fraction(row["predicted"]))) <= 0.05
            assert row["verdict"] == ("holds" if holds else "fails")
            checked += 1
    assert checked == 3 * 4


@pytest.mark.parametrize("scheme", ["SP", "muP"])
def test_table_7_propagation_is_slopes_of_the_stored_sizes(data: Path, scheme: str) -> None:
    rows = table(data, "table_7_measured_exponents", "table_7_propagation")
    path = data / f"exponents_adam_{scheme.lower()}_full_4096" / "sizes.csv.gz"
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        stored = {
            (line["layer"], line["quantity"], int(line["width"]), int(line["seed"])): float(line["value"])
            for line in csv.DictReader(file)
            if line["step"] == "1"
        }
    widths = sorted({width for _, _, width, _ in stored})
    seeds = sorted({seed for *_, seed in stored})

    def sizes(layer: str, quantity: str) -> Any:
        return np.array([[stored[layer, quantity, width, seed] for seed in seeds] for width in widths])

    checked = 0
    for row in rows:
        layer, kind = row["layer"], row["layer"].partition(".")[0]
        index = KINDS.index(kind)
        if row["study"] != f"Adam {scheme}":
            continue
        if row["exponent"] == "ΔW":
            predicted, measured = RATES["adam", "full"][scheme][index], -power(widths, sizes(layer, "delta_w"))
        elif row["exponent"] == "gradient":
            predicted, measured = GRADIENTS[scheme][index], -power(widths, sizes(layer, "gradient"))
        elif row["exponent"] == "α":
            reach = sizes(layer, "delta_w") * sizes(layer, "input")
            predicted, measured = "1", power(widths, sizes(layer, "term_alpha") / reach)
        elif row["exponent"] == "ω":
            reach = sizes(layer, "weight") * sizes(layer, "delta_input")
            predicted, measured = "1/2", power(widths, sizes(layer, "term_omega") / reach)
        else:
            continue
        assert row["predicted"] == predicted
        assert float(row["measured"]) == pytest.approx(measured, abs=1e-3)
        checked += 1
    assert checked == 4 + 4 + 3 + 3


def test_table_7_summary_counts_the_long_tables(data: Path) -> None:
    item = build("table_7_measured_exponents", data)
    long = [
        ("updates" if "optimizer" in row else row["study"], row["exponent"], row["verdict"])
        for name in ("table_7_update_exponents", "table_7_propagation")
        for row in cells(item.tables[name])
    ]
    summary = cells(item.tables["table_7_summary"])
    for row in summary:
        for verdict in ("holds", "fails", "open"):
            assert int(row[f"first step: {verdict}"]) == long.count((row["study"], row["exponent"], verdict))
    assert sum(int(row[f"first step: {verdict}"]) for row in summary for verdict in ("holds", "fails", "open")) == len(
        long
    )
    assert item.verdict == ("held in part" if any(verdict == "fails" for *_, verdict in long) else "held")


# ||U||_op = n^p on embedding, hidden, readout, by hand: entrywise of size n^-s, sqrt(fan_in fan_out) n^-s.
DIMENSIONS = (Fraction(1, 2), Fraction(1), Fraction(1, 2))
ZERO = Fraction(0)
NORMS = {
    **dict.fromkeys(["adam", "adamw", "rmsprop", "lion", "sign-sgd", "adam-atan2", "sophia"], DIMENSIONS),
    **dict.fromkeys(["normalised-sgd", "muon", "shampoo", "soap"], (ZERO, ZERO, ZERO)),
    "muon-keller": (Fraction(1, 2), ZERO, ZERO),
    "muon-rms": (Fraction(1, 2),) * 3,
    "soap-left": (ZERO, Fraction(1, 2), Fraction(1, 2)),
    "soap-right": (Fraction(1, 2), Fraction(1, 2), ZERO),
    **dict.fromkeys(["adopt", "ademamix", "mars", "cautious", "schedule-free", "prodigy"], DIMENSIONS),
    **dict.fromkeys(["normuon", "adamuon", "grafted-shampoo"], DIMENSIONS),  # as Adam's step, and of rank one
    **dict.fromkeys(["scion", "scion-sign", "scion-row", "dion"], (Fraction(1, 2), ZERO, Fraction(-1, 2))),
    "galore": (Fraction(1, 2),) * 3,  # one direction of the shorter side has the longer side's signs
}


@pytest.mark.parametrize("scheme", ["SP", "muP"])
def test_table_8_rates_follow_from_operator_norms(data: Path, scheme: str) -> None:
    """Under full alignment RMS(U z) = ||U||_op sqrt(fan_in / fan_out) RMS(z), so c = p - a + (-1/2, 0, 1/2)."""
    a, b = map(exact, PARAMETERIZATIONS[scheme])
    g = exact(GRADIENTS[scheme])
    norms = dict(NORMS)
    norms |= dict.fromkeys(
        ["sgd", "momentum", "nesterov"], tuple(size - g_l for size, g_l in zip(DIMENSIONS, g, strict=True))
    )
    norms |= dict.fromkeys(
        ["adafactor", "adam-ps", "lamb", "lars"], tuple(size - b_l for size, b_l in zip(DIMENSIONS, b, strict=True))
    )
    # Nuclear norm n^(1/2) ||G||_F at the full rank at which the rate is smallest; ||W||_F at rank one.
    norms["polargrad"] = tuple(
        size - g_l + half for size, g_l, half in zip(DIMENSIONS, g, (ZERO, Fraction(1, 2), ZERO), strict=True)
    )
    norms["muon-hyperball"] = tuple(size - b_l for size, b_l in zip(DIMENSIONS, b, strict=True))
    norms["kfac"] = tuple(g_l - size for size, g_l in zip(DIMENSIONS, g, strict=True))
    rows = table(data, "table_8_other_optimizers")
    assert [row["optimizer"] for row in rows] == [rule.name for rule in REGISTRY for _ in KINDS]
    assert {rule.name for rule in REGISTRY} == set(norms)
    for place, row in enumerate(rows):
        name, index = row["optimizer"], place % 3
        p = norms[name][index]
        shape = (Fraction(-1, 2), ZERO, Fraction(1, 2))[index]
        assert Fraction(row[f"{scheme}: c"]) == p - a[index] + shape
        if index == 0:
            assert row[f"{scheme}: α cap"] == "-"
        else:
            assert Fraction(row[f"{scheme}: α cap"]) == p + Fraction(row[f"{scheme}: s"]) + shape


EPSILONS = {"adam": 1, "adamw": 1, "rmsprop": 1, "adam-ps": 1, "lamb": 1, "adafactor": 2, "sophia": 2}
EPSILONS |= dict.fromkeys(["grafted-shampoo", "adopt", "ademamix", "cautious", "schedule-free", "prodigy"], 1)
OF_POLAR_FACTORS = {"muon", "muon-keller", "muon-rms", "soap", "normalised-sgd", "lars"}
OF_POLAR_FACTORS |= {"scion", "normuon", "adamuon", "dion", "muon-hyperball"}


def test_table_8_epsilon_takes_the_power_of_what_it_is_added_to(data: Path) -> None:
    for row in table(data, "table_8_other_optimizers"):
        for scheme in ("SP", "muP"):
            g, said = Fraction(GRADIENTS[scheme][KINDS.index(row["layer"])]), row[f"{scheme}: e"]
            norm = g - DIMENSIONS[KINDS.index(row["layer"])]
            if row["optimizer"] in EPSILONS:
                assert Fraction(said) == EPSILONS[row["optimizer"]] * g
            elif row["optimizer"] in OF_POLAR_FACTORS:
                assert Fraction(said) == norm
            elif row["optimizer"] == "polargrad":  # sqrt(n) less on hidden layers, at full rank
                assert Fraction(said) == norm + Fraction(row["layer"] == "hidden", 2)
            elif row["optimizer"] in {"galore", "scion-row"}:  # a singular value spread over one side
                side = {"galore": Fraction(1, 2), "scion-row": Fraction(row["layer"] != "readout", 2)}
                assert Fraction(said) == norm + side[row["optimizer"]]
            elif row["optimizer"] == "mars":
                assert Fraction(said) == max(g, g - norm)
            elif row["optimizer"] in {"shampoo", "kfac"}:
                assert Fraction(said) == 2 * norm
            elif not row["optimizer"].startswith("soap"):
                assert said == "-"


COMMANDS = {
    *(
        "begin",
        "end",
        "toprule",
        "midrule",
        "bottomrule",
        "footnotesize",
        "par",
        "tabcolsep",
        "noindent",
        "def",
        "arraystretch",
        "multicolumn",
        "min",
        "left",
        "right",
        "geq",
        "times",
        "allowbreak",
        "leftarrow",
    ),
    *("alpha", "beta", "gamma", "theta", "lambda", "omega", "epsilon", "eta", "pm", "Delta", "Omega"),
    *("\\", "%", "&", "$", "#", "_", "{", "}", "^"),
}


def spread(line: str) -> str:
    """Every heading over several columns written over each of them."""
    over = re.compile(r"\\multicolumn\{(\d+)\}\{c\}\{([^{}]*)\}")
    return over.sub(lambda found: " & ".join([found[2]] * int(found[1])), line)


def parsed(text: str) -> tuple[list[list[list[str]]], list[str]]:
    """(rows of cells per tabular, what stands outside); AssertionError for what TeX would not take."""
    found = re.findall(r"\\([A-Za-z]+|.)", text)
    assert set(found) <= COMMANDS, set(found) - COMMANDS
    bare = re.sub(r"\\[\\%&$#_{}]", "", text)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0
    assert not re.search(r"[#%]", bare)
    outside = re.sub(r"\$[^$]*\$", "", bare)
    assert "_" not in outside and not re.search(r"(?<!\\)\^", outside)
    assert outside.isascii(), sorted(set(outside) - set(map(chr, range(128))))
    assert text.isascii()
    assert text.count(r"\left") - text.count(r"\leftarrow") == text.count(r"\right")
    parts = re.findall(r"\\begin\{tabular\}\{((?:[lr]|p\{3in\})+)\}\n(.*?)\\end\{tabular\}\n", text, re.DOTALL)
    assert len(parts) == text.count(r"\begin") == text.count(r"\end")
    tables = []
    for alignments, body in parts:
        lines = [line for line in body.splitlines() if not line.endswith("rule")]
        assert all(line.endswith(r" \\") for line in lines)
        rows = [re.split(r"(?<!\\)&", spread(line.removesuffix(r" \\"))) for line in lines]
        if "multicolumn" in lines[0]:
            above = rows.pop(0)
            rows[0] = [": ".join(filter(str.strip, pair)) for pair in zip(above, rows[0], strict=True)]
        tables.append(rows)
        assert all(len(row) == len(alignments.replace("p{3in}", "p")) for row in tables[-1])
    return tables, re.sub(r"\\begin\{tabular\}.*?\\end\{tabular\}\n", "", text, flags=re.DOTALL).split("\n")


NAMED = ("alpha", "beta", "gamma", "theta", "lambda", "omega", "epsilon", "eta", "Delta", "-")
SPELT = dict(zip("αβγθλωεηΔ−", NAMED, strict=True))


def same(text: str) -> str:
    """A cell in one spelling, whether it was LaTeX or plain."""
    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text.replace(r"\min\left(", "min(").replace(r"\right)", ")"))
    text = (
        text.replace(r"\min(", "min(")
        .replace(r"\allowbreak", "")
        .replace(r"\times 10^", "e")
        .replace("{,}", ",")
        .replace(r"\geq", ">=")
        .replace(r"\%", "%")
    )
    text = re.sub(r"e\{?([+-]?)0*(\d+)\}?", lambda power: "e" + power[1].replace("+", "") + power[2], text)
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    for letter, name in SPELT.items():
        text = text.replace(letter, name)
    text = re.sub(r"\\([A-Za-z]+|_)", r"\1", text)
    return re.sub(r"[\s$*]", "", text)


def filled(rows: list[list[str]]) -> list[list[str]]:
    """The first column written out where it was left blank."""
    for before, row in pairwise(rows):
        row[0] = row[0].strip() or before[0]
    return rows


INCH = r"""
\addtolength{\textwidth}{2in}\addtolength{\oddsidemargin}{-1in}
\addtolength{\textheight}{2in}\addtolength{\topmargin}{-1in}"""
"""A page whose margins are an inch."""


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_sound_and_says_what_the_csv_says(data: Path, name: str, tmp_path: Path) -> None:
    """Parsed strictly, every formula set by another program, and compiled where there is a TeX engine."""
    for file, built in build(name, data).tables.items():
        text = built.latex()
        tables, _ = parsed(text)
        header, *rows = csv.reader(io.StringIO(built.csv()))
        assert all(list(map(same, part[0])) == list(map(same, header)) for part in tables)
        set_rows = filled([row for part in tables for row in part[1:]])
        assert [list(map(same, row)) for row in set_rows] == [list(map(same, row)) for row in rows]
        for formula in {*re.findall(r"\$[^$]*\$", text)}:
            MathTextParser("path").parse(formula.replace(r"\leftarrow", r"\leftarrow ").replace(r"\allowbreak", ""))
        page = standalone(text).replace("\\begin{document}", f"{INCH}\n\\begin{{document}}")
        assert complaints(page, tmp_path / f"{file}.tex") == []


@pytest.mark.parametrize("name", NAMES)
def test_markdown_has_the_cells_of_the_csv_and_the_notes(data: Path, name: str) -> None:
    for built in build(name, data).tables.values():
        lines = built.markdown().splitlines()
        shown = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
        shown = [[cell.strip().replace("\\|", "|") for cell in row] for row in shown]
        header, *rows = csv.reader(io.StringIO(built.csv()))
        assert shown[0] == header and set(shown[1]) == {"---"}
        assert filled(shown[2:]) == rows
        assert [line for line in lines if line and not line.startswith("|")] == list(built.notes)


def test_a_long_table_is_parted_at_sections_and_names_its_rows_once_in_each() -> None:
    rows = [["same", str(place)] for place in range(90)]
    long = Table(["name", "number"], rows, [0, 30, 60])
    tables, _ = parsed(long.latex())
    assert [len(part) - 1 for part in tables] == [30, 30, 30]
    for part in tables:
        assert [row[0].strip() for row in part[1:]] == ["same", *[""] * 29]
    assert long.markdown().count("same") == 3 and long.csv().count("same") == 90


def test_powers_of_the_width_in_a_note_are_mathematics() -> None:
    text = Table(["a"], [["n^-c"]], (), ["sizes n^-x, n^p and n^(α − s), 5 %"]).latex()
    assert r"sizes $n^{-x}$, $n^{p}$ and $n^{(\alpha - s)}$, 5 \%" in text
    assert r"$n^{-c}$ \\" in text
    parsed(text)


def test_the_parser_refuses_what_tex_would() -> None:
    sound = Table(["α_l", "b"], [["50 %", "-1/2"]]).latex()
    parsed(sound)
    for broken in (sound.replace("}", "", 1), sound.replace("$", "", 1), sound.replace(r"\%", "%"), sound + r"\foo"):
        with pytest.raises(AssertionError):
            parsed(broken)
    with pytest.raises(AssertionError):
        parsed(sound.replace(" & ", " ", 1))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("table_5_epsilon_and_decay", "verify epsilon --dtype float32"),
        ("table_7_measured_exponents", "verify updates --optimizer sgd,"),
    ],
)
def test_a_missing_study_is_named_with_its_command(name: str, command: str, tmp_path: Path) -> None:
    with pytest.raises(MissingResultError, match=command):
        build(name, tmp_path)


def test_every_table_says_what_was_found(data: Path) -> None:
    for name in NAMES:
        item = build(name, data)
        assert all(file.startswith(name[: len("table_1_")]) for file in item.tables)
        assert all(text.endswith(".") for text in (item.claim, item.measured, item.scale))
