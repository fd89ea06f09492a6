"""Corpora and batches: what is read, that the splits never meet, and the messages for unusable input."""

import os
from pathlib import Path

import numpy as np
import pytest

from verify.training.data import STANDARD_LIBRARY_BYTES, Corpus, DataError, Split, load_corpus, next_token, sequence

CONTEXT = 16


def positions(length: int) -> Corpus:
    """A corpus whose token at position i is i, so that a batch shows where its windows lie."""
    return Corpus("positions", np.arange(length, dtype=np.uint16), 2**16)


def shard(path: Path, tokens: list[int]) -> Path:
    np.array(tokens, dtype="<u2").tofile(path)
    return path


def test_default_corpus_is_the_same_on_every_load():
    first, second = load_corpus(), load_corpus()
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 16
    assert first.vocabulary == 256
    assert 2**20 < len(first.tokens) <= STANDARD_LIBRARY_BYTES
    text = first.tokens.tobytes()
    assert b"class Fraction(" in text
    assert b"import " in first.part("held_out").tobytes()


def test_fingerprint_follows_every_token():
    tokens = np.zeros(1000, dtype=np.uint8)
    changed = tokens.copy()
    changed[-1] = 1
    assert Corpus("a", tokens, 256).fingerprint != Corpus("a", changed, 256).fingerprint
    assert Corpus("a", tokens, 256).fingerprint == "541b3e9daa09b20b"  # sha256 of a thousand zeros, from sha256sum


@pytest.mark.parametrize("length", [1700, 1701, 1709])
def test_windows_fill_their_split_and_never_leave_it(length: int):
    corpus = positions(length)
    boundary = length - length // 10
    seen: dict[Split, set[int]] = {"train": set(), "held_out": set()}
    for split in seen:
        for step in range(4):
            inputs, targets = corpus.batch(split, 20_000, CONTEXT, step, seed=0, targets=sequence)
            starts = inputs[:, :1]
            assert np.array_equal(inputs, starts + np.arange(CONTEXT))
            assert np.array_equal(targets, starts + np.arange(1, CONTEXT + 1))
            seen[split] |= set(np.unique(inputs).tolist()) | set(np.unique(targets).tolist())
    # Every token of a split is drawn, up to both its ends; none is drawn in both.
    assert seen["train"] == set(range(boundary))
    assert seen["held_out"] == set(range(boundary, length))


def test_the_two_forms_of_targets_come_from_the_same_windows():
    corpus = positions(2000)
    inputs, target = corpus.batch("train", 8, CONTEXT, step=3, seed=1, targets=next_token)
    same_inputs, shifted = corpus.batch("train", 8, CONTEXT, step=3, seed=1, targets=sequence)
    assert inputs.shape == shifted.shape == (8, CONTEXT)
    assert target.shape == (8,)
    assert inputs.dtype == target.dtype == np.int32
    assert np.array_equal(inputs, same_inputs)
    assert np.array_equal(shifted[:, -1], target)
    assert np.array_equal(target, inputs[:, -1] + 1)


def test_batches_depend_on_seed_and_step_alone():
    corpus, again = positions(60_000), positions(60_000)
    later = corpus.batch("train", 64, CONTEXT, step=7, seed=5)
    for step in range(7):
        again.batch("train", 64, CONTEXT, step, seed=5)
    assert all(np.array_equal(x, y) for x, y in zip(later, again.batch("train", 64, CONTEXT, 7, 5), strict=True))
    batches = [corpus.batch("train", 64, CONTEXT, step, seed)[1] for step in range(4) for seed in range(4)]
    assert len({batch.tobytes() for batch in batches}) == 16
    # Fixed for good: a stored run must draw the same batches later and elsewhere.
    assert corpus.batch("train", 4, CONTEXT, step=2, seed=1)[1].tolist() == [10809, 30842, 22811, 2514]


def test_starts_are_uniform():
    targets = positions(50_016).batch("train", 100_000, CONTEXT, step=0, seed=0)[1]
    counts, _ = np.histogram(targets, bins=20)
    assert np.abs(counts / counts.mean() - 1).max() < 0.06  # four standard deviations of a count of 5,000


def test_text_file_and_folder(tmp_path: Path):
    (tmp_path / "b.txt").write_bytes("zwei é ".encode())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "deep.md").write_bytes(b"one ")
    (tmp_path / "a.txt").write_bytes(b"and ")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_bytes(b"hidden")
    folder = load_corpus(tmp_path)
    assert folder.tokens.tobytes() == b"and one " + "zwei é ".encode()  # "a.txt" sorts before "a/deep.md"
    assert (folder.name, folder.vocabulary, folder.tokens.dtype) == (tmp_path.name, 256, np.uint8)
    single = load_corpus(tmp_path / "b.txt", vocabulary=256)
    assert single.tokens.tobytes() == "zwei é ".encode()
    assert single.fingerprint != folder.fingerprint


def test_half_bytes_of_text(tmp_path: Path):
    (tmp_path / "text.txt").write_bytes(b"Az\xff\x01")
    corpus = load_corpus(tmp_path / "text.txt", vocabulary=16)
    assert corpus.tokens.tolist() == [0x4, 0x1, 0x7, 0xA, 0xF, 0xF, 0x0, 0x1]
    assert (corpus.vocabulary, corpus.tokens.dtype, corpus.name) == (16, np.uint8, "text.txt, half bytes")
    whole, half = load_corpus(), load_corpus(vocabulary=16)
    pairs = half.tokens.reshape(-1, 2)
    assert np.array_equal(16 * pairs[:, 0] + pairs[:, 1], whole.tokens)
    assert half.fingerprint != whole.fingerprint and half.name != whole.name
    assert set(np.unique(half.tokens)) == set(range(16))


def test_shards_of_a_vocabulary_of_16_are_tokens(tmp_path: Path):
    assert load_corpus(shard(tmp_path / "a.bin", [15, 3]), vocabulary=16).tokens.tolist() == [15, 3]


def test_shards_are_joined_in_the_order_of_their_names(tmp_path: Path):
    shard(tmp_path / "train_1.bin", [500, 2])
    single = shard(tmp_path / "train_0.bin", [7, 50_000])
    (tmp_path / "tokenizer.json").write_text("{}")
    folder = load_corpus(tmp_path, vocabulary=50_257)
    assert folder.tokens.tolist() == [7, 50_000, 500, 2]
    assert folder.vocabulary == 50_257
    mapped = load_corpus(single, vocabulary=50_001)
    assert isinstance(mapped.tokens, np.memmap)
    assert mapped.tokens.tolist() == [7, 50_000]
    assert mapped.fingerprint == Corpus("", np.array([7, 50_000], dtype=np.uint16), 50_001).fingerprint


def expect(message: str, path: Path | None, vocabulary: int | None = None) -> None:
    with pytest.raises(DataError) as caught:
        load_corpus(path, vocabulary)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "give " in str(caught.value) or "write it again" in str(caught.value)


def test_unusable_paths(tmp_path: Path):
    expect("'missing.txt' does not exist", Path("missing.txt"))
    expect("does not exist", tmp_path / "line\nbreak")
    os.mkfifo(tmp_path / "pipe")
    expect("pipe' is neither a file nor a folder", tmp_path / "pipe")
    (tmp_path / "pipe").unlink()
    (tmp_path / "empty.txt").touch()
    expect("empty.txt' is empty", tmp_path / "empty.txt")
    expect("holds no text (1 files seen)", tmp_path)
    (tmp_path / "binary").write_bytes(b"ab\0c")
    expect("is binary (it has NUL bytes)", tmp_path / "binary")
    expect("holds no text (2 files seen)", tmp_path)
    (tmp_path / "text").write_bytes(b"abc")
    expect("vocabulary 300 was given for text", tmp_path / "text", 300)
    expect("vocabulary 300 was given for text", None, 300)


def test_unusable_shards(tmp_path: Path):
    good = shard(tmp_path / "a.bin", [1, 2, 9])
    expect("were given with vocabulary None; give the tokenizer's vocabulary, 2 to 65536", good)
    expect("were given with vocabulary None", tmp_path)
    expect("were given with vocabulary 65537", good, 65_537)
    expect("has token 9; allowed with vocabulary 9 is up to 8", good, 9)
    (tmp_path / "b.bin").write_bytes(b"abc")
    expect("b.bin' has 3 bytes", tmp_path / "b.bin", 100)
    expect("b.bin' has 3 bytes", tmp_path, 100)
    (tmp_path / "c.bin").touch()
    expect("c.bin' has 0 bytes", tmp_path / "c.bin", 100)


@pytest.mark.parametrize("name", ["text.txt", "tokens.bin", ""])
def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """Denied by hand, as a superuser may read everything."""

    def denied(path: Path | str, *_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    for file in ["text.txt", "tokens.bin"] if name else ["text.txt"]:
        (tmp_path / file).write_bytes(b"abcd")
    monkeypatch.setattr(Path, "read_bytes", denied)
    monkeypatch.setattr(np, "memmap", denied)
    expect(f"{name or 'text.txt'}': Permission denied; give", tmp_path / name, 256)


def test_unreadable_folders_are_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "text.txt").write_bytes(b"abcd")
    (tmp_path / "locked").mkdir()
    listing = os.scandir

    def scandir(path: str):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr("os.scandir", scandir)
    expect("locked': Permission denied; give", tmp_path)


def test_a_corpus_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    expect("this Python has no sources", None)


def test_too_small_for_the_context():
    corpus = positions(1699)
    corpus.batch("train", 1, CONTEXT, step=0, seed=0)
    with pytest.raises(DataError, match="its held_out split has 169 tokens and context 16 needs at least 170"):
        corpus.batch("held_out", 1, CONTEXT, step=0, seed=0)
    positions(1700).batch("held_out", 1, CONTEXT, step=0, seed=0)


@pytest.mark.parametrize("numbers", [(0, 16, 0, 0), (8, 0, 0, 0), (8, 16, -1, 0), (8, 16, 0, -1), (8, 16, 0, 2**64)])
def test_numbers_out_of_range(numbers: tuple[int, int, int, int]):
    size, context, step, seed = numbers
    message = f"cannot draw a batch with size {size}, context {context}, step {step}, seed {seed}; "
    with pytest.raises(DataError, match=message):
        positions(5000).batch("train", size, context, step, seed)
