"""Faults planted by mutmut in what predicts and in what judges: how many the tests notice, by module.

    python -m tests.mutants [--sample N]      writes the table of docs/mutants.md; exit 1 below 85 %

A mutant is one small change of one function: a sign, a comparison, a number, an argument left out. It is killed where a
test fails or never ends. With a sample, N are drawn at random of every module's; without, all are tried (hours). The
modules and the tests are those of [tool.mutmut] in pyproject.toml; what mutmut leaves alone are lines outside of
functions and decorated functions.
"""

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

FLOOR = 0.85
PAGE = Path("docs/mutants.md")
BEGIN, END = "<!-- score -->\n", "<!-- end of score -->\n"
SURVIVED, UNREACHED, NOT_TRIED = 0, (5, 33), (None, 2)


def outcomes() -> dict[str, dict[str, int | None]]:
    """The exit code of every mutant by module, as mutmut keeps them: None where it has not been tried."""
    found = {}
    for path in sorted(Path("mutants").rglob("*.py.meta")):
        codes: dict[str, int | None] = json.loads(path.read_text())["exit_code_by_key"]
        if codes:
            found[str(path.relative_to("mutants")).removesuffix(".meta")] = codes
    return found


def mutmut(*names: str) -> None:
    """Try these mutants, or all."""
    subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names], check=True)


def drawn(by_module: Mapping[str, Mapping[str, int | None]], count: int, seed: int) -> list[str]:
    """At most that many of every module, the same ones for the same seed."""
    chosen = []
    for module, codes in by_module.items():
        names = sorted(codes)
        chosen += random.Random(f"{seed} {module}").sample(names, min(count, len(names)))
    return chosen


def score(by_module: Mapping[str, Mapping[str, int | None]]) -> tuple[list[str], float]:
    """The table's lines, and the killed part of all that were tried; mutants that no test reaches are not killed."""
    lines = [
        "| module | mutants | tried | killed | survived | no test reaches | score |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    total: Counter[str] = Counter()
    for module, codes in by_module.items():
        tried = [code for code in codes.values() if code not in NOT_TRIED]
        survived, unreached = tried.count(SURVIVED), sum(code in UNREACHED for code in tried)
        row = Counter(mutants=len(codes), tried=len(tried), survived=survived, unreached=unreached)
        lines.append(_line(module, row))
        total.update(row)
    return [*lines, _line("all", total)], _killed(total) / max(total["tried"], 1)


def _killed(row: Counter[str]) -> int:
    return row["tried"] - row["survived"] - row["unreached"]


def _line(module: str, row: Counter[str]) -> str:
    part = f"{_killed(row) / row['tried']:.0%}" if row["tried"] else "-"
    counts = (row["mutants"], row["tried"], _killed(row), row["survived"], row["unreached"])
    return f"| {module} | {' | '.join(map(str, counts))} | {part} |"


def main() -> int:
    """Try them, write the page's table, name the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, metavar="N", help="of every module's; all where it is not given")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    asked = parser.parse_args()
    if asked.sample:
        mutmut("verify.limit.*")  # writes the mutants of all modules, and tries those of the smallest
        mutmut(*drawn(outcomes(), asked.sample, asked.seed))
    else:
        mutmut()
    found = outcomes()
    lines, part = score(found)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{chr(10).join(lines)}\n{END}{rest.partition(END)[2]}")
    print("\n".join(lines))
    for codes in found.values():
        print(*(name for name, code in codes.items() if code == SURVIVED), sep="\n")
    return 0 if part >= FLOOR else 1


if __name__ == "__main__":
    sys.exit(main())
