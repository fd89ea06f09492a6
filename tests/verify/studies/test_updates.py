"""`verify updates` and matrix rules in `verify exponents`: what is judged for which rule, and that it can fail."""

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from derive.registry import REGISTRY
from derive.running import run
from derive.solve import prescribe, solve_kinds
from verify.commands.main import app
from verify.fit.forward import RANK
from verify.fit.judging import TOLERANCES
from verify.provenance import Made
from verify.studies.exponents.study import Result, exponents
from verify.studies.study import Part, StudyError
from verify.studies.updates import study as module
from verify.studies.updates.conditions import Conditions, Updates
from verify.studies.updates.results import UPDATES, Row, explained, paired, rows
from verify.studies.updates.study import train
from verify.training.config import Config
from verify.training.data import Corpus, load_corpus
from verify.training.networks import loss
from verify.training.rules.orthogonal import polar

Capture = pytest.CaptureFixture[str]
WIDTHS = (64, 256)
MIXTURE = "adam,hidden=muon"
MADE = Made("code", "cpu", "2025-01-01", "0.10")


@cache
def corpus() -> Corpus:
    return load_corpus(vocabulary=16)


def conditions(optimizer: str, **changes: Any) -> Conditions:
    shared = {"widths": WIDTHS, "seeds": 3, "steps": 1, "base_width": 64, "batch": 128, "context": 4}
    named = f"{corpus().name} {corpus().fingerprint}"
    return Conditions.of(optimizer, "sp", **{**shared, "hidden_layers": 1, "corpus": named, **changes})


def shared(conditions: Conditions) -> dict[str, Any]:
    own = ("optimizer", "parameterization", "base_rate", "epsilon")
    return {name: value for name, value in vars(conditions).items() if name not in own}


@cache
def result(optimizer: str) -> Result:
    found: list[Result] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "exponents", lambda *arguments: found.append(exponents(*arguments)) or found[0])
        train(conditions(optimizer), corpus())
    return found[0]


def study(optimizer: str) -> Updates:
    return module.kept(result(optimizer))


def judged(optimizer: str) -> dict[tuple[str, str], Row]:
    return {(row.layer, row.quantity): row for row in rows(conditions(optimizer), study(optimizer))}


def test_matrix_rules_are_those_of_theory() -> None:
    """The last row of docs/theory.md, section 3, custom rules included."""
    named = {row.name for row in REGISTRY if row.is_matrix_rule}
    assert named == {
        *("muon", "muon-keller", "muon-rms", "shampoo", "kfac", "normalised-sgd"),
        *("soap", "soap-left", "soap-right", "galore"),
        *("scion", "normuon", "adamuon", "dion", "polargrad", "grafted-shampoo", "muon-hyperball"),
        "mars",  # its gradient is clipped by its norm
    }
    assert {row.name for row in REGISTRY if row.is_spectral} == named - {"normalised-sgd", "mars"}


@pytest.mark.slow
def test_muons_operator_norm_and_gain_hold() -> None:
    found = judged("muon")
    assert set(found) == {
        ("embedding", "s"),
        *((layer, exponent) for layer in ("hidden.0", "readout") for exponent in ("p", "alpha - s")),
        ("embedding", "p"),
    }
    assert {row.verdict for row in found.values()} == {"holds"}, found
    expected = {"embedding": {"s": 0.5, "p": 0.0}, "readout": {"p": 0.0, "alpha - s": 0.5}}
    for (layer, exponent), row in found.items():
        predicted = expected.get(layer, {"p": 0.0, "alpha - s": 0.0})[exponent]
        assert float(row.predicted) == predicted
        assert row.measured.value == pytest.approx(predicted, abs=0.1)


def test_each_layer_has_the_quantities_of_its_own_rule() -> None:
    found = judged(MIXTURE)
    assert {layer for layer, exponent in found if exponent == "s"} == {"embedding", "readout"}
    assert {layer for layer, exponent in found if exponent == "p"} == {"hidden.0"}
    assert all(row.verdict == "holds" for row in found.values())
    assert all(abs(found[layer, "s"].measured.value) < 0.02 for layer in ("embedding", "readout"))
    sizes = study(MIXTURE).sizes[1]
    assert {name for name, of in sizes.items() if "operator_norm" in of} == {"hidden.0"}


def test_the_rate_is_taken_out() -> None:
    """Adam's readout rate falls as 1/n and its update's entries do not."""
    sizes = study(MIXTURE).sizes[1]["readout"]["delta_w"]
    assert np.polyfit(np.log(WIDTHS), np.log(sizes.mean(axis=1)), 1)[0] == pytest.approx(-1, abs=0.02)
    assert judged(MIXTURE)["readout", "s"].measured.value == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("pretended", "kind"), [("muon-rms", "hidden"), ("muon-keller", "embedding")])
def test_a_wrong_p_is_seen_to_fail(pretended: str, kind: str) -> None:
    """Muon's networks, trained at Muon's own rates, judged as if p were larger by 1/2."""
    muon, rates = study("muon"), conditions("muon").prescription()
    other = solve_kinds(prescribe(pretended, "sp").problem)
    layers = (replace(one, c=own.c) for one, own in zip(other.layers, rates.layers, strict=True))
    wrong = replace(other, layers=tuple(layers))

    class Pretended(Conditions):
        def prescription(self) -> Any:
            return wrong

    found = rows(Pretended(**asdict(conditions("muon"))), muon)
    judged = {(str(row.predicted), row.verdict) for row in found if row.kind == kind and row.quantity == "p"}
    assert judged == {("1/2", "fails")}


def test_a_wide_interval_excuses_no_slope() -> None:
    """Slopes of 0.02, 0.08 and 0.14 are 0.08 on average; their interval contains 0, which is further off than 0.05."""
    widths = np.array(WIDTHS, dtype=float)[:, None]
    rate = widths**-1.0  # Adam's, on the readout
    for slopes, verdict in (([0.02, 0.08, 0.14], "fails"), ([-0.03, 0.03, 0.09], "holds")):
        sizes = {1: {"readout": {"delta_w": rate * widths ** -np.array(slopes)}}}
        (row,) = rows(conditions("adam"), Updates({"readout": "readout"}, (), sizes))
        assert row.measured.low < 0 < row.measured.high
        assert (row.measured.value, row.verdict) == (pytest.approx(np.mean(slopes)), verdict)


def test_exponents_judges_muon_by_what_its_rank_does_not_change() -> None:
    found = {(row.layer, row.quantity): row for row in result("muon").rows}
    for layer in ("hidden.0", "readout"):
        for quantity in ("delta_w", "alpha", "u"):
            assert (found[layer, quantity].verdict, found[layer, quantity].reason) == ("open", RANK)
        for quantity in ("operator_norm", "gain"):
            assert found[layer, quantity].verdict == "holds", found[layer, quantity]
        assert found[layer, "omega"].verdict != "open"
    assert found["embedding", "delta_w"].verdict == "holds"
    assert ("embedding", "gain") not in found
    # 128 examples and up to 256 units: the change of the output is implied by the measured sizes, not by full rank.
    for layer in ("hidden.0", "readout"):
        row = found[layer, "delta_z"]
        assert row.implied is not None and row.measured.value == pytest.approx(row.implied, abs=0.15)


def signs_of_the_polar_factor(width: int, batch: int) -> float:
    """||sign(polar(G))||_op of a gradient of that many examples: AdaMuon's first update but for a factor."""
    generator = np.random.default_rng(width)
    gradient = generator.normal(size=(width, batch)) @ generator.normal(size=(batch, width))
    left, sigma, right = np.linalg.svd(gradient)
    kept = sigma > 1e-9 * sigma[0]
    return float(np.linalg.norm(np.sign(left[:, kept] @ right[kept]), 2))


def test_the_rank_is_known_where_the_batch_is_small_beside_the_width() -> None:
    """AdaMuon's p is 1 at rank one and 1/2 at full rank: at a batch of the smallest width's size it is neither."""
    slopes = {}
    for batch, rank in ((8, 0), (9, None), (64, None), (4096, None)):
        assert conditions("adamuon", batch=batch).rank == rank
    for batch in (8, 64):
        ends = [signs_of_the_polar_factor(width, batch) for width in (WIDTHS[0], WIDTHS[-1])]
        slopes[batch] = np.log(ends[1] / ends[0]) / np.log(WIDTHS[-1] / WIDTHS[0])
    assert slopes[8] == pytest.approx(1, abs=TOLERANCES["operator_norm"])
    assert 0.5 + TOLERANCES["operator_norm"] < slopes[64] < 1 - TOLERANCES["operator_norm"]


def lifted_rank(width: int, batch: int) -> float:
    """How many singular values of a hidden layer's first gradient the polar factor of Muon has: ||polar(G)||_F^2."""
    sizes = {"context": 4, "hidden_layers": 1, "vocabulary": 16}
    model = Config(conditions("muon").prescription(), WIDTHS[0], 1.0, sizes=sizes).at(width)
    inputs, targets = map(jnp.asarray, corpus().batch("train", batch, 4, 0, 0))
    gradients = jax.grad(lambda params: loss(model.apply(params, inputs), targets))(model.init(jax.random.key(0)))
    (gradient,) = (leaf for leaf in jax.tree.leaves(gradients) if leaf.shape == (width, width))
    return float(jnp.sum(polar(gradient, 1e-8) ** 2))


@pytest.mark.slow
def test_a_batch_larger_than_the_width_is_no_full_rank() -> None:
    """Neither does the rank follow the width, nor do eight times as many examples raise it: docs/findings.md."""
    ranks = {(width, batch): lifted_rank(width, batch) for width in (128, 256) for batch in (16, 256, 2048)}
    assert ranks[128, 16] == pytest.approx(ranks[256, 16], rel=0.2)
    assert [ranks[128, 2048], ranks[256, 2048]] == pytest.approx([84, 116], rel=0.1)
    assert ranks[256, 2048] < 1.1 * ranks[256, 256]


def test_a_stored_study_is_read_and_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "muon.json"
    UPDATES.write(path, conditions("muon"), Part(study("muon"), MADE))
    again = UPDATES.read(path, conditions("muon"))
    shown = (rows(conditions("muon"), each) for each in (again.found, study("muon")))
    for one, other in zip(*shown, strict=True):
        assert (one.key, one.step, one.verdict, one.predicted) == (
            other.key,
            other.step,
            other.verdict,
            other.predicted,
        )
        assert one.measured.value == pytest.approx(other.measured.value, abs=1e-5)
    assert again.made == MADE
    with pytest.raises(StudyError, match=r"made with seeds: 3, not 5; steps: 1, not 7; give another --out"):
        UPDATES.read(path, conditions("muon", seeds=5, steps=7))
    with pytest.raises(StudyError, match=r"base_rate: 0\.05, not 0\.1"):
        UPDATES.read(path, replace(conditions("muon"), base_rate=0.1))
    path.write_text('{"conditions": 3}')
    with pytest.raises(StudyError, match="is damaged or not of verify updates"):
        UPDATES.read(path, conditions("muon"))


def test_what_diverged_is_stored_as_null(tmp_path: Path) -> None:
    sizes = {1: {"readout": {"delta_w": np.array([[1.0, np.nan], [2.0, 3.0]])}}}
    lost = replace(study("muon"), sizes=sizes, diverged=("width 64, seed 1",))
    UPDATES.write(tmp_path / "muon.json", conditions("muon"), Part(lost, MADE))
    again = UPDATES.read(tmp_path / "muon.json", conditions("muon")).found
    assert np.array_equal(again.sizes[1]["readout"]["delta_w"], sizes[1]["readout"]["delta_w"], equal_nan=True)
    assert again.diverged == lost.diverged


def test_noted_reasons_are_shown_with_what_fails(tmp_path: Path) -> None:
    held, *others = rows(conditions("muon"), study("muon"))
    failed = [replace(row, verdict="fails", reason="curved") for row in others]
    found = [held, *failed]
    assert explained(found, tmp_path) == found
    noted = 'optimizer,layer,quantity,step,reason\nmuon,hidden.*,p,1,"few, really"\nmuon*,*,p,*,many\nadam,*,*,*,none\n'
    (tmp_path / "reasons.csv").write_text(noted)
    after = explained(found, tmp_path)
    assert after[0] == held
    expected = {("hidden.0", "p"): "few, really", ("embedding", "p"): "many", ("readout", "p"): "many"}
    for row in after[1:]:
        assert row.reason == expected.get((row.layer, row.quantity), "curved")
    (tmp_path / "reasons.csv").write_text("optimizer,why\nmuon,none\n")
    with pytest.raises(StudyError, match="optimizer,layer,quantity,step,reason"):
        explained(found, tmp_path)


SMALL = ["--widths", "32,64", "--context", "2", "--depth", "1", "--seeds", "2", "--steps", "2", "--batch", "32"]


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(["updates", *arguments], standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_goes_on_with_its_folder(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*SMALL, "--out", str(tmp_path)]
    code, out, err = verify(capsys, "--optimizer", "sgd", *arguments, "--format", "json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content == json.loads((tmp_path / "updates.json").read_text())
    assert (content["schema"], content["command"], content["parameterization"]) == (1, "updates", "SP")
    assert corpus().fingerprint in content["corpus"]
    assert {"optimizer", "code", "base_rate", "epsilon", "device", "date"} == content["optimizers"][0].keys() - {
        "diverged"
    }
    keys = {"optimizer", "layer", "step", "quantity", "predicted", "measured", "low", "high", "holds"}
    assert keys <= content["rows"][0].keys()
    assert [row["step"] for row in content["rows"]] == [1] * 3 + [2] * 3

    trained: list[Any] = []

    def fake(conditions: Conditions, *_: Any) -> Updates:
        trained.append(conditions.optimizer)
        return UPDATES.read(tmp_path / "sgd.json", Conditions.of("sgd", "sp", **shared(conditions))).found

    monkeypatch.setattr(module, "train", fake)
    code, out, err = verify(capsys, "--optimizer", "sgd,momentum", *arguments)
    assert (code, err, trained) == (0, "", ["momentum"])
    assert out.count("\n sgd ") == out.count("\n momentum ") == 3
    assert "step 1: s" in out and "step 2: s" in out
    monkeypatch.undo()
    code, out, err = verify(capsys, "--optimizer", "sgd", *arguments, "--context", "4")
    assert (code, out) == (2, "") and err.count("\n") == 2
    note, error = err.splitlines()
    assert note.startswith("note: the embedding has 64 rows and the smallest width is 32")
    assert "'sgd.json' in --out was made with context: 2, not 4" in error


def test_both_steps_stand_in_one_row() -> None:
    first = rows(conditions(MIXTURE), study(MIXTURE))
    later = [replace(row, step=10) for row in first]
    assert list(paired([*first, *later])) == list(zip(first, later, strict=True))
    assert list(paired(first)) == [(row, row) for row in first]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "kfac"], "unknown trainable optimizer"),
        (["--optimizer", "adm"], "did you mean adam?"),
        (["--parameterization", "xyz"], "unknown parameterization"),
        (["--widths", "64"], "at least two"),
        (["--context", "0"], "above 0"),
        (["--vocab", "17"], "16 half bytes"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    code, out, err = verify(capsys, *SMALL, "--out", str(tmp_path / "new"), *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("verify: ")
    assert message in err
    assert not (tmp_path / "new").exists()
