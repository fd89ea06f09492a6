"""The commands of studies that are trained unit by unit: made from their options, driven, and answered."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_type_hints

from derive.errors import DeriveError, check_positive, shorten
from derive.terminal import wrapped
from verify.commands.options import one_driver, read_choice, write_error, write_out
from verify.commands.progress import Progress
from verify.files import make_folder

if TYPE_CHECKING:
    from verify.studies.study import AnyStudy, Unit
    from verify.studies.training import Cost, Training
    from verify.studies.workers import Workers
    from verify.training.data import Corpus

WHOLE = "1/1"


def command(options: type[Any], run: Callable[[Any], Any], name: str) -> Callable[..., Any]:
    """The command of that name whose options are the dataclass's fields, with its docstring as help."""
    hints = get_type_hints(options, include_extras=True)

    def made(**given: Any) -> Any:
        return run(options(**given))

    parameters = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(options)
    ]
    made.__name__, made.__doc__ = name, options.__doc__
    made.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return made


@dataclass(frozen=True)
class Run:
    """How a study is driven and shown: what its units are trained on, by whom, which of them, and where they go."""

    corpus: "Corpus"
    corpus_path: Path | None
    vocabulary: int | None
    out: Path | None
    shown: str
    share: tuple[int, int] = (0, 1)
    processes: int | None = None

    @classmethod
    def of(cls, options: Any, corpus: "Corpus", processes: int | None = None) -> "Run":
        """From the options that every study has."""
        check_positive(processes=processes)
        shown = read_choice("--format", options.output_format, ("table", "json"))
        share = read_share(options.part)
        if share != (0, 1) and options.out is None:
            raise DeriveError(f"--part {shorten(options.part)} needs --out, the folder that is merged with the others'")
        return cls(corpus, options.corpus, options.vocab, options.out, shown, share, processes)

    @contextmanager
    def workers(self) -> "Iterator[Workers | None]":
        """The processes that train, None where this one does; they end here."""
        if self.processes in (None, 1):
            yield None
            return
        from verify.studies.workers import Workers

        found = Workers(self.processes, self.corpus_path, self.vocabulary, self.corpus.fingerprint)
        try:
            yield found
        finally:
            found.close()

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Where parts are kept, for as long as the command runs where no folder is given."""
        if self.out is not None:
            make_folder(self.out)
            yield self.out
        else:
            with TemporaryDirectory() as folder:
                yield Path(folder)


def read_share(text: str) -> tuple[int, int]:
    """(which, of how many), counted from 0, of a text such as 3/16."""
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise DeriveError(f"--part {shorten(text)} is not a share; write 3/16 for the third of sixteen")
    return int(first) - 1, int(last)


def train_all(training: "Training[Any, Any]", run: Run, cost: "Cost", what: str = "training and measuring") -> None:
    """Train what the folder lacks of this share, with no other driver at work there."""
    folder = training.folder
    total = sum(map(cost, training.own))
    try:
        with one_driver(folder), Progress(what, total) as bar:
            left = training.take_stock()
            bar.advance(total - sum(map(cost, left)))
            with run.workers() as workers:
                training.run(left, run.corpus, bar.advance, workers, cost)
    except KeyboardInterrupt:
        if run.out is not None:
            write_error(f"interrupted; what is finished is in {folder}, the same command goes on")
        raise


def carry_out(study: "AnyStudy", wanted: "Mapping[Unit, Any]", run: Run, cost: "Cost") -> None:
    """Train what is wanted and answer from it, or say what is left where this was a share of it."""
    from verify.studies.training import Training

    with run.folder() as folder:
        training = Training(study, wanted, folder, run.share)
        train_all(training, run, cost)
        if training.is_finished:
            found = study.answers.result(training.wanted, training.parts, folder)
            answer(study, found, run.out, run.shown)
        else:
            say_share(study.name, len(training.parts), len(wanted), run)


def say_share(name: str, done: int, wanted: int, run: Run) -> None:
    """What is there once a share of the work is done."""
    from derive.emit import dump

    which, parts = run.share
    if run.shown == "json":
        write_out(dump({"schema": 1, "command": name, "part": f"{which + 1}/{parts}", "units": wanted, "done": done}))
    else:
        write_out(
            wrapped(
                f"part {which + 1}/{parts} is done: {done} of {wanted} units are in {run.out}; verify merge unites the "
                "parts\n"
            )
        )


def answer(study: "AnyStudy", found: Any, out: Path | None, shown: str) -> None:
    """Keep the study's JSON and pictures where it has a folder, and print the JSON or the table."""
    from derive.emit import dump

    how = study.answers
    text = dump(how.as_json(found)) if out is None else keep(study, found, out)
    written = f"written to {out}{how.written}\n" if out is not None else ""
    write_out(text if shown == "json" else wrapped(f"{how.table(found)}{written}"))


def keep(study: "AnyStudy", found: Any, out: Path) -> str:
    """Write the study's pictures and its JSON, which is returned."""
    from derive.emit import dump
    from verify.checksums import sealed

    how = study.answers
    content = how.as_json(found)
    text = dump(sealed(content) if how.is_sealed else content)
    how.draw(found, out)
    (out / how.file).write_text(text, encoding="utf-8")
    return text
