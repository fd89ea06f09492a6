"""What the commands of studies that are trained unit by unit share: the driver, the progress bar, the answer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from derive.terminal import wrapped
from verify.checksums import sealed
from verify.commands.options import one_driver, write_error, write_out
from verify.commands.progress import Progress
from verify.files import make_folder

if TYPE_CHECKING:
    from verify.studies.study import Part, Training, Unit

Found = TypeVar("Found")


def train_all(training: "Training[Any, Found]", corpus: Any, cost: int) -> "dict[Unit, Part[Found]]":
    """Train what the folder lacks, at `cost` steps of the bar a unit, with no other driver at work there."""
    folder = training.folder
    make_folder(folder)
    try:
        with one_driver(folder), Progress("training and measuring", len(training.wanted) * cost) as bar:
            left = training.take_stock()
            bar.advance((len(training.wanted) - len(left)) * cost)
            return training.run(left, corpus, bar.advance)
    except KeyboardInterrupt:
        write_error(f"interrupted; what is finished is in {folder}, the same command goes on")
        raise


def answer(content: dict[str, Any], table: str, folder: Path, shown: str) -> None:
    """Keep the study's JSON as NAME.json, by its command, and print it or the table."""
    from derive.emit import dump

    text = dump(sealed(content))
    (folder / f"{content['command']}.json").write_text(text, encoding="utf-8")
    write_out(text if shown == "json" else wrapped(f"{table}written to {folder}\n"))
