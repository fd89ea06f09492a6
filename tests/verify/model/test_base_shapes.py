"""Base shapes of microsoft/mup: read, compared entry by entry, ambiguity named; the recipe for PyTorch runs."""

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sympy import Rational, S

from derive.cli import app as derive_app
from derive.cli import run
from derive.emit_torch_muon import as_torch
from derive.errors import DeriveError
from derive.parameterizations import custom
from derive.solve import Prescription, prescribe, solve_kinds
from tests.helpers.paths import ROOT
from verify.commands.main import app
from verify.model.mup_entries import Entry
from verify.model.mup_shapes import PACKAGE, Dims, compare, read_shapes, role_of

HALF = Rational(1, 2)
BASE: dict[str, Dims] = {
    "table.weight": (None, 256),
    "layers.0.weight": (1024, 256),
    "layers.0.bias": (1024,),
    "in.weight": (256, None),
    "conv.weight": (256, 256, None, None),
    "readout.weight": (None, 256),
    "readout.bias": (None,),
}
TARGET: dict[str, Dims] = {
    "table.weight": (50, 1024),
    "layers.0.weight": (8192, 1024),
    "layers.0.bias": (8192,),
    "in.weight": (1024, 3),
    "conv.weight": (1024, 1024, 3, 3),
    "readout.weight": (10, 1024),
    "readout.bias": (10,),
}
ROLES = {"table.weight": "embedding", "readout.weight": "readout"}
RECIPE = (ROOT / "docs" / "pytorch.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", RECIPE, flags=re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [line for language, code in BLOCKS if not language for line in code.strip().splitlines()]


def derived(optimizer: str, parameterization: str = "mup", alignment: str = "full") -> Prescription:
    return solve_kinds(prescribe(optimizer, custom(parameterization), alignment).problem)


def compared(*triple: str, base: dict[str, Dims] = BASE, **options: Any) -> dict[str, Entry]:
    return {entry.name: entry for entry in compare(base, derived(*triple), **{"given": ROLES, **options})}


def write(path: Path, shapes: dict[str, Any]) -> Path:
    path.write_text("# a comment\n" + json.dumps({name: list(dims) for name, dims in shapes.items()}), encoding="utf-8")
    return path


def run_verify(arguments: list[str], capsys: Any) -> tuple[int, str, str]:
    code = run(lambda: app(arguments, standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_yaml_is_read_as_the_package_writes_it(tmp_path: Path):
    file = tmp_path / "base.bsh"
    text = "# comment\nreadout.weight:\n- null\n- 256\nlayers.0.bias:\n- 1024\n'0': []\n"
    file.write_text(text, encoding="utf-8")
    assert read_shapes(file, "base shapes") == {"readout.weight": (None, 256), "layers.0.bias": (1024,), "0": ()}


@pytest.mark.parametrize(
    ("dims", "role"),
    [
        ((1024,), "embedding"),
        ((256, None), "embedding"),
        ((256, None, None, None), "embedding"),
        ((1024, 256), "hidden"),
        ((256, 256, None, None), "hidden"),
        ((None,), "fixed"),
        ((None, None), "fixed"),
        ((), "fixed"),
        ((None, 256), None),
        ((None, 256, None, None), None),
        ((None, None, 256), None),
        ((256, 256, 256), None),
    ],
)
def test_the_role_comes_from_the_dims(dims: Dims, role: str | None):
    assert role_of(dims)[0] == role


def test_what_shapes_leave_open_is_named_with_its_cure_and_not_compared():
    entry = compared("adam", given={})["table.weight"]
    assert (entry.role, entry.agrees, entry.theirs, entry.ours) == (None, None, None, None)
    assert "lookup table" in entry.why
    assert "give --role table.weight=embedding or --role table.weight=readout" in entry.why


@pytest.mark.parametrize("optimizer", PACKAGE)
@pytest.mark.parametrize("scheme", ["mup", "mfp", "mup-package", "a=1/3,0,1/3;b=-1/3,1/2,2/3"])
def test_the_package_is_mup_in_another_gauge(optimizer: str, scheme: str):
    """Theta by hand: the package's a = (0, 0, 1) less the scheme's own."""
    entries = compared(optimizer, scheme)
    assert all(entry.agrees for entry in entries.values())
    assert entries["readout.weight"].theta == 1 - custom(scheme).a[2]
    assert entries["in.weight"].theta == -custom(scheme).a[0]


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [
        ("adam", {"in.weight": 0, "layers.0.weight": 1, "readout.weight": 0, "readout.bias": 0}),
        ("sgd", {"in.weight": -1, "layers.0.weight": 0, "readout.weight": -1, "readout.bias": 0}),
    ],
)
def test_what_the_package_applies(optimizer: str, rates: dict[str, int]):
    entries = compared(optimizer)
    assert {name: entries[name].theirs[2] for name in rates} == rates  # type: ignore[index]
    assert [entries["readout.weight"].theirs, entries["layers.0.weight"].theirs] == [
        (S.One, S.Zero, S(rates["readout.weight"])),
        (S.Zero, HALF, S(rates["layers.0.weight"])),
    ]


@pytest.mark.parametrize("optimizer", PACKAGE)
def test_sp_differs_in_the_initial_readout(optimizer: str):
    """By hand: SP's readout, a + b = 1/2, under the package's multiplier n^-1 starts as n^(1/2).

    For Adam that is all. SGD sees gradients larger by n^(1/2), so the rates before the readout are smaller by it.
    """
    entries = compared(optimizer, "sp", target=TARGET)
    readout = entries["readout.weight"]
    assert readout.reason is not None
    assert readout.reason.startswith("readout: a+b is 1/2 in SP and 1 in mup-package")
    assert (readout.theta, readout.differs) == (None, ("initial std",))
    assert readout.cure == "initial std n^(1/2) instead of n^0, a further x 2"
    differing = {name: entry.cure for name, entry in entries.items() if not entry.agrees and entry is not readout}
    if PACKAGE[optimizer] == "MuSGD":
        assert differing.keys() == {"table.weight", "layers.0.weight", "layers.0.bias", "in.weight", "conv.weight"}
        assert differing["in.weight"] == "rate n^(1/2) instead of n^1, a further x 0.5"
        assert differing["layers.0.weight"] == "rate n^(-1/2) instead of n^0, a further x 0.5"
    else:
        assert differing == {}


def test_rates_that_differ_are_named():
    """By hand, Adam + muP + none: hidden 1/2 where the package has 1; readout 0 - 1/2 where it has 0."""
    entries = compared("adam", "mup", "none", target=TARGET)
    assert {name for name, entry in entries.items() if not entry.agrees} == {
        "layers.0.weight",
        "conv.weight",
        "readout.weight",
    }
    assert entries["layers.0.weight"].cure == "rate n^(-1/2) instead of n^-1, a further x 2"
    assert entries["readout.weight"].cure == "rate n^(1/2) instead of n^0, a further x 2"
    assert entries["readout.weight"].reason is None


@pytest.mark.parametrize(("optimizer", "degree"), [("adam", 1), ("sgd", 2)])
def test_a_target_gives_numbers_that_train_alike(optimizer: str, degree: int):
    """Free of the gauge are multiplier x initial std, and multiplier^(1 + k - m) x rate."""
    target = {**TARGET, "layers.0.weight": (4096, 1024), "layers.0.bias": (4096,)}
    for entry in compared(optimizer, target=target).values():
        assert entry.ours is not None
        theirs, ours = entry.package_factors, entry.factors(entry.ours)
        assert theirs[0] * theirs[1] == pytest.approx(ours[0] * ours[1])
        assert theirs[0] ** degree * theirs[2] == pytest.approx(ours[0] ** degree * ours[2])
        assert entry.note is None


def test_numbers_by_hand_where_dimensions_grow_by_different_factors():
    """fan-in x 4, fan-out x 8: init 4^-1/2; MuAdam's rate 1/4, MuSGD's 8/4; the bias goes by its own x 8."""
    adam, sgd = compared("adam", target=TARGET), compared("sgd", target=TARGET)
    assert adam["layers.0.weight"].package_factors == (1, 0.5, 0.25)
    assert sgd["layers.0.weight"].package_factors == (1, 0.5, 2)
    assert sgd["layers.0.bias"].package_factors == (1, 1, 8)
    assert adam["readout.weight"].package_factors == (0.25, 1, 1)
    assert sgd["readout.bias"].package_factors == (1, 1, 1)
    assert "fan-in grows x 4 and fan-out x 8" in (adam["layers.0.weight"].note or "")
    assert "ratio 2, which is n^0" in (sgd["layers.0.weight"].note or "")
    assert adam["conv.weight"].note is None


def test_stacked_matrices_are_scaled_wrongly_by_musgd():
    """It takes the first two dimensions for (fan_out, fan_in), so a stack's rate falls as n^-1."""
    options: dict[str, Any] = {"base": {"experts": (None, 64, 64)}, "given": {"experts": "hidden"}}
    assert compared("adam", **options)["experts"].agrees
    stack = compared("sgd", **options, target={"experts": (8, 256, 256)})["experts"]
    assert stack.package_factors[2] == 0.25
    assert stack.cure == "rate n^0 instead of n^-1, a further x 4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in.weight": (128, 3)}, r"'in\.weight' shrinks from \[256, null\] to \[128, 3\]"),
        ({"in.weight": (1024,)}, "give its full shape"),
        ({"in.weight": (1024, None)}, "give its full shape"),
        ({"out.bias": (10,)}, r"the target has 'out\.bias', which is none of the 7 .* did you mean readout\.bias"),
        ({"readout.bias": None}, r"the target has no 'readout\.bias'"),
    ],
)
def test_a_target_that_does_not_fit_names_the_parameter(change: dict[str, Any], message: str):
    target = {name: dims for name, dims in {**TARGET, **change}.items() if dims is not None}
    with pytest.raises(DeriveError, match=message):
        compared("adam", target=target)


def test_the_command(tmp_path: Path, capsys: Any):
    file = str(write(tmp_path / "base.bsh", BASE))
    code, out, error = run_verify(["shapes", file], capsys)
    assert (code, error) == (0, "")
    assert "\n? readout.weight: " in out
    assert "5 of 7 agree, 0 differ, 2 undecided" in out
    roles = [part for name, kind in ROLES.items() for part in ("--role", f"{name}={kind}")]
    wide = ["--target", str(write(tmp_path / "target.json", TARGET))]
    _, out, _ = run_verify(["shapes", file, *roles, *wide, "--parameterization", "sp"], capsys)
    assert "DIFFERS readout.weight: to train as derived, initial std n^(1/2)" in out
    assert "6 of 7 agree, 1 differ\n" in out
    code, out, _ = run_verify(["shapes", file, *roles, *wide, "--optimizer", "MuAdam", "--format", "json"], capsys)
    content = json.loads(out)
    rows = {row["parameter"]: row for row in content["rows"]}
    assert (content["optimizer"], content["agree"], content["undecided"]) == ("adam", 7, 0)
    assert rows["layers.0.weight"]["package"] == {"a": "0", "b": "1/2", "c": "1"}
    assert rows["layers.0.weight"]["package_factors"] == {"multiplier": 1, "init": 0.5, "rate": 0.25}
    assert rows["readout.weight"]["derived"] == {"a": "1/2", "b": "1/2", "c": "1/2"}
    assert rows["readout.weight"]["theta"] == "1/2"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "cannot read the base shapes"),
        ("{", [], "not plain YAML"),
        ("w: !!python/tuple [4, 4]", [], "not plain YAML or JSON; give what save_base_shapes wrote"),
        ("3", [], "has no parameters"),
        ("{}", [], "has no parameters"),
        ("w: 256", [], "'w' in the base shapes is no list"),
        ("1: [4]", [], "the name '1', which is no text"),
        ("w: [0.5]", [], "the dimension '0.5'; write a number or null"),
        ("w: [0]", [], "the dimension '0'"),
        ("w: [true]", [], "the dimension 'True'"),
        ("w: [[4]]", [], "the dimension a list"),
        (
            "w: [4, 4]",
            ["--optimizer", "lion"],
            "no optimizer for 'lion', it has MuSGD (sgd, momentum, nesterov), MuAdam",
        ),
        ("w: [4, 4]", ["--optimizer", "adam,hidden=muon"], "and MuAdamW (adamw); give one of these"),
        ("w: [4, 4]", ["--alignment", "alpha=x,u=x"], "leaves symbols in the exponents"),
        ("w: [4, 4]", ["--parameterization", "mupp"], "did you mean mup?"),
        ("w: [4, 4]", ["--role", "w"], "names no kind"),
        ("w: [4, 4]", ["--role", "w=hidden", "--role", "w=hidden"], "twice"),
        ("w: [4, 4]", ["--role", "w=readout"], "contradicts its base shape [4, 4]: fan-in and fan-out grow"),
        (
            "w: [null, 4]",
            ["--role", "w=hidden"],
            "contradicts its base shape [null, 4]: allowed is embedding or readout",
        ),
        ("w: [4, 4, 4]", ["--role", "w=hidden"], "no rule"),
        ("w: [null, 4]", ["--role", "w=output"], "unknown layer kind 'output'"),
        ("w: [4, 4]", ["--role", "v=hidden"], "--role has 'v', which is none of the 1"),
    ],
)
def test_mistakes_are_one_line(content: str | None, options: list[str], message: str, tmp_path: Path, capsys: Any):
    file = tmp_path / "base.bsh"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    code, out, error = run_verify(["shapes", str(file), *options], capsys)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mup", "mup-package"], "muP and mup-package train alike"),
        (["mup", "a=0,0,1;b=0,1/2,0", "--optimizer", "sgd"], "muP and a=0,0,1;b=0,1/2,0 train alike"),
        (["a = 0,0,0; b = 0,1/2,1", "mup-package"], "a=0,0,0;b=0,1/2,1 and mup-package train alike"),
        (["sp", "mup-package"], "SP and mup-package are not equivalent: readout: a+b is 1/2"),
    ],
)
def test_derive_compares_a_gauge_of_ones_own(arguments: list[str], expected: str, capsys: Any):
    code = run(lambda: derive_app(["equivalent", *arguments], standalone_mode=False), "derive")
    assert code == 0
    assert expected in capsys.readouterr().out


def test_the_shift_to_the_package_is_printed_per_layer(capsys: Any):
    """By hand: theta = (0, 0, 1) - (-1/2, 0, 1/2), and Adam's rates shift by minus that."""
    arguments = ["equivalent", "mup", "mup-package", "--optimizer", "adam", "--format", "json"]
    assert run(lambda: derive_app(arguments, standalone_mode=False), "derive") == 0
    shifts = json.loads(capsys.readouterr().out)["shifts"]
    assert [(row["theta"], row["c"]) for row in shifts] == [("1/2", "-1/2"), ("0", "0"), ("1/2", "-1/2")]


@pytest.mark.parametrize(
    "text",
    ["a=0,0,1", "a=0;b=1", "a=0,0,1;b=0,1/2,0;junk", "a=0,0,1;a=0,0,1;b=0,1/2,0", "a=0,0,1;b=0,1/2,__import__"],
)
def test_exponents_that_cannot_be_read_are_one_line(text: str, capsys: Any):
    code = run(lambda: derive_app(["equivalent", "mup", text], standalone_mode=False), "derive")
    assert (code, capsys.readouterr().err.count("\n")) == (2, 1)


def emitted(command: str, capsys: Any) -> dict[str, Any]:
    """The module that a command of the recipe writes."""
    arguments, _, file = command.partition(" > ")
    assert file == "scaling.py"
    assert run(lambda: derive_app(shlex.split(arguments)[1:], standalone_mode=False), "derive") == 0
    return {"code": capsys.readouterr().out}


def test_the_commands_of_the_recipe_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """With the file that the recipe shows, and its own code for the target's shapes."""
    monkeypatch.chdir(tmp_path)
    file = next(code for language, code in BLOCKS if language == "yaml")
    Path("base.bsh").write_text(file, encoding="utf-8")
    base = read_shapes(Path("base.bsh"), "base shapes")
    shapes = {name: tuple(1000 if each is None else 4096 for each in dims) for name, dims in base.items()}
    model = SimpleNamespace(named_parameters=lambda: [(n, SimpleNamespace(shape=s)) for n, s in shapes.items()])
    exec(compile(PYTHON[-1], "recipe", "exec"), {"model": model})  # noqa: S102
    assert "import torch" in emitted(COMMANDS[0], capsys)["code"]
    outputs = []
    for command in COMMANDS[1:]:
        name, *arguments = shlex.split(command)
        if name == "derive":
            assert run(lambda given=arguments: derive_app(given, standalone_mode=False), "derive") == 0
            outputs.append(capsys.readouterr().out)
        else:
            code, out, error = run_verify(arguments, capsys)
            assert (code, error) == (0, "")
            outputs.append(out)
    agree, equivalent, numbers = outputs
    assert "9 of 9 agree, 0 differ\n" in agree
    assert "train alike" in equivalent
    for text in (agree, numbers):
        assert re.search(r"readout\.weight +\.x256 +readout ", text)
        assert re.search(r"embedding\.weight +\.x256 +embedding ", text)
    assert "0.0625, 1, 1" in numbers


def test_the_recipe_for_pytorch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """Every parameter has the prescribed RMS, rate, epsilon and decay, by the module that the recipe's command emits.

    By hand at 4 times the width: initial std 1, 1/2, 1/4, rate 1, 1/4, 1/4, epsilon 1/4, 1/4, 1, decay 1, 4, 4.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency of this project")
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    module = ModuleType("scaling")
    exec(compile(emitted(COMMANDS[0], capsys)["code"], "scaling", "exec"), module.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "scaling", module)
    names: dict[str, Any] = {}
    for block in PYTHON:
        exec(compile(block.replace("256, 4096", "32, 128"), "recipe", "exec"), names)  # noqa: S102
    kinds = {name: names["kind"](name, p) for name, p in names["model"].named_parameters()}
    assert {kind: sorted(n for n in kinds if kinds[n] == kind) for kind in ("hidden", "readout")} == {
        "hidden": ["hidden.0.weight", "hidden.1.weight"],
        "readout": ["readout.weight"],
    }
    small = dict(names["small"].named_parameters())
    for name, p in names["model"].named_parameters():
        factor = {"embedding": 1, "hidden": 0.5, "readout": 0.25}[kinds[name]]
        assert float(names["rms"](p)) == pytest.approx(float(names["rms"](small[name])) * factor, rel=1e-4)
    groups = names["step"].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([3e-3, 7.5e-4, 3e-3, 7.5e-4])
    assert [group["eps"] for group in groups] == pytest.approx([2.5e-9, 2.5e-9, 2.5e-9, 1e-8])
    assert [group["weight_decay"] for group in groups] == pytest.approx([0.01, 0.04, 0, 0.04])
    assert [len(group["params"]) for group in groups] == [1, 2, 5, 1]
    before = [p.detach().clone() for p in names["model"].parameters()]
    names["model"](torch.zeros(1, 3, dtype=torch.long)).square().sum().backward()
    names["step"].step()
    moved = [float((p.detach() - old).abs().max()) for p, old in zip(names["model"].parameters(), before, strict=True)]
    assert all(change > 0 for change in moved)
    exec(compile(as_torch(derived("adamw")), "scaling", "exec"), names)  # noqa: S102
    layer, x = names["model"].readout, torch.ones(128)
    scaled = names["scaled_linear"](layer, x, "readout")
    assert torch.allclose(scaled, 0.5 * (layer.weight @ x) + 2 * layer.bias)
