"""A rule of one's own for one layer kind: read, derived and refused as a rule for all of them is."""

import json
from time import perf_counter
from typing import Any

import pytest

from derive.cli import app
from derive.errors import DeriveError
from derive.optimizers import Optimizer
from derive.parsing import parse_expression, split_outside
from derive.registry import REGISTRY, joined, optimizer, optimizers, spelled
from derive.rule_language import RULE_FUNCTIONS, RULE_NAMES
from derive.running import run
from derive.solve import prescribe

SCION = "polar(m)*sqrt(fan_out/fan_in)"
Capture = pytest.CaptureFixture[str]


def derived(capsys: Capture, *arguments: str) -> Any:
    assert run(lambda: app([*arguments, "--format", "json"], standalone_mode=False), "derive") == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("row", [row for row in REGISTRY if row.name != "adam"], ids=lambda row: row.name)
def test_a_registry_rule_written_out_for_one_kind_has_the_rates_of_its_name(row: Optimizer) -> None:
    written, named = (prescribe(f"adam,hidden={each}", "mup") for each in (row.update, row.name))
    assert [(each.c, each.s, each.epsilon) for each in written.layers] == [
        (each.c, each.s, each.epsilon) for each in named.layers
    ]


def test_a_rule_of_ones_own_for_one_kind(capsys: Capture) -> None:
    """By hand, SP: hidden layers by the spectral condition need c = 0; the rest is Adam's 0 and 1."""
    found = derived(capsys, "--optimizer", f"adam, hidden = {SCION.replace('*', ' * ')}")
    assert [layer["c"] for layer in found["layers"]] == ["0", "0", "1"]
    assert found["optimizer"] == f"embedding=adam,hidden={SCION},readout=adam"
    again = derived(capsys, "--optimizer", found["optimizer"])
    assert again == found


def test_commas_inside_parentheses_belong_to_the_rule() -> None:
    rows = optimizers("adam,hidden=m*min(1,1/norm(m)),readout=atan2(m,sqrt(v))")
    assert [row.name for row in rows.values()] == ["adam", "m*min(1,1/norm(m))", "atan2(m,sqrt(v))"]


def test_a_mapping_of_names_rules_and_objects() -> None:
    mine = Optimizer("mine", SCION)
    rows = {"embedding": "sgd", "hidden": mine, "readout": "sign(m)/fan_in"}
    assert [str(c) for c in prescribe(optimizer=rows, parameterization="sp").c] == ["-1/2", "0", "0"]
    assert prescribe(optimizer=mine).c == prescribe(SCION).c
    with pytest.raises(DeriveError, match="leaves readout without"):
        prescribe(optimizer={"embedding": "sgd", "hidden": mine})
    with pytest.raises(DeriveError, match="unknown layer kind"):
        prescribe(optimizer={"middle": "sgd"})


def test_a_rule_is_known_by_itself_and_a_row_by_its_name() -> None:
    assert spelled(optimizer("muon")) == "muon"
    assert spelled(Optimizer("mine", "2 * m")) == optimizer("2*m").name == "2*m"
    assert spelled(Optimizer("muon", "2 * m")) == "2*m"
    assert optimizer("g").update == "g"


RULES = [  # (what is wrong with it, a piece of the message)
    ("(m", "is not closed"),
    ("m)", "closes nothing"),
    ("m/((sqrt(v)+eps", "is not closed"),
    ("m/[sqrt(v)+eps]", "write (...) for it"),
    ("m+lambda*w", "weight decay is apart from it, --decay says how it scales"),
    ("m+λ*w", "weight decay is apart from it, --decay says how it scales"),
    ("m+", "at its end"),
    ("*m", "cannot be read"),
    ("m*/v", "at '/v'"),
    ("m m*2", "at 'm*2'"),
    ("1 2*g", "at '2*g'"),
    ("m/√ + g", "write sqrt(...) for it"),
    ("m/(sqrt(v)+1e-8)", "write eps for what keeps a denominator from 0"),
    ("m+wd*w", "weight decay is apart from it, --decay says how it scales"),
    ("m+weight_decay*w", "weight decay is apart from it, --decay says how it scales"),
    ("m/(v**eps)", "'eps' is not a power"),
    ("m**(1/3)**(1/3)", "not a power"),
    ("g/(norm(m+w)+eps)", "not homogeneous"),
    ("((v+eps)**(1/2)+eps)**(-1)*m", "'eps + sqrt(eps + v)' is not homogeneous"),
    ("(g:=m+g)", "not allowed"),
    ("(g,m)", "not allowed"),
    ("((((((((g**2+1)**2+1)**2+1)**2+1)**2+1)**2+1)**2+1)**2+1)**2", "not homogeneous"),
    ("*".join(["(g+m)"] * 200), "power above 16"),
    (f"min({','.join(f'max(g*{n},m*{n},w*{n})' for n in range(1, 5))})", "not homogeneous"),
    (f"{'-' * 500}+g", "cannot be read"),
    ("m//v*g", "not allowed"),
    ("m%v*(g)", "not allowed"),
    ("m@w*g", "not allowed"),
    ("(m if g else v)", "not allowed"),
    ("(lambda: m)", "not allowed"),
    ("(lambda: m)()", "call a listed function"),
    ("[m*g]", "not allowed"),
    ("m*g[0]", "not allowed"),
    ("m.T*g", "not allowed"),
    ("m*'g'", "not a plain number"),
    ("m*1e9", "not a plain number"),
    ("m*1j", "not a plain number"),
    ("m*0x10", "not a plain number"),
    ("m*True", "not a plain number"),
    ("m*nan", "unknown name"),
    ("m*oo", "unknown name"),
    ("m*n", "unknown name"),
    ("x*g", "unknown name"),
    ("m*G", "unknown name"),
    ("m*epsilon", "unknown name"),
    ("polr(m)", "did you mean polar"),
    ("exp(m)", "unknown function"),
    ("__import__(m)", "unknown function"),
    ("m(g)", "unknown function"),
    ("eval(m)", "unknown function"),
    ("sqrt(m,g)", "arguments"),
    ("spectral(m,0)", "is zero"),
    ("sqrt()*g", "arguments"),
    ("spectral(m)", "arguments"),
    ("polar(m,g)", "arguments"),
    ("norm()*g", "arguments"),
    ("clip(x=m)", "call a listed function"),
    ("max(*m)", "not allowed"),
    ("1/0*g", "divides by zero"),
    ("g/(m-m)", "divides by zero"),
    ("(g-g)**(-1)", "divides by zero"),
    ("g**m", "not a power"),
    ("g**(1/eps)", "not a power"),
    ("g**16**16", "not a power"),
    ("(((g**16)**16)**16)**16", "power above 16"),
    ("g**9*g**9", "power above 16"),
    ("spectral(m,m)", "singular values become numbers"),
    ("polar(m)*sqrt(rms(0*m))", "one number"),
    ("((99**16)**16)**16*g", "digits"),
    ("m/norm(1)", "one number"),
    ("m*norm(fan_in)", "one number"),
    ("polar(fan_in)*m", "one number"),
    ("rms(norm(m))*m", "one number"),
    ("norm(m)", "not a matrix"),
    ("fan_in*fan_out", "not a matrix"),
    ("w*rms(w)", "no gradient"),
    ("polar(w)", "no gradient"),
    ("sigma*m", "uses sigma outside"),
    ("m*eps", "adds eps to nothing"),
    ("m/(sqrt(eps)*rms(g))", "adds eps to nothing"),
    ("m/(sqrt(v)+eps)+g/(v+eps)", "different things"),
    ("m/(eps+rms(m)+eps**2)/(v+eps)", "different things"),
    ("g+sign(g)", "not homogeneous"),
    ("m-m", "not a matrix"),
    ("0*m", "not a matrix"),
    ("m*sqrt(0-1)", "not real"),
    (f"max({','.join(f'g*{n}' for n in range(1, 40))})", "arguments"),
    (
        f"max({','.join('max(' + ','.join(f'g+{i + j}*m' for j in range(14)) + ')' for i in range(0, 99, 14))})",
        "120 arguments",
    ),
    (f"{'sqrt(' * 300}v{')' * 300}*g", ""),
    ("m*" * 1100 + "g", "too long"),
]


@pytest.mark.parametrize("given", ["--update", "--optimizer", "kind"])
@pytest.mark.parametrize(("rule", "problem"), RULES, ids=[f"{rule:.30}" for rule, _ in RULES])
def test_a_bad_rule_is_one_line_that_names_the_place(given: str, rule: str, problem: str, capsys: Capture) -> None:
    arguments = ["--optimizer", f"adam,hidden={rule}"] if given == "kind" else [given, rule]
    start = perf_counter()
    code = run(lambda: app(arguments, standalone_mode=False), "derive")
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1) and len(err) < 800 and perf_counter() - start < 10
    assert problem in err


@pytest.mark.parametrize(
    ("paper", "typed"),
    [
        ("m/(√v+ε)", "m/(sqrt(v)+eps)"),
        ("m / (√ (v) + ϵ)", "m/(sqrt(v)+eps)"),
        ("g·m²/(√g_prev^3 + ε2)", "g*m**2/(sqrt(g_prev)**3+eps2)"),
        (
            "spectral(m, \N{GREEK SMALL LETTER SIGMA}÷(\N{GREEK SMALL LETTER SIGMA}+ε)) \N{MULTIPLICATION SIGN} 2",
            "spectral(m, sigma/(sigma+eps))*2",
        ),
        ("g \N{MINUS SIGN} g_prev", "g-g_prev"),
    ],
)
def test_signs_on_paper_are_read(paper: str, typed: str) -> None:
    assert parse_expression(paper, "rule", names=RULE_NAMES, functions=RULE_FUNCTIONS) == parse_expression(
        typed, "rule", names=RULE_NAMES, functions=RULE_FUNCTIONS
    )


def test_the_place_of_a_parenthesis_without_another_is_named(capsys: Capture) -> None:
    for rule, told in (("m/((v)+eps", "the ( at character 3 is not"), ("m/(v+eps))+g", "the ) at character 10 closes")):
        assert run(lambda: app(["--update", rule], standalone_mode=False), "derive") == 2  # noqa: B023
        assert told in capsys.readouterr().err


def test_words_that_are_no_rule_are_taken_for_a_name() -> None:
    for text in ("sgd m", "g foo"):
        with pytest.raises(DeriveError, match="unknown optimizer"):
            optimizer(text)
    for given, said in (
        ({}, "nothing leaves embedding, hidden, readout"),
        ({"hidden": "adam"}, "hidden leaves embedding"),
    ):
        with pytest.raises(DeriveError, match=said):
            optimizers(given)


def test_one_name_for_all_kinds_or_one_for_each() -> None:
    assert joined(optimizers("adam")) == "adam"
    assert joined(optimizers("adam,hidden=muon")) == "embedding=adam,hidden=muon,readout=adam"


def test_which_rules_of_the_registry_cannot_be_trained() -> None:
    assert {row.name for row in REGISTRY if not row.trainable} == {"prodigy", "galore", "kfac", "sophia"}


def test_parentheses_and_zeros_and_symbols() -> None:
    for text, problem in (("adam)(,x", "closes nothing"), ("a)", "closes nothing"), ("(a", "is not closed")):
        with pytest.raises(DeriveError, match=problem):
            split_outside(text, "--optimizer")
    assert parse_expression("0**2", "x") == 0 and parse_expression("x", "x").is_real
    for text in ("0**0", "0**-1", "1/0"):
        with pytest.raises(DeriveError, match="divides by zero"):
            parse_expression(text, "x")
