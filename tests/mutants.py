"""Faults planted in what predicts and in what judges: how many the tests notice, by module.

    python -m tests.mutants [MODULE ...] [--sample N]     tries them
    python -m tests.mutants --table                       writes the table of docs/mutants.md; exit 1 below 85 %

A mutant is one small change of one module (`tests.mutations`). It is killed where one of the module's quick tests fails
or does not end. Modules, tests and the reviewed mutants that change nothing are listed in tests/mutants.toml; outcomes
are added to tests/mutants.jsonl as they come. A mutant killed before is not tried again while its module stays as it
is; survivors are, since a test may have been added.

Sympy and JAX are imported once. Every mutant has a process of its own, forked from there, in which the module's
changed text is imported in place of the file: nothing is written to the tree.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tests.mutations import Mutant, drawn

FLOOR = 0.85
LISTED, OUTCOMES, PAGE = Path("tests/mutants.toml"), Path("tests/mutants.jsonl"), Path("docs/mutants.md")
BEGIN, END = "<!-- score -->\n", "<!-- end of score -->\n"
SLACK = 20  # seconds that a mutant's tests may take beyond three times what they take without it
BUSY = 3.0  # a load beyond which one process at a time has to do


class Planted(MetaPathFinder, SourceFileLoader):
    """Imports one module from a changed text."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module, mutant.path)
        self.text = mutant.text

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """That module; the others are found as usual."""
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """The changed text, compiled; no compiled file is read or kept."""
        return compile(self.text, self.path, "exec", dont_inherit=True)


def started(tests: Sequence[str], seconds: float, mutant: Mutant | None = None) -> int:
    """The process that runs the tests, with the mutant if one is given."""
    if process := os.fork():
        return process
    signal.alarm(int(seconds))  # ends it: nobody handles the signal
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    code = 1  # a mutant that cannot even be imported is killed
    try:
        if mutant is not None:
            sys.meta_path.insert(0, Planted(mutant))
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutants", database=None, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate]
        )
        settings.load_profile("mutants")
        quick = ["-x", "-n0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main([*quick, *tests]))
    finally:
        os._exit(code)


def tried(mutants: Sequence[Mutant], tests: Sequence[str]) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with "killed" or "survived", as they come: two processes, one where the machine is busy."""
    begun = time.monotonic()
    _, status = os.waitpid(started(tests, 600), 0)
    if status:
        raise SystemExit(f"without any mutant the tests do not pass: {' '.join(tests)}")
    limit = 3 * (time.monotonic() - begun) + SLACK
    running: dict[int, Mutant] = {}
    waiting = list(reversed(mutants))
    while waiting or running:
        if waiting and len(running) < (1 if os.getloadavg()[0] > BUSY else 2):
            mutant = waiting.pop()
            running[started(tests, limit, mutant)] = mutant
            continue
        process, status = os.wait()
        yield running.pop(process), "killed" if status else "survived"


def known(path: Path = OUTCOMES) -> dict[str, str]:
    """The outcome of every mutant that was tried, by the digest of its module's text."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["digest"]: row["outcome"] for row in map(json.loads, lines)}


def digest(mutant: Mutant) -> str:
    """Which mutant it is, as long as its module stays as it is."""
    return hashlib.sha256(mutant.text.encode()).hexdigest()[:20]


def listed() -> dict[str, dict[str, Any]]:
    """By path of the module: `tests`, and `equivalent`, rows of line, becomes, why."""
    return tomllib.loads(LISTED.read_text())


def is_equivalent(mutant: Mutant, reviewed: Sequence[dict[str, str]]) -> bool:
    """Whether it was found to change nothing that can be observed."""
    return any((row["line"], row["becomes"]) == (mutant.line, mutant.becomes) for row in reviewed)


def score(outcomes: dict[str, list[str]]) -> tuple[list[str], dict[str, float]]:
    """The table's lines, and by module the killed part of those tried; what changes nothing is counted apart."""
    lines = ["| module | tried | killed | survived | change nothing | score |", "|---|--:|--:|--:|--:|--:|"]
    outcomes = {**outcomes, "all": [each for module in outcomes.values() for each in module]}
    parts = {}
    for name, found in outcomes.items():
        killed, survived, equivalent = (found.count(each) for each in ("killed", "survived", "equivalent"))
        counted = killed + survived
        if counted:
            parts[name] = killed / counted
        part = f"{parts[name]:.0%}" if counted else "-"
        lines.append(f"| {name} | {len(found)} | {killed} | {survived} | {equivalent} | {part} |")
    return lines, parts


def try_all(modules: dict[str, dict[str, Any]], count: int | None, seed: int) -> None:
    """Try what is not known to be killed, and keep every outcome as it comes."""
    for path, about in modules.items():
        before = known()
        left = [
            mutant
            for mutant in drawn(path, count, seed)
            if before.get(digest(mutant)) != "killed" and not is_equivalent(mutant, about.get("equivalent", ()))
        ]
        print(f"{path}: {len(left)} to try", flush=True)
        for mutant, outcome in tried(left, about["tests"]) if left else ():
            row = {"path": path, "line": mutant.line, "becomes": mutant.becomes}
            with OUTCOMES.open("a") as file:
                file.write(json.dumps({**row, "outcome": outcome, "digest": digest(mutant)}) + "\n")
            if outcome == "survived":
                print(f"  {mutant.line}\n  {mutant.becomes}\n", flush=True)


def write_table(modules: dict[str, dict[str, Any]], count: int | None, seed: int) -> bool:
    """Write the page's table; whether every module reaches the floor."""
    before, outcomes = known(), {}
    for path, about in modules.items():
        found = outcomes.setdefault(path, [])
        for mutant in drawn(path, count, seed):
            equivalent = is_equivalent(mutant, about.get("equivalent", ()))
            outcome = "equivalent" if equivalent else before.get(digest(mutant))
            found += [outcome] if outcome else []
    lines, parts = score(outcomes)
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}{chr(10).join(lines)}\n{END}{rest.partition(END)[2]}")
    print("\n".join(lines))
    return min(parts.values(), default=0.0) >= FLOOR


def main() -> int:
    """Try them and name the survivors, or write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="derive/solve.py, say; all where none is given")
    parser.add_argument("--sample", type=int, metavar="N", help="places of every module; all mutants if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--table", action="store_true", help="only write what is known")
    asked = parser.parse_args()
    modules = listed()
    if unknown := set(asked.modules) - set(modules):
        parser.error(f"{min(unknown)} is not in {LISTED}")
    if not asked.table:
        chosen = {path: modules[path] for path in asked.modules or modules}
        with tempfile.TemporaryDirectory() as folder:  # compiled once for all
            os.environ.update(JAX_COMPILATION_CACHE_DIR=folder, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.2")
            os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
            import hypothesis, jax, numpy, optax, scipy.special, sympy  # noqa

            try_all(chosen, asked.sample, asked.seed)
        if asked.modules:
            return 0
    return 0 if write_table(modules, asked.sample, asked.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
