"""PyTorch modules as libraries have them, unmodified: the function against torch's, every row against a person's.

    python -m benchmarks.torch_zoo --out benchmarks/torch_zoo.md

needs torch, torchax and transformers, which nothing else here does. Every width is a config's own setting; heads
have one size unless said. What a row should be (AdamW, muP, no multipliers: size and rate n^0, n^0 of tables, first
layers and vectors; n^-1/2, n^-1 of hidden matrices; n^-1, n^-1 of readouts) is written down by name, and what is not
is hidden where it is a matrix.
"""

import argparse
import time
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]

from derive.emit import markdown_text
from tests.helpers.torch_modules import CASES, Case
from verify.model.prescribe import prescribe
from verify.torch import from_torch

BASE, WIDTH, HEAD, LAYERS, VOCABULARY = 32, 64, 8, 2, 40
EXPONENTS = {
    "embedding": (Fraction(0), Fraction(0)),
    "hidden": (Fraction(1, 2), Fraction(1)),
    "readout": (Fraction(1), Fraction(1)),
}


def tokens(_: int) -> dict[str, Any]:
    return {"input_ids": torch.randint(0, VOCABULARY, (2, 6))}


def images(_: int) -> Any:
    return torch.randn(2, 3, 64, 64)


def gpt2(width: int) -> Any:
    sizes = {"n_embd": width, "n_head": width // HEAD, "n_layer": LAYERS, "n_positions": 16, "vocab_size": VOCABULARY}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, use_cache=False))


def llama(width: int, attention: str) -> Any:
    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // HEAD // 2,
        vocab_size=VOCABULARY,
        use_cache=False,
        attn_implementation=attention,
    )
    return transformers.LlamaForCausalLM(config)


def bert(width: int) -> Any:
    config = transformers.BertConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // HEAD,
        vocab_size=VOCABULARY,
        max_position_embeddings=16,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def t5(width: int) -> Any:
    config = transformers.T5Config(
        d_model=width,
        d_ff=4 * width,
        d_kv=HEAD,
        num_heads=width // HEAD,
        num_layers=LAYERS,
        vocab_size=VOCABULARY,
        use_cache=False,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


def resnet18(width: int) -> Any:
    config = transformers.ResNetConfig(
        embedding_size=width,
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=5,
    )
    return transformers.ResNetForImageClassification(config)


def vit(width: int) -> Any:
    config = transformers.ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // HEAD,
        image_size=64,
        patch_size=32,
        num_labels=5,
    )
    return transformers.ViTForImageClassification(config)


def pairs(width: int) -> dict[str, Any]:
    return {**tokens(width), "decoder_input_ids": torch.randint(0, VOCABULARY, (2, 5))}


LLAMA = {"model.embed_tokens.weight": "embedding", "lm_head.weight": "readout"}
RESNET = {"resnet.embedder.*": "embedding", "classifier.1.weight": "readout"}
LIBRARIES: dict[str, tuple[Case, bool]] = {
    "transformers GPT-2, tied": (
        Case(
            gpt2,
            tokens,
            {"transformer.wte.weight": "embedding", "transformer.wpe.weight": "embedding"},
            {"lm_head": "1"},
        ),
        False,
    ),
    "transformers Llama, eager": (Case(partial(llama, attention="eager"), tokens, LLAMA), True),
    "transformers Llama, SDPA, grouped heads": (Case(partial(llama, attention="sdpa"), tokens, LLAMA), True),
    "transformers BERT": (
        Case(bert, tokens, {"bert.embeddings.*": "embedding", "classifier.weight": "readout"}),
        False,
    ),
    "transformers T5": (
        Case(
            t5,
            pairs,
            {"shared.weight": "embedding", "*relative_attention_bias.weight": "embedding"},
            {"lm_head": "1/2"},  # beside the n^-1/2 that its code has
        ),
        False,
    ),
    "transformers ViT": (
        Case(vit, images, {"vit.embeddings.*": "embedding", "classifier.weight": "readout"}),
        False,
    ),
    "transformers ResNet-18, eval": (Case(resnet18, images, RESNET), False),
    "transformers ResNet-18, train": (Case(resnet18, images, RESNET), True),
}
"""With whether the module is in training mode; those with dropout inside functions are not, to be compared."""


def checked(name: str, case: Case, train: bool) -> list[str]:
    """One row of the table: largest difference of the outputs, parameters right, products that need a multiplier."""
    start = time.perf_counter()
    make = from_torch(case.build, case.example, train=train)
    params, apply, inputs = make(BASE)
    module = make._module(BASE)
    given = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), inputs)
    given = jax.tree.map(lambda x: x if x.is_floating_point() else x.long(), given)
    with torch.no_grad():
        outputs = module(**given) if isinstance(given, dict) else module(given)
    theirs = [
        each.numpy()
        for each in torch.utils._pytree.tree_leaves(outputs)
        if isinstance(each, torch.Tensor) and each.is_floating_point()
    ]
    ours = jax.tree.leaves(jax.jit(apply)(params, inputs))
    apart = max(float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in zip(ours, theirs, strict=True))
    answer = prescribe(make, base_width=BASE, width=WIDTH, optimizer="adamw")
    wrong = []
    for row in answer.parameters:
        role = case.role(row.path, row.shape)
        if row.is_trained and (row.role, (row.b, row.c)) != (role, EXPONENTS[role]):
            wrong.append(f"{row.path}: {row.role}, n^-{row.b}, n^-{row.c}")
    found = {answer.places[each].partition(": ")[0]: str(x) for each, x in answer.multipliers.items()}
    if found != case.multipliers:
        wrong.append(f"multipliers {found}")
    total = len(answer.parameters)
    needed = "; ".join(f"{module}: n^-{x}" for module, x in found.items()) or "none"
    right = f"{total - len(wrong)} of {total}" + (f" ({'; '.join(wrong)})" if wrong else "")
    print(f"{name}: {apart:.1e}, {right}, {time.perf_counter() - start:.0f} s", flush=True)
    return [name, f"{apart:.1e}", right, needed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/torch_zoo.md"))
    parser.add_argument("--only", default="", help="names that begin so")
    given = parser.parse_args()
    cases: dict[str, tuple[Case, bool]] = {f"own {name}": (case, True) for name, case in CASES.items()} | LIBRARIES
    rows = []
    for name, (case, train) in cases.items():
        if name.startswith(given.only):
            try:
                rows.append(checked(name, case, train))
            except ValueError as error:
                rows.append([name, "-", f"refused: {error}", "-"])
                print(rows[-1], flush=True)
    used = ", ".join(f"{each} {version(each)}" for each in ("torch", "torchax", "transformers", "jax"))
    head = (
        f"# PyTorch modules, unmodified\n\n`python -m benchmarks.torch_zoo` with {used}.\nWidths {BASE} -> {WIDTH}, "
        "AdamW, muP. Largest difference of an output from torch's, relative to the largest output above 1; parameters\n"
        "whose role, initial size and rate are those written down by hand in the script; and products that need a "
        "multiplier\nbeside the code's.\n\n"
    )
    columns = ["module", "forward differs by", "rows right", "multipliers"]
    given.out.write_text(head + markdown_text(columns, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
