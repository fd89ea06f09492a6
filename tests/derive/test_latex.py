"""What is written as LaTeX: formulas as in a paper, tables that fit the page, documents that compile."""

import re
import shlex
from pathlib import Path

import pytest
from sympy import Rational, Symbol

from derive.cli import app
from derive.emit_latex import exponent_latex, extent, fitted, standalone
from derive.explain import formula_latex
from derive.running import run
from tests.helpers.tex import ENGINE, complaints

Capture = pytest.CaptureFixture[str]
WRITTEN = (
    "--explain",
    "--explain --optimizer adam,hidden=muon --parameterization mup",
    "--explain --alignment alpha=x,readout.omega=y",
    "--explain --layers 6 --residual completep --base-depth 4 --depth 32 --base-width 64 --width 128",
    "--explain --update 'm/(√v+ε)' --epsilon constant --loss ce",
    "--explain --global-rate --optimizer soap",
    "--base-width 256 --width 4096 --base-rate 0.003 --optimizer adamw --parameterization mup",
    "--alignment alpha=x,u=y,omega=z",
    "--layers 3 --residual completep --base-batch 8 --batch 64 --base-tokens 100 --tokens 1000",
    "table",
    "table --optimizer adam --optimizer adam,hidden=muon --alignment full",
    "table --axis depth",
    "table --axis batch",
    "constraints",
    "constraints --optimizer adafactor",
)


def written(arguments: str, capsys: Capture) -> str:
    command = [*shlex.split(arguments), "--format", "latex"]
    assert run(lambda: app(command, standalone_mode=False), "derive") == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", WRITTEN)
def test_the_source_is_sound_and_has_no_plain_mathematics(arguments: str, capsys: Capture) -> None:
    text = written(arguments, capsys)
    begun, ended = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert sorted(begun) == sorted(ended)
    assert text.count("{") == text.count("}") and text.count("$") % 2 == 0
    assert r"\frac" not in text and r"\hline" not in text and text.isascii()
    prose = re.sub(r"\$[^$]*\$|\\[a-zA-Z]+", " ", re.sub(r"^%.*", "", text))
    assert not re.search(r"\bDelta|\bd[Wz]\b|\bd loss|\bsqrt|[a-z]_[0-9]|\^", prose), prose
    assert not re.search(r"(?<!\\)\b(?:alpha|omega|eps|Delta|sqrt)\b", text.split("\n", 1)[1])


def test_all_compile_and_nothing_sticks_out(tmp_path: Path, capsys: Capture) -> None:
    body = "\n\\newpage\n".join(written(arguments, capsys) for arguments in WRITTEN)
    assert complaints(standalone(body, "Everything, 100 % of it"), tmp_path / "all.tex") == []


@pytest.mark.skipif(ENGINE is None, reason="there is no TeX engine here")
@pytest.mark.parametrize(
    ("body", "told"), [(r"$\frac{1$", "!"), (r"\noindent\hbox to 400pt{x\hfil y}", "Overfull"), (r"\nosuch", "!")]
)
def test_what_does_not_compile_or_fit_is_noticed(body: str, told: str, tmp_path: Path) -> None:
    assert any(line.startswith(told) for line in complaints(standalone(body), tmp_path / "broken.tex"))


def test_a_document_is_asked_for_with_latex_alone(capsys: Capture) -> None:
    whole = written("--explain --standalone", capsys)
    assert whole.startswith("\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n")
    assert whole.endswith("\\end{document}\n") and r"\partial \mathrm{loss}/\partial z_L = n^{-(a+b)}" in whole
    assert r"$\Delta W z$" in whole and r"\Delta W = \mathrm{rate} \times U" in whole
    assert run(lambda: app(["--standalone"], standalone_mode=False), "derive") == 2
    assert "give --format latex" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        ("t_(l-1) = max(0, t_l - 1/2)", r"t_{l-1} = \max(0, t_l - 1/2)"),
        ("m/(eps + sqrt(v))", r"m/(\epsilon + \sqrt{v})"),
        ("sqrt(sqrt(v) + eps2)", r"\sqrt{\sqrt{v} + \epsilon_2}"),
        ("RMS(Delta z_l) = n^-r_l", r"\mathrm{RMS}(\Delta z_l) = n^{-r_l}"),
        ("log_n fan_in", r"\log_n \mathrm{fan}_{\mathrm{in}}"),
        ("alpha_2 >= -1/2", r"\alpha_{2} \ge -1/2"),
    ],
)
def test_formulas_are_as_in_a_paper(plain: str, latex: str) -> None:
    assert formula_latex(plain) == latex


def test_a_wide_table_is_split_and_keeps_its_keys() -> None:
    columns = ["layer", *(f"a long heading {place}" for place in range(8))]
    text = fitted(columns, [["hidden", *(f"{row}.{place}" for place in range(8))] for row in range(2)])
    assert text.count(r"\begin{tabular}") == 3 and text.count("hidden & ") == 6
    assert all(f"1.{place}" in text for place in range(8))
    assert exponent_latex(Rational(-1, 2)) == "$-1/2$" and extent("$-1/2$") == extent("-1/2")
    assert exponent_latex(Symbol("x") - Rational(1, 2)) == "$x - 1/2$"
