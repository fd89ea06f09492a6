"""Checkpoints of long runs, kept by Orbax: a run that was ended goes on to the same losses, bit for bit.

    FOLDER/study.json             what is trained; another study is never mixed in
    FOLDER/width_512/100/         after step 100: parameters and optimizer state, losses and measurements so far

Arrays are stored in the parts in which devices hold them, every process writing its own, so that the folder has to be
one that all processes see. They may be read on another mesh; then losses are the same but for the order of sums.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from derive.emit import dump
from derive.errors import DeriveError, shorten
from verify.files import make_folder
from verify.values import Document, Leaf, Tree

KEPT = 2
"""Checkpoints per width: the last, and the one before in case a disk loses the last."""


@dataclass
class RunState:
    """How far a run has come: what is trained, and everything noted on the way."""

    params: Tree
    state: Tree
    losses: list[Shaped[np.ndarray, "..."]] = field(default_factory=list)
    sizes: dict[int, dict[str, dict[str, Shaped[np.ndarray, "..."]]]] = field(default_factory=dict)
    diverged: dict[int, int] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Steps taken."""
        return len(self.losses)

    def notes(self) -> Document:
        """Losses, measured sizes by step and seeds that diverged as JSON, whose floats are exact."""
        return {
            "losses": [values.tolist() for values in self.losses],
            "sizes": {
                step: {
                    op: {name: np.asarray(each).tolist() for name, each in sizes.items()} for op, sizes in ops.items()
                }
                for step, ops in self.sizes.items()
            },
            "diverged": self.diverged,
        }

    def restore(self, arrays: Sequence[Leaf], notes: Document) -> None:
        """Become what was stored; `arrays` are the leaves of (params, state)."""
        self.params, self.state = jax.tree.unflatten(jax.tree.structure((self.params, self.state)), arrays)
        self.losses = [np.array(values, np.float32) for values in notes["losses"]]
        self.sizes = {
            int(step): {
                op: {quantity: np.array(values, np.float32) for quantity, values in sizes.items()}
                for op, sizes in ops.items()
            }
            for step, ops in notes["sizes"].items()
        }
        self.diverged = {int(seed): step for seed, step in notes["diverged"].items()}


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints, one every `every` steps and one at the end of each width; `tell` is told of each."""

    folder: Path
    every: int
    tell: Callable[[str], None] = lambda _: None

    def open(self, conditions: Document) -> None:
        """Begin the study in the folder, or go on with it; DeriveError where the folder holds another one."""
        if find_spec("orbax") is None:
            raise DeriveError("--checkpoint needs Orbax; pip install orbax-checkpoint, or leave it out")
        make_folder(self.folder, "--checkpoint")
        file = self.folder / "study.json"
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if jax.process_index() == 0:
                whole = file.with_suffix(".writing")
                whole.write_text(dump(conditions), encoding="utf-8")
                whole.replace(file)  # at once: others may be reading
            return
        except ValueError:
            raise DeriveError(
                f"study.json in --checkpoint {shorten(str(self.folder))} is damaged; give another folder"
            ) from None
        given = json.loads(dump(conditions))
        for name in sorted(stored.keys() | given.keys()):
            if stored.get(name) != given.get(name):
                raise DeriveError(
                    f"--checkpoint {shorten(str(self.folder))} holds a study with another {name} "
                    f"({shorten(str(stored.get(name)))}, now {shorten(str(given.get(name)))}); "
                    "give the options it was begun with, or another folder"
                )

    def restore(self, width: int, run: RunState) -> None:
        """Bring a run that has not begun to the last step that is stored, if there is one.

        DeriveError where that cannot be read.
        """
        import orbax.checkpoint as ocp

        with self._manager(width) as manager:
            step = manager.latest_step()
            if step is None:
                return
            wanted = [
                jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
                for leaf in jax.tree.leaves((run.params, run.state))
            ]
            parts = ocp.args.Composite(arrays=ocp.args.StandardRestore(wanted), notes=ocp.args.JsonRestore())  # type: ignore[call-arg]
            try:
                stored = manager.restore(step, args=parts)
            except (ValueError, OSError, KeyError) as error:
                raise DeriveError(
                    f"step {step} of width {width} in --checkpoint {shorten(str(self.folder))} cannot be read "
                    f"({shorten(str(error))}); move its folder {self._path(width).name}/{step} away to go on from the "
                    "one before"
                ) from None
            run.restore(stored["arrays"], stored["notes"])
            self.tell(f"width {width}: goes on after step {step}")

    def save(self, width: int, run: RunState) -> None:
        """Store the run as it is now; it is complete or not there."""
        import orbax.checkpoint as ocp

        arrays = jax.tree.leaves((run.params, run.state))
        parts = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave(run.notes()))  # type: ignore[call-arg]
        with self._manager(width) as manager:
            manager.save(run.step, args=parts)
        self.tell(f"width {width}: step {run.step} is stored")

    def due(self, step: int) -> bool:
        """Whether that step ends in a checkpoint, were it not the last."""
        return step % self.every == 0

    def _path(self, width: int) -> Path:
        return self.folder.absolute() / f"width_{width}"

    def _manager(self, width: int) -> Any:
        import orbax.checkpoint as ocp

        # Not in the background: on a CPU arrays would be read while the next step writes over them.
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self._path(width), options=options)
