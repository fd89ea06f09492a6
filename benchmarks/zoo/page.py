"""docs/zoo.md: a row for every model, what is refused, what is off and why, and what is wrong today."""

from benchmarks.zoo.answers import Answer, answer, cells
from benchmarks.zoo.measuring import Measured, Row, stored
from benchmarks.zoo.notes import NOTES
from tests.helpers.zoo import FAMILIES, ZOO, Model
from tests.helpers.zoo.model import means

WITHIN = 0.1
QUANTITIES = ("g", "s", "r")
HEAD = ("| model | embedding and vectors | hidden | readout | not trained | multipliers | measured |", f"|{'---|' * 7}")


def reason(name: str, row: Row) -> str:
    """Why a row is off by more than 0.1; nothing where it is not, a question mark where nobody knows."""
    if row.off <= WITHIN:
        return ""
    for pattern, why in NOTES.get(name, {}).items():
        quantity, _, paths = pattern.partition(" ")
        if row.quantity in quantity.split(",") and any(means(path, row.name) for path in paths.split()):
            return why
    if row.off <= row.half:
        return "scatter: its interval holds what is said"
    if row.expected is not None and (why := of_change(row, row.expected)):
        return why
    if abs(row.upper - row.said) <= WITHIN:
        return "a small width's correction: within 0.1 between the two larger widths"
    return "?"


def of_change(row: Row, expected: float) -> str:
    """Why a change goes otherwise: a mixture of terms, an alignment that is not as assumed, or what enters."""
    low, high = sorted((row.said, expected))
    if low - WITHIN <= row.measured <= high + WITHIN:
        return "a mixture of its terms, of which another than the one that rules at great widths is large at these"
    shift = {
        each: each.share * (each.measured - each.said) * (1 if each.what == "input" else -1) for each in row.causes
    }
    if not shift or abs(row.measured - expected - sum(shift.values())) > WITHIN:
        return ""
    main = max(shift, key=lambda each: abs(shift[each]))
    if main.what == "input":
        return "what enters it changes otherwise, by a row above it"
    more = "more" if main.measured > main.said else "less"
    return f"{main.what} aligns {more} than is assumed: the step that is measured, not said (docs/judging.md)"


def seen(measured: Measured | None) -> str:
    """How many rows of each quantity are within 0.1 of what is said."""
    if measured is None:
        return "-"
    parts = []
    for quantity in QUANTITIES:
        rows = [row for row in measured.rows if row.quantity == quantity]
        parts.append(f"{quantity} {sum(row.off <= WITHIN for row in rows)} of {len(rows)}")
    return ", ".join(parts)


def line(name: str, model: Model, given: Answer, measured: Measured | None) -> str:
    """The row of one model."""
    title = f"**{name}**: {model.about}"
    if given.refusal:
        return f"| {title} | refused: {literal(given.refusal)} | | | | | - |"
    return f"| {title} | {literal(' | '.join(cells(given)))} | {seen(measured)} |"


def literal(text: str) -> str:
    """Markdown in which a * is one: two of them would set what is between in italics."""
    return text.replace("*", r"\*")


def off(found: dict[str, Measured]) -> list[str]:
    """The rows that are off, of one model and one reason together."""
    lines = []
    for name, each in found.items():
        by_reason: dict[str, list[Row]] = {}
        for row in each.rows:
            if why := reason(name, row):
                by_reason.setdefault(why, []).append(row)
        for why, rows in by_reason.items():
            texts = [
                f"{row.quantity} {row.name} {row.measured:+.2f} ± {row.half:.2f} for {row.said:+.2f}" for row in rows
            ]
            lines.append(f"| {name} | {literal('<br>'.join(texts))} | {literal(why)} |")
    return lines


def wrong() -> list[str]:
    """What differs from what is right by hand."""
    return [f"- {name}, `{names}`: {why}" for name, model in ZOO.items() for names, why in model.wrong.items()]


def page() -> str:
    """All of it."""
    found = {name: each for name in ZOO if (each := stored().get(name))}
    rows = [row for each in found.values() for row in each.rows]
    lines = [START.format(models=len(ZOO), refused=sum(bool(model.refused) for model in ZOO.values()))]
    for family, models in FAMILIES.items():
        lines += [f"## {family}", "", *HEAD]
        lines += [*(line(name, model, answer(model), found.get(name)) for name, model in models.items()), ""]
    lines += ["## What is known", "", *wrong(), *KNOWN, "", "## Off by more than 0.1", "", counts(rows), ""]
    lines += ["| model | measured for said | why |", "|---|---|---|", *off(found)]
    return "\n".join(lines) + "\n"


def counts(rows: list[Row]) -> str:
    """How many rows there are and how many are off."""
    parts = []
    for quantity in QUANTITIES:
        those = [row for row in rows if row.quantity == quantity]
        parts.append(f"{sum(row.off > WITHIN for row in those)} of {len(those)} {quantity}")
    return f"Of all rows: {', '.join(parts)}."


START = """# The zoo

{models} shapes of computation of public models, written anew and small (`tests/helpers/zoo`); {refused} are
refused. A row is what `verify prescribe` answers for muP and full alignment: under each role the parameters (those of
blocks that are alike once, numbers as `*`), then the exponents c of their rates n^-c, Adam's and SGD's. Multipliers are
those that the function needs beside its own. Every role, rate and gradient is held to what is right by hand
(`tests/verify/model/test_zoo.py`).

The last column counts what networks show within 0.1: g of gradients, s of the outputs of dense ops at the start, r of
their change, as slopes over three widths of networks drawn and trained as prescribed
(`benchmarks/zoo/measuring.py`; 16 networks a width, widths of 64, 128 and 256, or as a dimension asks for; of those
that take long 8, at half the widths). What is off stands at the end, with its reason.

`python -m benchmarks.zoo` makes this page from what is answered now and from the measurements that are stored;
`--measure` takes those that are of another setting or answer again (half an hour on two cores for all), `--models NAME`
those of one.
"""

KNOWN = (
    "- Layers that narrow to a fixed number and feed others (keys of two heads, scores, codes, routers) start as "
    "readouts, n^-1 in muP: what enters moves along their few rows, and networks show omega from 0.6 to 1 where `full` "
    "assumes 1/2. In SP and NTK, where a readout starts at n^-1/2, what they make may change by up to n^1/2 more.",
    "- A norm behind such a layer makes its start irrelevant: its output moves as far as it may, and its own size at "
    "the start is lost at once (clip).",
    "- Where a bias is added to what a readout makes, the bias counts as n^0 at the start, though it mostly starts at "
    "0.",
)
"""What is known beside single parameters."""
