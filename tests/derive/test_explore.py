"""The page to play with says in a browser what the engine says, and everybody can use it."""

import json
import random
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from sympy import Rational

from derive import explore
from derive.alignments import alignment
from derive.cli import app
from derive.emit_javascript import as_javascript
from derive.errors import DeriveError
from derive.explore import KEYS, SYMBOLS, entries, page
from derive.parameterizations import parameterization
from derive.propagation import Problem
from derive.running import run
from derive.scale import Scale
from derive.solve import Prescription, prescribe, solve_kinds
from derive.tables import checked_rates
from tests.helpers.browser import needs_browser, run_in_page
from verify.commands.main import app as verify_app

FEW = ("sgd", "adam", "adafactor", "polargrad", "prodigy", "mars", "adamuon", "adamw,hidden=muon", "g*sqrt(rms(w))")
SCHEMES = ("SP", "NTK", "muP", "MFP")
ONE_AT_A_TIME = """
const cells = id => [...byId(id).tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent));
const said = id => byId(id).textContent;
return SETTINGS.map(given => {
  for (const [id, value] of Object.entries(given)) byId(id).value = value;
  byId("apart").checked = true;
  byId("optimizer").dispatchEvent(new Event("input"));
  const {c, r, e, e2, decay, binding} = answer(settings());
  const texts = {notes: said("notes"), own: said("own"), verdict: said("verdict"), words: said("binding")};
  return {c, r, e, e2, decay, binding, table: cells("exponents"), numbers: cells("numbers"), ...texts};
});
"""


def drawn(count: int, names: list[str], generator: random.Random) -> list[dict[str, Any]]:
    """Settings by the controls' ids; sliders stand on their steps of 1/20, half of them where many constraints tie."""

    def ratio() -> str:
        return str(generator.choice((generator.randrange(21) / 20, generator.choice((0.5, 1.0)))))

    def beside() -> str:
        return str(generator.randrange(-20, 21) / 20)

    return [
        {
            "optimizer": names[at % len(names)],
            "scheme": generator.choice(SCHEMES),
            "loss": generator.choice(("mse", "ce")),
            **{symbol: ratio() for symbol in SYMBOLS},
            "c_h": beside(),
            "c_r": beside(),
            "c_e": str(generator.randrange(21) / 20),
        }
        for at in range(count)
    ]


def asked(given: dict[str, Any], rows: Any) -> Problem:
    """The engine's question for the page's setting."""
    assumed = ",".join(f"{key}={given[symbol]}" for key, symbol in zip(KEYS, SYMBOLS, strict=True))
    return Problem(rows, parameterization(given["scheme"]), alignment(assumed), loss=given["loss"])


def near(values: Any, exact: Any) -> bool:
    pairs = zip(values, exact, strict=True)
    return all(one == other if None in (one, other) else abs(one - float(other)) < 1e-9 for one, other in pairs)


def read(text: str) -> float | None:
    return None if text == "\N{EN DASH}" else float(Fraction(text.replace("−", "-")))


def compare(given: dict[str, Any], told: dict[str, Any], problem: Problem) -> None:
    answer = solve_kinds(problem)
    assert near(told["c"], answer.c), given
    assert near(told["e"], [layer.epsilon for layer in answer.layers]), given
    assert near(told["e2"], [layer.epsilon2 for layer in answer.layers]), given
    assert any(each is not None for each in told["e2"]) == ("eps2" in told["notes"]), given
    assert near(told["decay"], [layer.decay for layer in answer.layers]), given
    assert [tuple(each) for each in told["binding"]] == [layer.binding for layer in answer.layers], given
    shown = [[read(cell) for cell in row[1:4]] for row in told["table"]]
    assert all(
        row[0] == pytest.approx(float(layer.a)) and row[2] == pytest.approx(float(layer.c), abs=5e-5)
        for row, layer in zip(shown, answer.layers, strict=True)
    ), given
    factors = [16.0 ** -float(layer.c) * 0.003 for layer in answer.layers]
    assert [float(row[2]) for row in told["numbers"]] == pytest.approx(factors, rel=1e-3), given
    if told["r"] is None:
        return
    assert near(told["r"], [layer.r for layer in answer.layers]), given
    learns = "learns" if answer.feature_learning else "lazy" if answer.layers[1].r > 0 else "unstable"
    assert told["verdict"].lower().startswith(learns), given
    compare_notes(told["notes"], answer, given)


def compare_notes(shown: str, answer: Prescription, given: dict[str, Any]) -> None:
    said = " ".join(answer.notes)
    assert "this layer diverges" not in said  # as it may with clipped gradients alone, which the page has not
    for here, there in (
        ("outgrows its weights", "hidden layers outgrows their weights"),
        ("for one hidden layer", "for one hidden layer"),
        ("right for the first step only", "right for the first step only"),
    ):
        assert (here in said) == (there in shown), (given, here)


def compare_own(given: dict[str, Any], told: dict[str, Any], problem: Problem) -> None:
    """The regime at rates of one's own, as `derive check` judges them."""
    if told["own"].startswith("No plane"):
        assert told["r"] is None or given["loss"] == "mse"
        return
    best = solve_kinds(problem).c
    rates = [c + Rational(given[each]) for c, each in zip(best, ("c_e", "c_h", "c_r"), strict=True)]
    if len(set(rates)) == 1:  # which `derive check` reads as one rate for all, by whose rule no rate is judged here
        return
    verdict = json.loads(checked_rates(problem, rates, "json", listed=False))
    learns = "learns features" in verdict["summary"] and "not" not in verdict["summary"]
    expected = "unstable" if not verdict["stable"] else "learns features" if learns else "lazy"
    assert re.search(r": (unstable|learns features|lazy)\.", told["own"])[1] == expected, (given, told["own"], verdict)  # type: ignore[index]


@needs_browser
@pytest.mark.parametrize(
    ("names", "count"), [(FEW, 16), pytest.param(explore.ALL, 500, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_random_settings_say_what_the_engine_says(names: tuple[str, ...], count: int, tmp_path: Path) -> None:
    """Set by the page's own controls: rates, what fixes them, changes, regime, notes, numbers; one browser."""
    offered = entries(names)
    settings = drawn(count, list(offered), random.Random(7))
    told = run_in_page(page(names), f"const SETTINGS = {json.dumps(settings)}; {ONE_AT_A_TIME}", tmp_path)
    assert len(told) == count
    for given, each in zip(settings, told, strict=True):
        problem = asked(given, offered[given["optimizer"]])
        compare(given, each, problem)
        compare_own(given, each, problem)


USABLE = """
const light = (r, g, b) => [r, g, b].map(x => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
  .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
const channels = colour => colour.match(/[0-9.]+/g).map(Number);
const behind = each => {
  for (; each; each = each.parentElement) {
    const found = channels(getComputedStyle(each).backgroundColor);
    if (found.length < 4 || found[3] > 0) return found;
  }
};
const ratio = (one, other) => {
  const [low, high] = [light(...one), light(...other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const contrasts = () => [...document.querySelectorAll("body *")].filter(each => each.id !== "told" &&
  [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()) && each.getClientRects().length)
  .map(each => [each.tagName, each.id, ratio(channels(getComputedStyle(each).color), behind(each))]);
const style = each => getComputedStyle(each), found = {};
byId("apart").checked = true;
document.querySelector("details").open = true;
for (const scheme of ["light", "dark"]) {
  document.documentElement.style.colorScheme = scheme;
  update();
  found[scheme] = contrasts();
  const ink = channels(style(byId("plane")).color);
  found[scheme].push(["axes", "plane", ratio(ink, behind(byId("plane")))]);
}
const controls = [...document.querySelectorAll("select, input, button, summary, [tabindex]")];
const without = good => controls.filter(each => !good(each)).map(each => each.id || each.tagName);
const focused = each => { each.focus({focusVisible: true}); return document.activeElement === each; };
found.unnamed = without(each => each.labels?.length || each.textContent.trim() || each.ariaLabel);
found.unreached = without(focused);
found.unmarked = without(each => focused(each) && style(each).outlineStyle !== "none");
found.unordered = without(each => each.tabIndex === 0);
found.wide = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
found.loaded = performance.getEntriesByType("resource").map(each => each.name).filter(name => !/^data:/.test(name));
return found;
"""


@needs_browser
@pytest.mark.parametrize("width", [375, 1400])
def test_everybody_can_use_it(width: int, tmp_path: Path) -> None:
    """Text against what is behind it, 4.5 to 1 in light and dark; named controls in order; no overflow."""
    told = run_in_page(page(("adam", "sgd")), USABLE, tmp_path, width)
    for scheme in ("light", "dark"):
        assert len(told[scheme]) > 60
        assert [each for each in told[scheme] if each[2] < 4.5] == []
    for name in ("unnamed", "unreached", "unmarked", "unordered", "loaded"):
        assert told[name] == [], name
    assert told["wide"][0] <= told["wide"][1]


def test_the_page_is_one_small_file_without_jax(tmp_path: Path) -> None:
    """`verify explore` where nothing of the extra `verify` can be imported."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['jax', 'jaxlib', 'numpy', 'scipy', 'optax', 'matplotlib']));"
        "from verify.commands.main import main; main()"
    )
    command = [sys.executable, "-c", code, "explore", "--optimizer", "sign(m)*rms(w)"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "written to explore.html\n", "")
    text = (tmp_path / "explore.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    assert all(f'"{name}":' in text for name in (*explore.ALL, "sign(m)*rms(w)"))
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|XMLHttpRequest""", text)


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "notes.html"
    kept.write_text("mine")
    assert run(lambda: verify_app(["explore", "--out", str(kept)], standalone_mode=False), "verify") == 2
    assert "is there already" in capsys.readouterr().err and kept.read_text() == "mine"


def test_a_rule_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(DeriveError, match="is not closed"):
        page(("adam,hidden=m/(sqrt(v)+eps",))


@needs_browser
def test_an_emitted_module_answers_for_any_symbols(tmp_path: Path) -> None:
    """`derive --format javascript` at random values of the symbols, one of which is a word of JavaScript."""
    generator, asked_for = random.Random(5), []
    for name, scheme, assumed in (
        ("sgd", "ntk", "alpha={x},u={y}"),
        ("adam", "mup", "omega={x},readout.omega={y}"),
        ("adafactor", "sp", "none,hidden.alpha={x},readout.u={y}"),
        ("lars", "mfp", "alpha=1-{x}*{y}"),
    ):
        with_symbols = prescribe(name, scheme, assumed.format(x="x", y="new"))
        code = as_javascript(with_symbols, Scale(256, 4096, 0.003)).replace("export ", "")
        values = [{"x": generator.randrange(21) / 20, "new": generator.randrange(21) / 20} for _ in range(20)]
        asked_for.append((name, scheme, assumed, code, values))
    script = "return [" + ",".join(
        f"(() => {{ {code} return {json.dumps(values)}.map(at => [exponents(at), scale(4096, 256, 0.003, at)]); }})()"
        for *_, code, values in asked_for
    )
    for (name, scheme, assumed, _, values), told in zip(
        asked_for, run_in_page("<body></body>", script + "]", tmp_path), strict=True
    ):
        for at, (found, scaled) in zip(values, told, strict=True):
            exact = prescribe(name, scheme, assumed.format(x=at["x"], y=at["new"])).layers
            for layer, own in zip(exact, found.values(), strict=True):
                wanted = [layer.a, layer.b, layer.c, layer.decay, layer.r]
                assert near([own[key] for key in ("multiplier", "init", "rate", "decay", "change")], wanted), (name, at)
            rates = [0.003 * 16 ** -float(layer.c) for layer in exact]
            assert [own["rate"] for own in scaled.values()] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--residual", "completep"), "--format javascript is of the width alone"),
        (("--base-batch", "64", "--batch", "128"), "--format javascript is of the width alone"),
    ],
)
def test_what_a_module_has_not_is_refused(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(DeriveError, match=said):
        app([*arguments, "--format", "javascript"], standalone_mode=False)
