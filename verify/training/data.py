"""Text to token batches: bytes or half bytes of any text, or uint16 token shards; the default is Python's own sources.

A corpus is one long row of tokens. Its last tenth is held out; windows are drawn wholly inside one split, by a
pure function of (seed, step), so that any batch of any run can be drawn again alone: anywhere, or from disjoint
windows, each used once before any is used again.
"""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from jaxtyping import Int, UInt

from derive.errors import UserError, shorten

Split = Literal["train", "held_out"]
Windows = Int[np.ndarray, "size window"]
Batch = tuple[Int[np.ndarray, "size context"], Int[np.ndarray, "size ..."]]

BYTES = 256
HALF_BYTES = 16
LARGEST_VOCABULARY = 2**16
STANDARD_LIBRARY_BYTES = 8 * 2**20
# pydoc_data is one large file of prose, which alone would make up most of the held-out tenth.
NOT_STANDARD = {"site-packages", "dist-packages", "test", "tests", "idlelib", "pydoc_data", "__pycache__"}
FEWEST_WINDOWS = 10
ALLOWED = "a text file, a folder of text files, or uint16 token shards (*.bin)"


class DataError(UserError):
    """A text or tokens that cannot be read or are too few."""


def next_token(windows: Windows) -> Batch:
    """Split windows into inputs [size, context] and the one token after each, [size]."""
    return windows[:, :-1], windows[:, -1]


def sequence(windows: Windows) -> Batch:
    """Split windows into inputs [size, context] and the same shifted by one, [size, context]."""
    return windows[:, :-1], windows[:, 1:]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A row of tokens below `vocabulary`, uint8 or uint16; the last tenth is held out."""

    name: str
    tokens: UInt[np.ndarray, " tokens"]
    vocabulary: int

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the sha256 over the tokens' bytes (uint16 as little-endian)."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens).data).hexdigest()[:16]

    def part(self, split: Split) -> UInt[np.ndarray, " tokens"]:
        """The tokens of one split, a contiguous view: train = the first nine tenths, held_out = the rest."""
        boundary = len(self.tokens) - len(self.tokens) // 10
        return {"train": self.tokens[:boundary], "held_out": self.tokens[boundary:]}[split]

    def batch(
        self,
        split: Split,
        size: int,
        context: int,
        step: int,
        seed: int,
        targets: Callable[[Windows], Batch] = next_token,
    ) -> Batch:
        """Draw inputs int32 [size, context] and targets, a pure function of the arguments.

        `targets` is `next_token` ([size], the MLP) or `sequence` ([size, context], the transformer). DataError
        where the split holds fewer than ten windows, or a number is out of range.
        """
        tokens = self._drawn_from(split, size, context, step, seed)
        # Raw bits, because numpy promises their stream across versions and Generator's only within one. The
        # bias of the remainder is below 2^-32 for any corpus of fewer than 2^32 tokens.
        bits = np.random.Philox(key=np.array([seed, step], dtype=np.uint64)).random_raw(size)
        starts = (bits % np.uint64(len(tokens) - context)).astype(np.int64)
        return targets(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int32))

    def _drawn_from(self, split: Split, size: int, context: int, step: int, seed: int) -> UInt[np.ndarray, " tokens"]:
        """The split's tokens; DataError where they are too few, or a number is out of range."""
        if size < 1 or context < 1 or not 0 <= seed < 2**64 or not 0 <= step < 2**64:
            raise DataError(
                f"cannot draw a batch with size {size}, context {context}, step {step}, seed {seed}; "
                "size and context start at 1, step and seed at 0 and end below 2**64"
            )
        tokens = self.part(split)
        needed = FEWEST_WINDOWS * (context + 1)
        if len(tokens) < needed:
            raise DataError(
                f"corpus {shorten(self.name)} is too small: its {split} split has {len(tokens)} tokens and context "
                f"{context} needs at least {needed}; give a longer text or a shorter context"
            )
        return tokens

    def windows(self, context: int, split: Split = "train") -> int:
        """How many windows whose inputs are disjoint the split holds: floor((tokens - 1) / context)."""
        return (len(self.part(split)) - 1) // context

    def disjoint_batch(
        self, size: int, context: int, step: int, seed: int, targets: Callable[[Windows], Batch] = next_token
    ) -> Batch:
        """The batch of step 1, 2, ... of the training text cut into `windows`, in an order of the seed's own.

        Windows (step - 1) size, ... of one endless row: all of them in random order, then all in another order, and so
        on. DataError as in `batch`.
        """
        tokens = self._drawn_from("train", size, context, step, seed)
        if step < 1:
            raise DataError(f"cannot draw disjoint windows for step {step}; steps start at 1")
        count = self.windows(context)
        uses, places = np.divmod(np.arange((step - 1) * size, step * size), count)
        starts = np.empty(size, dtype=np.int64)
        for use in range(uses[0], uses[-1] + 1):
            starts[uses == use] = context * _order(seed, use, count)[places[uses == use]].astype(np.int64)
        return targets(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int32))


@lru_cache(maxsize=16)
def _order(seed: int, use: int, count: int) -> UInt[np.ndarray, " windows"]:
    """The order in which the windows are used for the `use`-th time; keys far from those of `Corpus.batch`."""
    bits = np.random.Philox(key=np.array([seed, 2**64 - 1 - use], dtype=np.uint64)).random_raw(count)
    return np.argsort(bits, kind="stable").astype(np.uint32)


def load_corpus(path: Path | None = None, vocabulary: int | None = None) -> Corpus:
    """Read a corpus: by default the sources of the running Python's standard library, as bytes.

    `path` is one of
      - a text file, or a folder: all its text files, recursively, in the order of their relative paths. Text is
        read as bytes (vocabulary 256), or with vocabulary 16 as half bytes, the upper half first. Files that
        contain a NUL byte are binary and are skipped, as are hidden files and folders;
      - a file *.bin, or a folder with such files at its top level: raw little-endian uint16 tokens without a
        header, `vocabulary` of them. One file is mapped, several are read into memory in the order of their names.

    DataError for a path that is missing, unreadable or empty, for text with another vocabulary, and for shards
    without a vocabulary, with half a token, or with tokens outside the vocabulary.
    """
    try:
        if path is not None and (shards := _shards(path)):
            return _read_shards(path, shards, vocabulary)
        if vocabulary not in (None, BYTES, HALF_BYTES):
            raise DataError(
                f"vocabulary {vocabulary} was given for text, which is read as {BYTES} bytes or {HALF_BYTES} half "
                f"bytes; leave it out, give {HALF_BYTES}, or give uint16 token shards (*.bin)"
            )
        if path is None:
            name, text = f"python-{platform.python_version()}", _standard_library()
        else:
            name, text = path.resolve().name, _read_text(path)
        tokens = np.frombuffer(text, dtype=np.uint8)
        if vocabulary == HALF_BYTES:
            return Corpus(f"{name}, half bytes", np.stack([tokens >> 4, tokens & 15], axis=1).ravel(), HALF_BYTES)
        return Corpus(name, tokens, BYTES)
    except OSError as error:
        raise DataError(f"cannot read {_named(error.filename or path)}: {error.strerror}; give {ALLOWED}") from None


def _named(path: object) -> str:
    """The path in quotes; of a long one the end, which tells files apart."""
    text = str(path)
    return shorten(text if len(text) <= 60 else f"...{text[-57:]}")


def _files(root: Path, skipped: Callable[[str], bool]) -> Iterator[tuple[str, Path]]:
    """(relative path, path) of every regular file under root, sorted; skipped names are not entered."""

    def fail(error: OSError) -> NoReturn:
        raise error

    found: dict[str, Path] = {}
    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not skipped(name)]
        for path in (Path(folder, name) for name in names if not skipped(name)):
            if path.is_file():
                found[path.relative_to(root).as_posix()] = path
    yield from sorted(found.items())


def _standard_library() -> bytes:
    root = Path(sysconfig.get_path("stdlib"))
    texts: list[bytes] = []
    # Build settings are left out: they differ between machines where the version does not.
    for name, path in _files(root, lambda name: name in NOT_STANDARD or name.startswith(("_sysconfigdata", "config-"))):
        if name.endswith(".py"):
            texts.append(path.read_bytes())
    if not texts:
        raise DataError(f"this Python has no sources in {_named(root)} for the default corpus; give {ALLOWED}")
    return b"".join(texts)[:STANDARD_LIBRARY_BYTES]


def _read_text(path: Path) -> bytes:
    if path.is_dir():
        texts = [file.read_bytes() for _, file in _files(path, lambda name: name.startswith("."))]
        text = b"".join(text for text in texts if b"\0" not in text)
        if not text:
            raise DataError(f"folder {_named(path)} holds no text ({len(texts)} files seen); give {ALLOWED}")
        return text
    text = path.read_bytes()
    if not text:
        raise DataError(f"corpus {_named(path)} is empty; give {ALLOWED}")
    if b"\0" in text:
        raise DataError(f"corpus {_named(path)} is binary (it has NUL bytes); give {ALLOWED}")
    return text


def _shards(path: Path) -> list[Path]:
    """The token shards that path names; none where it names text."""
    if not path.exists():
        raise DataError(f"corpus {_named(path)} does not exist; give {ALLOWED}")
    if path.is_dir():
        return sorted(file for file in path.glob("*.bin") if file.is_file())
    if not path.is_file():
        raise DataError(f"corpus {_named(path)} is neither a file nor a folder; give {ALLOWED}")
    return [path] if path.suffix == ".bin" else []


def _read_shards(path: Path, shards: list[Path], vocabulary: int | None) -> Corpus:
    if vocabulary is None or not 1 < vocabulary <= LARGEST_VOCABULARY:
        raise DataError(
            f"token shards {_named(path)} were given with vocabulary {vocabulary}; "
            f"give the tokenizer's vocabulary, 2 to {LARGEST_VOCABULARY}"
        )
    parts: list[UInt[np.ndarray, " tokens"]] = []
    for shard in shards:
        length = shard.stat().st_size
        if length == 0 or length % 2:
            raise DataError(
                f"shard {_named(shard)} has {length} bytes; allowed are uint16 tokens, two bytes each and at "
                "least one; write it again"
            )
        tokens = np.memmap(shard, dtype="<u2", mode="r")
        largest = int(tokens.max())
        if largest >= vocabulary:
            raise DataError(
                f"shard {_named(shard)} has token {largest}; allowed with vocabulary {vocabulary} is up to "
                f"{vocabulary - 1}; give the tokenizer's vocabulary, and uint16 tokens without a header"
            )
        parts.append(tokens)
    return Corpus(path.resolve().name, parts[0] if len(parts) == 1 else np.concatenate(parts), vocabulary)
