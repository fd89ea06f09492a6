"""The `derive` command: its contract, its errors, and that nothing a user types is evaluated."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derive.cli import app
from derive.running import run

Capture = pytest.CaptureFixture[str]


def derive(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(list(arguments), standalone_mode=False), "derive")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def as_json(capsys: Capture, *arguments: str) -> dict[str, Any]:
    code, out, err = derive(capsys, *arguments, "--format", "json")
    assert code == 0, err
    return json.loads(out)


def test_the_json_contract(capsys: Capture) -> None:
    answer = as_json(capsys, "--optimizer", "adam", "--parameterization", "sp", "--alignment", "full")
    assert {key: answer[key] for key in ("schema", "optimizer", "parameterization", "alignment")} == {
        "schema": 1,
        "optimizer": "adam",
        "parameterization": "sp",
        "alignment": "full",
    }
    assert answer["unique"] is True and answer["feature_learning"] is True
    first = answer["layers"][0]
    expected = {"kind": "embedding", "a": "0", "b": "0", "c": "0", "s": "0", "g": "1/2", "epsilon": "1/2", "decay": "0"}
    expected |= {"r": "0", "alpha": None, "omega": None, "u": None}
    assert {key: first[key] for key in expected} == expected
    assert "r_1 >= 0" in first["binding"]


def test_no_arguments_is_adam_mup_full_without_multipliers_as_in_verify_prescribe(capsys: Capture) -> None:
    spelled = derive(capsys, "--optimizer", "Adam", "--parameterization", "mup", "--gauge", "0", "--alignment", "full")
    assert derive(capsys)[1] == spelled[1]
    assert derive(capsys, "--gauge", "1/2")[1] == derive(capsys, "--parameterization", "mup", "--gauge", "1/2")[1]


def test_numbers_at_a_width(capsys: Capture) -> None:
    """Adam, SP, full, 16 times wider: hidden and readout rates fall 16-fold, standard deviations 4-fold."""
    sizes = ("--base-width", "256", "--width", "4096", "--base-rate", "0.003")
    layers = as_json(capsys, "--parameterization", "sp", *sizes)["layers"]
    assert [layer["rate"] for layer in layers] == [0.003, 0.003 / 16, 0.003 / 16]
    assert [layer["init_factor"] for layer in layers] == [1, 0.25, 0.25]
    assert [layer["multiplier"] for layer in layers] == [1, 1, 1]
    assert [layer["epsilon_factor"] for layer in layers] == [0.25, 0.25, 1]
    assert [layer["decay_factor"] for layer in layers] == [1, 16, 16]


@pytest.mark.parametrize(("convention", "decay"), [("independent", "-1"), ("sqrt", "-1/2"), ("constant", "0")])
def test_decay_conventions_for_a_rate_that_falls_as_one_over_n(convention: str, decay: str, capsys: Capture) -> None:
    assert as_json(capsys, "--decay", convention)["layers"][1]["decay"] == decay


def test_one_optimizer_per_layer_kind(capsys: Capture) -> None:
    one = as_json(capsys, "--optimizer", "hidden=muon,embedding=adam,readout=adam")
    assert one == as_json(capsys, "--optimizer", "adam,hidden=muon")
    assert [layer["c"] for layer in one["layers"]] == ["0", "0", "1"]


def test_a_custom_rule_equals_the_registry_row(capsys: Capture) -> None:
    custom, row = as_json(capsys, "--update", "m/(sqrt(v)+eps)"), as_json(capsys, "--optimizer", "adam")
    assert custom["layers"] == row["layers"]


def test_a_constant_epsilon_ends_scale_freedom(capsys: Capture) -> None:
    """With e = 0 and g > 0 the update has the gradient's own size: Adam becomes SGD with momentum.

    See docs/theory.md, section 7.
    """
    layers = as_json(capsys, "--parameterization", "ntk", "--epsilon", "constant")["layers"]
    momentum = as_json(capsys, "--parameterization", "ntk", "--optimizer", "momentum")["layers"]
    assert [layer["c"] for layer in layers] == [layer["c"] for layer in momentum]
    assert [layer["epsilon"] for layer in layers] == ["0", "0", "0"]


def test_gauge_zero_shows_mup_as_sp_with_a_smaller_readout(capsys: Capture) -> None:
    layers = as_json(capsys, "--parameterization", "mup", "--gauge", "0")["layers"]
    plain = as_json(capsys, "--parameterization", "sp")["layers"]
    assert [layer["c"] for layer in layers] == [layer["c"] for layer in plain]
    assert [(layer["a"], layer["b"]) for layer in layers] == [("0", "0"), ("0", "1/2"), ("0", "1")]


def test_cross_entropy_frees_the_logits(capsys: Capture) -> None:
    """Under prior, omega = 1 pushes SP out of feature learning, unless the logits may diverge.

    See docs/theory.md, section 4.
    """
    strict = as_json(capsys, "--parameterization", "sp", "--alignment", "prior")
    free = as_json(capsys, "--parameterization", "sp", "--alignment", "prior", "--loss", "ce")
    assert strict["feature_learning"] is False and free["feature_learning"] is True
    assert [layer["c"] for layer in free["layers"]] == ["0", "1", "1"]
    assert free["layers"][2]["r"] == "-1/2"


def test_one_global_rate(capsys: Capture) -> None:
    """By hand for SP + Adam + full: the hidden layer asks for c >= 1, the others for less."""
    layers = as_json(capsys, "--global-rate")["layers"]
    assert [layer["c"] for layer in layers] == ["1", "1", "1"]
    assert [layer["r"] for layer in layers] == ["1", "0", "0"]


def test_clipping_by_the_global_norm_leaves_normalised_gradients(capsys: Capture) -> None:
    """By hand, SP: the norm has exponent min(0, -1/2, -1/2) = -1/2, so s = g + 1/2 = (1, 1, 1/2) for SGD."""
    layers = as_json(capsys, "--optimizer", "sgd", "--parameterization", "sp", "--clip-global-norm")["layers"]
    assert [layer["s"] for layer in layers] == ["1", "1", "1/2"]
    assert [layer["c"] for layer in layers] == ["-1", "0", "1/2"]


def test_check_says_what_diverges_and_what_freezes(capsys: Capture) -> None:
    found = as_json(capsys, "check", "--c=0,1/2,1")
    assert found["stable"] is False
    assert [row["r"] for row in found["rows"]] == ["0", "-1/2", "-1/2"]
    frozen = as_json(capsys, "check", "--c=1,2,2")
    assert [row["r"] for row in frozen["rows"]] == ["1", "1", "1"]
    assert all("freezes" in row["verdict"] for row in frozen["rows"])
    assert as_json(capsys, "check", "--c=0,1,1")["summary"] == "stable; learns features"


def test_check_counts_the_gradients_that_a_large_readout_rate_leaves(capsys: Capture) -> None:
    """By hand, SGD + muP with c = (0, 0, -1/2): the readout outgrows its weights by n^(1/2), so r_1 = -1/2."""
    rows = as_json(capsys, "check", "--c=0,0,-1/2", "--optimizer", "sgd", "--parameterization", "mup")["rows"]
    assert rows[0]["r"] == "-1/2"


@pytest.mark.parametrize(("scheme", "exponents"), [("sp", ["1/2", "1/2", "0"]), ("ntk", ["1/2", "1", "1/2"])])
def test_epsilon_bites_where_the_gradient_meets_it(scheme: str, exponents: list[str], capsys: Capture) -> None:
    """n = n0 (G/eps)^(1/g): with G/eps = 1000, 256 x 10^6 at g = 1/2 and 256 x 10^3 at g = 1."""
    options = ["--value", "1e-8", "--base-width", "256", "--gradient-rms", "1e-5", "--parameterization", scheme]
    rows = as_json(capsys, "epsilon", *options)["rows"]
    assert [row["exponent"] for row in rows] == exponents
    widths = {"1/2": 256e6, "1": 256e3, "0": None}
    assert [row["width"] for row in rows] == [pytest.approx(widths[row["exponent"]]) for row in rows]


def test_epsilon_of_a_rule_that_adds_it_to_a_norm_needs_the_fixed_dimension(capsys: Capture) -> None:
    options = ["epsilon", "--value", "1e-3", "--base-width", "100", "--gradient-rms", "1e-2", "--optimizer", "muon"]
    code, _, err = derive(capsys, *options)
    assert code == 2 and "--fixed-fan" in err
    rows = as_json(capsys, *options, "--fixed-fan", "4")["rows"]
    assert [row["size_at_base"] for row in rows] == pytest.approx([0.2, 1.0, 0.2])


def test_measured_alignments_are_read_exactly_with_their_spread(tmp_path: Path, capsys: Capture) -> None:
    path = write_measurement(tmp_path, alpha=("0.9", "0.8", "1.02"))
    answer = as_json(capsys, "--alignment", f"measured:{path}")
    assert [layer["layer"] for layer in answer["layers"]] == ["embedding", "hidden.0", "hidden.1", "readout"]
    hidden = answer["layers"][1]
    assert (hidden["alpha"], hidden["omega"], hidden["u"]) == ("9/10", "1/2", "3/5")
    assert hidden["c"] == "9/10"
    assert (hidden["c_low"], hidden["c_high"]) == ("4/5", "1")
    assert any("above 1" in note for note in answer["notes"])


def test_a_failed_measurement_is_not_replaced(tmp_path: Path, capsys: Capture) -> None:
    path = write_measurement(tmp_path, alpha=("NaN", "NaN", "NaN"))
    code, out, err = derive(capsys, "--alignment", f"measured:{path}")
    assert (code, out) == (2, "")
    assert "no measured alpha for 'hidden.0'" in err


def write_measurement(folder: Path, alpha: tuple[str, str, str]) -> Path:
    rows = []
    for layer in ("hidden.0", "hidden.1", "readout"):
        for quantity, (best, low, high) in {"alpha": alpha, "omega": ("0.5",) * 3, "u": ("0.6",) * 3}.items():
            rows.append(
                f'{{"layer": "{layer}", "step": 1, "quantity": "{quantity}", "predicted": "1", '
                f'"measured": {best}, "low": {low}, "high": {high}, "holds": true}}'
            )
    path = folder / "measured.json"
    path.write_text('{"schema": 1, "command": "exponents", "device": "cpu", "rows": [' + ", ".join(rows) + "]}")
    return path


def test_depth_is_pointed_out_where_it_matters(capsys: Capture) -> None:
    assert as_json(capsys)["notes"] == []
    notes = as_json(capsys, "--alignment", "hidden.omega=3/4")["notes"]
    assert len(notes) == 1 and "--layers" in notes[0]
    rates = [layer["c"] for layer in as_json(capsys, "--alignment", "hidden.omega=3/4", "--layers", "3")["layers"]]
    assert rates == ["3/4", "3/2", "5/4", "1", "1"]


MARKER = Path("derive-was-fooled")
BAD = [
    (["--optimizer", "adm"], "did you mean adam?"),
    (["--parameterization", "mupp"], "did you mean mup?"),
    (["--alignment", "ful"], "did you mean full?"),
    (["--loss", "l2"], "allowed: mse, ce"),
    (["--format", "yaml"], "allowed: table"),
    (["--a=0,0,0", "--b=0,0,1"], "hidden a+b = 0"),
    (["--a=0,0,0"], "--a and --b belong together"),
    (["--a=0,0", "--b=0,0,1"], "give three"),
    (["--alignment", "alpha=1.5"], "above 1"),
    (["--alignment", "readout.omega=1/0"], "divides by zero"),
    (["--alignment", "alpha=nan"], "not a number"),
    (["--alignment", "embedding.alpha=1"], "the embedding has no alignment"),
    (["--alignment", "hidden.7.alpha=1"], "give --layers 8"),
    (["--alignment", f"alpha=__import__('os').system('touch {MARKER}')"], "not allowed"),
    (["--alignment", "measured:/no/such/file.json"], "cannot read"),
    (["--update", f"__import__('os').system('touch {MARKER}')"], "not allowed"),
    (["--update", "g.__class__"], "not allowed"),
    (["--update", "[g for g in g]"], "not allowed"),
    (["--update", "lambda: g"], "not allowed"),
    (["--update", "g" + "+g" * 50_000], "too long"),
    (["--update", "(" * 900 + "g" + ")" * 900], "cannot be read"),
    (["--update", "g**10**10"], "not a power"),
    (["--update", "g**m"], "not a power"),
    (["--update", "g/0"], "divides by zero"),
    (["--update", "exp(g)"], "unknown function"),
    (["--update", "sqrt(g, g, g)"], "arguments"),
    (["--update", "norm(g)"], "not a matrix"),
    (["--update", "sigma*g"], "sigma outside"),
    (["--update", "g/eps"], "adds eps to nothing"),
    (["--update", "m/(sqrt(v)+eps)+g/(norm(g)+eps)"], "adds eps to different things"),
    (["--update", "g+1"], "no degree in the gradient"),
    (["--update", "w"], "no gradient in it"),
    (["--update", "polar(m)+0.1*w"], "every term must scale alike"),
    (["--optimizer", "adam,hidden=muon,hidden=sgd"], "twice"),
    (["--optimizer", ""], "unknown optimizer"),
    (["--parameterization", ""], "unknown parameterization"),
    (["--alignment", "measured:"], "names no file"),
    (["--alignment", "alpha=n"], "not a number"),
    (["--a=0,0,z", "--b=0,1/2,1/2"], "allowed is 1/2 or more"),
    (["--layers", "61", "--alignment", "alpha=x,u=y,omega=z"], "up to 60"),
    (["--base-width", "256", "--width", "4096", "--base-rate", "1e308", "--optimizer", "sgd"], "within range"),
    (["--update", "g-g"], "not a matrix"),
    (["--update", "g", "--optimizer", "adam"], "both given"),
    (["--optimizer", "hidden=muon"], "leaves embedding, readout"),
    (["--optimizer", "middle=muon"], "unknown layer kind"),
    (["--width", "0", "--base-width", "64"], "not a width"),
    (["--width", "64"], "belong together"),
    (
        ["--base-width", "4096", "--width", "256"],
        "--width 256 is below --base-width 4096, where the rate was tuned; swap them",
    ),
    (["--base-rate", "1"], "give the widths"),
    (["--width", "64", "--base-width", "64", "--base-rate", "nan"], "finite number above 0"),
    (["--layers", "-1"], "give a number from 0"),
    (["--layers", "two"], "not a valid int"),
    (["--layers", "99999999999"], "give a number from 0"),
    (["--gauge", "x"], "not a number"),
    (["--explain", "--format", "csv"], "not offered"),
    (["--optimizer", "kfac", "--format", "optax"], "no optax constructor"),
    (["--alignment", "alpha=x,u=x", "--format", "python"], "symbols"),
    (["--no-such-option"], "No such option"),
    (["no-such-command"], "No such command"),
    (["--optimizer", "sgd", "table"], "stand after the sub-command"),
    (["check", "--c=0,1"], "entries"),
    (["check", "--c=0,1,zebra crossing"], "cannot be read"),
    (["equivalent", "sp", "np"], "unknown parameterization"),
    (["epsilon", "--value", "0", "--base-width", "1", "--gradient-rms", "1"], "above 0"),
    (["epsilon", "--value", "1", "--base-width", "1", "--gradient-rms", "one"], "not a number"),
    (["epsilon", "--value", "1", "--base-width", "1", "--gradient-rms", "1", "--optimizer", "lion"], "has no epsilon"),
    (["list", "everything"], "unknown list"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a)[:40] for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["derive", *arguments])
    code, out, err = derive(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("derive: ")
    assert message in err
    assert not MARKER.exists()


OPTIONS = [
    "--optimizer",
    "--update",
    "--parameterization",
    "--a",
    "--b",
    "--gauge",
    "--alignment",
    "--layers",
    "--loss",
]
OPTIONS += ["--epsilon", "--decay", "--base-width", "--width", "--base-rate", "--format", "--c"]
WORDS = [
    "adam",
    "hidden=muon",
    "sp",
    "full",
    "alpha=",
    "1/2",
    "0,0,1",
    "x",
    "m/(sqrt(v)+eps)",
    "spectral(g,sigma)",
    "()",
]
WORDS += [
    "__import__('os')",
    "1e9",
    "0x10",
    "\\",
    "\x00",
    "½",
    "--",
    "-",
    "=",
    ",",
    "table",
    "check",
    "list",
    "8",
    "nan",
]
arguments = st.lists(
    st.one_of(
        st.sampled_from(OPTIONS + WORDS),
        st.text(max_size=12),
        st.tuples(st.sampled_from(OPTIONS), st.sampled_from(WORDS)).map("=".join),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(arguments)
def test_no_argument_string_makes_a_traceback(words: list[str]) -> None:
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(lambda: app(words, standalone_mode=False), "derive")
    assert code in (0, 2)
    assert "Traceback" not in err.getvalue()
    if code == 2:
        assert err.getvalue().count("\n") == 1


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "derive", *arguments], check=False, text=True, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device to write to")
def test_an_unwritable_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = process("list", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "cannot write the output" in done.stderr


def test_a_closed_pipe_is_silent() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = process("list", stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert done.stderr == ""


def test_derive_imports_no_array_library() -> None:
    code = (
        "import sys\nfrom derive.cli import app\napp(['--explain'], standalone_mode=False)\n"
        "bad = {'numpy', 'jax', 'optax', 'matplotlib', 'verify'} & set(sys.modules)\nassert not bad, bad\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("command", [[], ["table"], ["constraints"], ["equivalent"], ["check"], ["epsilon"], ["list"]])
def test_help_shows_examples_or_options(command: list[str], capsys: Capture) -> None:
    code, out, _ = derive(capsys, *command, "--help")
    assert code == 0
    assert ("Examples" in out) if not command else ("Usage" in out)
