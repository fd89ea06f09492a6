"""Certificates: right ones are accepted, corrupted ones refused, wrong solvers caught, files read without trust."""

import json
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sympy import Rational, S

from derive import certificate_file, largest_rates, propagation
from derive import solve as solver
from derive.alignments import FULL, Alignment, Ratios
from derive.certify import Certificate, Refused, check
from derive.cli import app
from derive.errors import DeriveError
from derive.optimizers import Optimizer
from derive.parameterizations import MUP, SCHEMES, SP
from derive.programs import ChainProblem, Program, Row
from derive.propagation import LOSSES, Chain, Loss, Problem, residuals
from derive.registry import REGISTRY, optimizers
from derive.running import run
from derive.solve import prescribe, solve

LARS_LIKE = Optimizer("weights times gradient", "rms(w)*g")


def random_problem(random: Random) -> Problem:
    """A chain over all optimizers, their mixtures, parameterizations, alignments, losses, one rate, clipping."""
    parts = random.choice([1, 2, 4, 12])

    def ratios() -> Ratios:
        return Ratios(*(Rational(random.randint(0, parts), parts) for _ in range(3)))

    layers = random.randint(0, 3)
    rules = random.choices([*REGISTRY, LARS_LIKE], k=3) if random.random() < 0.5 else [random.choice(REGISTRY)] * 3
    global_rate, clipped = random.random() < 0.3, random.random() < 0.3
    return Problem(
        {"embedding": rules[0], "hidden": rules[1], "readout": rules[2]},
        random.choice(SCHEMES),
        Alignment("random", ratios(), ratios(), {index: ratios() for index in range(layers)}),
        layers,
        loss=random.choice(["mse", "ce"]),
        global_rate=global_rate,
        clip_global_norm=clipped and not (global_rate and layers == 0),
    )


def certificate_of(problem: Problem) -> Certificate:
    found = solve(problem).certificate
    assert found is not None
    return found


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every field of a JSON document."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path] * bool(path) + [place for key, value in items for place in leaves(value, (*path, key))]


def corrupted(content: dict[str, Any], random: Random) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The document with one field changed: a number moved, a name replaced, a flag turned, a field lost or renamed."""
    changed = deepcopy(content)
    places = leaves(changed)
    field = random.choice([*sorted({place[0] for place in places}), *["problem"] * 6])
    place = random.choice([each for each in places if each[0] == field])
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    value = parent[place[-1]]
    if isinstance(value, bool):
        parent[place[-1]] = not value
    elif isinstance(value, int):
        parent[place[-1]] = value + 1
    elif value is None:
        parent[place[-1]] = random.choice(["0", True, {}])
    elif isinstance(value, dict | list) or random.random() < 0.1:
        if isinstance(parent, dict) and random.random() < 0.5:
            parent[f"{place[-1]}?"] = parent.pop(place[-1])
        else:
            del parent[place[-1]]
    elif isinstance(value, str) and value.lstrip("-").replace("/", "").isdigit():
        step = Fraction(random.choice([-1, 1]), random.choice([1, 2, 7, 10**9]))
        parent[place[-1]] = str(Fraction(value) + step)
    else:
        others = {"loss": ["mse", "ce"], "of": ["chain", "program"]}.get(place[-1], [*content["duals"], "r_1 >= 1"])
        parent[place[-1]] = random.choice([each for each in others if each != value])
    return changed, place


def as_chain(problem: ChainProblem) -> Chain:
    """The solver's view of the numbers in a file."""

    def numbers(name: str) -> tuple[Any, ...]:
        values = (getattr(layer, name) for layer in problem.layers)
        return tuple(S.NaN if value is None else Rational(value.numerator, value.denominator) for value in values)

    bounded = [layer.weight_degree > 0 for layer in problem.layers]
    bounded[-1] = bounded[-1] or problem.keeps_gradients
    a, b, s, alpha, omega, u, growth = map(numbers, ("a", "b", "s", "alpha", "omega", "u", "growth"))
    kinds: Any = ("embedding", *["hidden"] * (len(a) - 2), "readout")
    return Chain(kinds, a, b, a, s, alpha, omega, u, growth, tuple(bounded), (None,) * len(a), problem.loss)


def solved_again(problem: ChainProblem) -> list[Any]:
    chain = as_chain(problem)
    if problem.global_rate:
        return [solver.global_rate(chain, max, min)]
    ratios = (chain.alpha, chain.omega, chain.u)
    return largest_rates(chain.a, chain.b, chain.s, *ratios, chain.bounded, cross_entropy=problem.loss == "ce")[0]


def harmless(content: dict[str, Any], place: tuple[Any, ...], before: dict[str, Any]) -> str:
    """Why what the changed certificate claims is still right, by the solver or by what it said before; or ''."""
    field = place[0]
    if field == "problem":
        again = solved_again(certificate_file.read(json.dumps(content)).problem)  # type: ignore[arg-type]
        total = sum(again)
        same = [str(c) for c in again] == [content["values"][name] for name in content["binding"]]
        if str(total) == content["optimum"] and (same or not content["unique"]):
            return "of the changed problem too this is the optimum"
    if field == "binding" and set(content["binding"][place[1]]) < {*before["binding"][place[1]]}:
        return "what is left fixes the rate as before"
    if field == "binding" and place[1] in content["binding"]:
        used = {name for name, y in before["duals"].items() if not y.startswith("-")}
        if set(content["binding"][place[1]]) <= used | {*before["binding"][place[1]]}:
            return "a constraint of positive dual is tight in every optimum"
    if field == "other" and before["other"] and isinstance(content["other"], dict):
        same = all(content["other"].get(rate) == before["other"][rate] for rate in content["binding"])
        return "the other rates are those given before" if same else ""
    return ""


@pytest.mark.parametrize(("chains", "least"), [(120, 300), pytest.param(1500, 5000, marks=pytest.mark.slow)])
def test_right_certificates_are_accepted_and_corrupted_ones_are_refused(chains: int, least: int) -> None:
    """Right ones are accepted; 5 changes of one field of each are refused, or shown to leave what is claimed right."""
    random = Random(chains)
    counts: Counter[str] = Counter()
    refused_by_field: Counter[str] = Counter()
    for _ in range(chains):
        certificate = certificate_of(random_problem(random))
        text = certificate_file.as_text(certificate)
        assert check(certificate_file.read(text)).startswith("the certificate holds")
        before = json.loads(text)
        for _ in range(5):
            changed, place = corrupted(before, random)
            try:
                check(certificate_file.read(json.dumps(changed)))
            except Refused:
                counts["refused"] += 1
                refused_by_field[next(str(key) for key in reversed(place) if isinstance(key, str))] += 1
                refused_by_field[place[0]] += 1
                continue
            why = harmless(changed, place, before)
            assert why, (place, before, changed)
            counts[why] += 1
    assert counts["refused"] >= least
    top = {"schema", "of", "problem", "values", "optimum", "least", "duals", "second", "binding", "residuals", "unique"}
    layer = {"a", "b", "s", "alpha", "omega", "u", "growth", "weight_degree", "loss", "global_rate"}
    assert (top | layer | {"other"}) <= refused_by_field.keys()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_norm_that_changes_its_ruler_with_the_one_rate_is_refused(loss: Loss) -> None:
    """SGD's embedding outgrows the readout's gradient in the norm at some rate: the clipped gradient has a corner."""
    rows = optimizers("sgd,readout=adam")
    problem = Problem(rows, SP, FULL, 0, loss=loss, global_rate=True, clip_global_norm=True)
    with pytest.raises(DeriveError, match="leave --global-rate or --clip-global-norm out"):
        solve(problem)
    assert solve(replace(problem, global_rate=False)).certificate
    assert solve(replace(problem, clip_global_norm=False)).certificate


WIDE = Program({"x": 1}, {}, (Row("low", {"x": -1}, -1), Row("high", {"x": 1}, 5)))


def small(**changes: Any) -> Certificate:
    """x = 1 minimises x over 1 <= x <= 5, and what is changed of that."""
    right = Certificate(WIDE, {"x": 1}, 1, 0, {"low": 1}, {}, {"x": ("low",)}, {})
    return replace(right, **changes)


TIE = Program(
    {"x": 1, "y": 1},
    {"y": 1},
    (Row("sum", {"x": -1, "y": -1}, -1), Row("x >= 0", {"x": -1}, 0), Row("y >= 0", {"y": -1}, 0)),
)


def tie(**changes: Any) -> Certificate:
    """x = 1, y = 0 minimises x + y where they sum to 1 or more, and y among those; and what is changed of that."""
    binding = {"x": ("sum",), "y": ("sum",)}
    right = Certificate(TIE, {"x": 1, "y": 0}, 1, 0, {"sum": 1}, {"y >= 0": 1}, binding, {})
    return replace(right, **changes)


FAULTS: dict[str, tuple[Certificate, str]] = {
    "a dual below zero": (
        small(values={"x": 5}, optimum=5, duals={"high": -1}, binding={"x": ("high",)}),
        "the dual of high is negative",
    ),
    "values that violate a row": (small(values={"x": 0}, optimum=0, binding={"x": ()}), "the values violate low"),
    "objectives that differ": (
        small(values={"x": 2}, optimum=2, binding={"x": ()}),
        "the objective is 2, and its duals prove 1 only",
    ),
    "an optimum that is not reached": (small(optimum=2), "the objective is 1, and 2 is claimed"),
    "duals that do not balance": (small(duals={"low": 2}), "do not balance the objective at x"),
    "no duals": (small(duals={}), "do not balance the objective at x"),
    "a dual of no row": (small(duals={"low": 1, "lower": 1}), "there is no constraint lower"),
    "a slack row said to bind": (small(binding={"x": ("low", "high")}), "high is said to fix x, and is not tight"),
    "nothing said to bind": (small(binding={"x": ()}), "no constraint that is said to fix x has it"),
    "no row said to bind": (small(binding={"x": ("low", "l")}), "there is no constraint l, which is said to fix x"),
    "a rate left out of what binds": (small(binding={}), "what fixes the rates is not said of each: x"),
    "a row of another variable said to bind": (
        tie(binding={"x": ("y >= 0",), "y": ("sum",)}),
        "no constraint that is said to fix x has it",
    ),
    "another of the tied optima": (
        tie(values={"x": 0, "y": 1}, least=1, second={"y >= 0": 1}),
        "the objective is 1, and its second duals prove 0 only",
    ),
    "no second duals": (tie(second={}), "the second duals do not balance the objective at y"),
    "a second dual below zero": (
        tie(values={"x": 0, "y": 1}, least=1, second={"sum": 1, "x >= 0": -1}),
        "the second dual of x >= 0 is negative",
    ),
    "a least that is not reached": (tie(least=-1), "the objective is 0, and -1 is claimed"),
    "a variable without a value": (small(values={}), "the values are not those of the program's variables: x"),
    "a variable too many": (small(values={"x": 1, "z": 0}), "the values are not those of the program's variables: z"),
    "other values that nothing is said of": (small(other={"x": 1}), "it is not said that they reach the optimum"),
    "two rows of one name": (
        small(problem=replace(WIDE, rows=(*WIDE.rows, Row("low", {"x": -1}, 0)))),
        "two rows of the program have one name",
    ),
}


def test_the_small_certificates_hold() -> None:
    assert "1 is the least sum of 1 exponents under 2 constraints" in check(small())
    assert check(tie())


@pytest.mark.parametrize("fault", FAULTS)
def test_each_condition_is_checked_alone(fault: str) -> None:
    certificate, message = FAULTS[fault]
    with pytest.raises(Refused) as caught:
        check(certificate)
    assert message in str(caught.value)


def test_uniqueness_is_proved_either_way() -> None:
    """Adam, SP, full has one optimum; SGD, muP, none without a hidden layer has others, and names one.

    See docs/theory.md, section 5.
    """
    one = certificate_of(Problem(optimizers("adam"), SP, prescribe().problem.alignment))
    assert one.unique
    with pytest.raises(Refused, match="no other values are given"):
        check(replace(one, unique=False))
    with pytest.raises(Refused, match="and are the same rates"):
        check(replace(one, unique=False, other=one.values))
    with pytest.raises(Refused, match="and other rates are given"):
        check(replace(one, other=one.values))
    with pytest.raises(Refused, match="does not say whether"):
        check(replace(one, unique=None))
    tied = prescribe("sgd", "mup", "none", hidden_layers=0).certificate
    assert tied is not None and tied.other is not None
    rates = [tied.values["c_1"], tied.values["c_2"]]
    other = [tied.other["c_1"], tied.other["c_2"]]
    assert sum(rates) == sum(other) and rates != other
    with pytest.raises(Refused, match="other rates are said to reach"):
        check(replace(tied, other={**tied.other, "c_1": tied.other["c_1"] - 1, "c_2": tied.other["c_2"] + 1}))
    # A tie inside the program: u alone fixes c_3, so that what raising r_2 costs c_2 it saves there.
    ratios = {0: Ratios(S(0), S(0), S(0))}
    inside = Alignment("u rules", Ratios(S(0), S(0), S(0)), Ratios(S(0), Rational(1, 2), S(1)), ratios)
    chain = certificate_of(Problem(optimizers("adam"), SP, inside))
    assert chain.unique is False
    with pytest.raises(Refused, match="leave c_"):
        check(replace(chain, unique=True, other=None))


def test_a_rule_of_negative_degree_does_not_pay_for_the_readout() -> None:
    """K-FAC's update shrinks as gradients grow, and SGD's alone pays: (0, -1/4, 1/4) is as good as (0, -1/2, 1/2)."""
    answer = prescribe("embedding=kfac,hidden=sgd,readout=adam", "mup", "none")
    assert [str(c) for c in answer.c] == ["0", "-1/2", "0"] or answer.unique is False
    assert answer.unique is False and answer.certificate is not None and answer.certificate.other is not None
    assert sum(answer.certificate.other[f"c_{layer}"] for layer in (1, 2, 3)) == sum(answer.c)


@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "adam", "adafactor", "kfac", "muon"])
def test_one_global_rate_names_what_fixes_it(rule: str, clip: bool, loss: Any) -> None:
    for scheme in SCHEMES:
        for alignment in ("full", "none", "prior"):
            answer = prescribe(rule, scheme, alignment, loss=loss, global_rate=True, clip_global_norm=clip)
            lines = answer.layers[0].binding
            assert lines and all(layer.binding == lines for layer in answer.layers)
            # What asks for something stands last: r >= 0, or an update that may not outgrow its weights.
            assert ">=" in lines[-1] and any("d_" in line for line in lines)


def exchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **how: function(*args, **{**how, "maximum": min, "minimum": max})


def shifted(function: Callable[..., Any], layer: int, by: Any, which: int = 0) -> Callable[..., Any]:
    def wrong(*args: Any, **how: Any) -> Any:
        answer = [list(values) for values in function(*args, **how)]
        answer[which][layer] += by
        return tuple(answer)

    return wrong


def reordered(function: Callable[..., Any], change: Callable[[list[Any]], None]) -> Callable[..., Any]:
    def wrong(*args: Any, **how: Any) -> Any:
        changed = [list(values) for values in args]
        change(changed)
        return function(*changed, **how)

    return wrong


def exchange(first: int, second: int) -> Callable[[list[Any]], None]:
    def change(args: list[Any]) -> None:
        args[first], args[second] = args[second], args[first]

    return change


RATES = solver.largest_rates
WRONG_SOLVERS: dict[str, Callable[..., Any]] = {
    "max for min": exchanged(RATES),
    "c of a hidden layer too large": shifted(RATES, 1, Rational(1, 2)),
    "c of a hidden layer too small": shifted(RATES, 1, -Rational(1, 2)),
    "c of the embedding too large": shifted(RATES, 0, Rational(1, 10**9)),
    "c of the readout too small": shifted(RATES, -1, -Rational(1, 10**9)),
    "r claimed wrongly": shifted(RATES, 1, Rational(1, 2), which=1),
    "r of the readout claimed wrongly": shifted(RATES, -1, Rational(1, 2), which=1),
    "alpha and omega exchanged": reordered(RATES, exchange(3, 4)),
    "omega and u exchanged": reordered(RATES, exchange(4, 5)),
    "a and s exchanged": reordered(RATES, exchange(0, 2)),
    "nothing bounded": reordered(RATES, lambda args: args.__setitem__(6, [False] * len(args[6]))),
    "everything bounded": reordered(RATES, lambda args: args.__setitem__(6, [True] * len(args[6]))),
    "u left out": reordered(RATES, lambda args: args.__setitem__(5, [S(-9)] * len(args[5]))),
}


@pytest.mark.parametrize("mistake", WRONG_SOLVERS)
def test_a_wrong_solver_is_refused(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On at least one of 25 random chains the answer is refused, and whenever its c or r is not the right one."""
    random = Random(1)
    problems = [
        replace(random_problem(random), global_rate=False, loss="mse", clip_global_norm=False) for _ in range(25)
    ]
    right = [[layer.c for layer in solve(each).layers] + [layer.r for layer in solve(each).layers] for each in problems]
    monkeypatch.setattr(solver, "largest_rates", WRONG_SOLVERS[mistake])
    caught = 0
    for problem, expected in zip(problems, right, strict=True):
        try:
            answer = solve(problem)
        except Refused:
            caught += 1
            continue
        found = [layer.c for layer in answer.layers] + [layer.r for layer in answer.layers]
        # Among tied optima others may have as small an r.
        assert found == expected or answer.unique is False
    assert caught > 0


@pytest.mark.parametrize("by", [Rational(1, 7), -Rational(1, 7)])
def test_a_wrong_global_rate_is_refused(by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = solver.global_rate
    monkeypatch.setattr(solver, "global_rate", lambda *args: right(*args) + by)
    with pytest.raises(Refused):
        prescribe("sgd", "sp", "full", global_rate=True)


def test_a_refusal_is_no_mistake_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "largest_rates", WRONG_SOLVERS["max for min"])
    assert not issubclass(Refused, ValueError)
    with pytest.raises(Refused):
        run(lambda: app(["--alignment", "none", "--parameterization", "mup"], standalone_mode=False), "derive")


def test_symbols_have_no_certificate_and_the_output_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert prescribe(alignment="alpha=x").certificate is None
    assert run(lambda: app(["--alignment", "alpha=x"], standalone_mode=False), "derive") == 0
    assert "No certificate: symbols are left" in capsys.readouterr().out
    options = ["--alignment", "alpha=x", "--certificate", str(tmp_path / "proof.json")]
    assert run(lambda: app(options, standalone_mode=False), "derive") == 2
    assert "symbols are left" in capsys.readouterr().err


def test_a_certificate_is_written_and_checked_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    options = ["--optimizer", "sgd", "--layers", "4", "--certificate", str(path)]
    assert run(lambda: app(options, standalone_mode=False), "derive") == 0
    assert run(lambda: app(options, standalone_mode=False), "derive") == 2
    assert "exists already" in capsys.readouterr().err
    assert run(lambda: app(["certify", str(path)], standalone_mode=False), "derive") == 0
    assert capsys.readouterr().out.startswith("the certificate holds: ")
    content = json.loads(path.read_text())
    content["values"]["c_2"] = "1/3"
    path.write_text(json.dumps(content))
    assert run(lambda: app(["certify", str(path)], standalone_mode=False), "derive") == 2
    error = capsys.readouterr().err
    assert "is refused: " in error and error.count("\n") == 1


def edited(**changes: Any) -> str:
    content = json.loads(certificate_file.as_text(prescribe().certificate))  # type: ignore[arg-type]
    return json.dumps({**content, **changes})


BAD_FILES: dict[str, Callable[[], str | bytes]] = {
    "nothing": lambda: "",
    "no JSON": lambda: "certificate",
    "not UTF-8": lambda: b"\xff\xfe{}",
    "a list": lambda: "[]",
    "a number": lambda: "7",
    "an empty object": lambda: "{}",
    "deep": lambda: "[" * 100_000,
    "deep objects": lambda: '{"a":' * 100_000,
    "NaN": lambda: edited(optimum="x").replace('"x"', "NaN"),
    "a NaN string": lambda: edited(optimum="NaN"),
    "an infinity string": lambda: edited(optimum="inf"),
    "a decimal": lambda: edited(optimum=2.0),
    "a whole number that is no string": lambda: edited(optimum=2),
    "5,000 digits": lambda: edited(optimum="9" * 5000),
    "5,000 digits that are no string": lambda: edited(optimum="x").replace('"x"', "9" * 5000),
    "an exponent": lambda: edited(optimum="1e1000000000"),
    "other digits": lambda: edited(optimum="٣"),
    "divided by zero": lambda: edited(optimum="1/0"),
    "values that are a list": lambda: edited(values=["1"]),
    "values without one": lambda: edited(values={"c_1": "0"}),
    "duals that are null": lambda: edited(duals=None),
    "binding of numbers": lambda: edited(binding={"c_1": [1]}),
    "binding that is text": lambda: edited(binding={"c_1": "r_1 <= d_1"}),
    "another schema": lambda: edited(schema=2),
    "a schema that is true": lambda: edited(schema=True),
    "another kind": lambda: edited(of="tree"),
    "an unknown field": lambda: edited(extra=1),
    "a field twice": lambda: edited()[:-1] + ', "schema": 1}',
    "one layer": lambda: edited(problem={"loss": "mse", "global_rate": False, "layers": []}),
    "a loss of another type": lambda: edited(problem={"loss": ["mse"], "global_rate": False, "layers": []}),
    "a program in a chain's place": lambda: edited(problem={"objective": {}, "then": {}, "rows": []}),
    "unique that is 1": lambda: edited(unique=1),
    "control characters": lambda: edited(duals={"\n\x1b[31m\ud800": "1"}),
    "primes": lambda: edited(residuals={f"r_{n}": f"1/{10**150 + n}" for n in range(200)}),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_line(kind: str, tmp_path: Path) -> None:
    content = BAD_FILES[kind]()
    path = tmp_path / "proof.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DeriveError) as caught:
        certificate_file.certify(path)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600


@pytest.mark.parametrize("path", ["/nowhere/proof.json", "/dev/null", ".", "a\0b"])
def test_what_is_no_file_is_named(path: str) -> None:
    with pytest.raises(DeriveError):
        certificate_file.certify(Path(path))


def test_the_checker_shares_nothing_with_the_solver() -> None:
    """Neither certify nor programs imports the engine, or sympy."""
    for name in ("certify", "programs"):
        source = (Path(propagation.__file__).parent / f"{name}.py").read_text()
        imported = [line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))]
        assert {each for each in imported if each.startswith("derive")} <= {"derive.programs"}
        assert not {each.partition(".")[0] for each in imported} & {"sympy", "numpy", "jax", "scipy"}


def test_residuals_are_those_of_section_4() -> None:
    certificate = certificate_of(Problem(optimizers("sgd"), MUP, prescribe(alignment="none").problem.alignment))
    for name, value in certificate.residuals.items():
        for by in (Fraction(1, 3), Fraction(-1, 3)):
            with pytest.raises(Refused, match="is not the smallest of its terms"):
                check(replace(certificate, residuals={**certificate.residuals, name: value + by}))
    chain = as_chain(certificate.problem)  # type: ignore[arg-type]
    d = [
        a + Rational(str(certificate.values[f"c_{i}"])) + s
        for i, (a, s) in enumerate(zip(chain.a, chain.s, strict=True), 1)
    ]
    found = residuals(chain.a, chain.b, d, chain.alpha, chain.omega, chain.u)
    assert [str(r) for r in found] == [str(r) for r in certificate.residuals.values()]
