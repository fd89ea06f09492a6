"""Prescriptions from a Hugging Face config alone: rows by hand, multipliers of published models, refusals."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import verify
from derive.errors import UserError
from verify.model.decoder_config import KNOWN, make_from_config
from verify.model.prescription import ModelPrescription

MINICPM = {
    "hidden_size": 2304,
    "num_attention_heads": 36,
    "scale_emb": 12,
    "dim_model_base": 256,
    "scale_depth": 1.4,
    "num_hidden_layers": 4,
    "tie_word_embeddings": True,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1376,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
}
TABLE = "model.embed_tokens.weight"


def written(tmp_path: Path, config: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def answer(tmp_path: Path, config: dict[str, Any], base: int, width: int) -> ModelPrescription:
    return verify.prescribe(make_from_config(written(tmp_path, config)), base_width=base, width=width)


def test_minicpm_has_its_readouts_factor_already(tmp_path: Path) -> None:
    """By hand from 256 to 2304: matrices x 1/9 and x 1/3, the table x 1, nothing to multiply: the code divides by 9."""
    found = answer(tmp_path, MINICPM, 256, 2304)
    assert not found.multipliers
    for row in found.parameters:
        matrix = row.path.endswith("_proj.weight")
        assert (row.role, row.c, row.b) == (("hidden", 1, Fraction(1, 2)) if matrix else ("embedding", 0, 0))
    assert len(found.parameters) == 11


def test_without_it_a_tied_readout_is_multiplied(tmp_path: Path) -> None:
    plain = {name: value for name, value in MINICPM.items() if name != "dim_model_base"}
    assert list(answer(tmp_path, plain, 256, 2304).multipliers.values()) == [1]


def test_a_llama_by_hand(tmp_path: Path) -> None:
    found = {row.path: row for row in answer(tmp_path, LLAMA, 128, 512).parameters}
    assert (found["lm_head.weight"].role, found["lm_head.weight"].b, found["lm_head.weight"].c) == ("readout", 1, 1)
    assert (found[TABLE].role, found[TABLE].shape) == ("embedding", (1000, 512))
    assert found["model.layers.self_attn.k_proj.weight"].shape == (2, 256, 512)
    assert found["model.layers.mlp.down_proj.weight"].base_shape == (2, 128, 344)
    assert all(row.c == 1 for path, row in found.items() if path.endswith("proj.weight"))


@pytest.mark.parametrize(
    ("added", "paths"),
    [
        ({"model_type": "qwen2"}, {"model.layers.self_attn.q_proj.bias", "model.layers.self_attn.v_proj.bias"}),
        ({"model_type": "qwen3"}, {"model.layers.self_attn.q_norm.weight", "model.layers.self_attn.k_norm.weight"}),
        ({"mlp_bias": True}, {"model.layers.mlp.up_proj.bias", "model.layers.mlp.down_proj.bias"}),
        (
            {
                "model_type": "granite",
                "logits_scaling": 8.0,
                "residual_multiplier": 0.22,
                "attention_multiplier": 0.0156,
                "embedding_multiplier": 12.0,
            },
            {"lm_head.weight"},
        ),
    ],
)
def test_what_families_add_changes_no_other_row(added: dict[str, Any], paths: set[str], tmp_path: Path) -> None:
    """Biases and gains are vectors; a constant that does not go with the width moves nothing."""
    plain, found = (
        {row.path: (row.role, row.b, row.c) for row in answer(tmp_path, config, 128, 512).parameters}
        for config in (LLAMA, LLAMA | added)
    )
    assert paths <= found.keys()
    assert {path: row for path, row in found.items() if path in plain} == plain
    assert all(row[0] == "embedding" for path, row in found.items() if path not in plain)


def test_null_is_as_if_the_field_were_not_there(tmp_path: Path) -> None:
    nulls = dict.fromkeys(("head_dim", "logits_scaling", "attention_bias"))
    assert answer(tmp_path, LLAMA | nulls, 128, 512).to_json() == answer(tmp_path, LLAMA, 128, 512).to_json()


def test_gemmas_table_is_multiplied_by_the_root_of_the_width(tmp_path: Path) -> None:
    """What is n^1/2 times as large on the way in has to start n^-1/2 as large; as a readout it then needs n^-1/2."""
    found = answer(tmp_path, LLAMA | {"model_type": "gemma"}, 128, 512)
    assert found.row(TABLE).b == Fraction(1, 2)
    assert list(found.multipliers.values()) == [Fraction(1, 2)]


@pytest.mark.parametrize(
    ("config", "base", "message"),
    [
        (LLAMA | {"model_type": "mamba"}, 128, f"'mamba' is not known; known are {', '.join(KNOWN)}"),
        ({"hidden_size": 512, "num_hidden_layers": 2}, 128, "num_attention_heads is missing"),
        (LLAMA | {"hidden_size": "512"}, 128, "hidden_size '512' is not allowed"),
        (LLAMA | {"vocab_size": "many"}, 128, "vocab_size 'many' is not allowed; give a whole number from 1"),
        (LLAMA | {"intermediate_size": 0}, 128, "intermediate_size '0' is not allowed"),
        (LLAMA | {"logits_scaling": "8"}, 128, "logits_scaling '8' is not allowed; give a number above 0"),
        (LLAMA | {"residual_multiplier": True}, 128, "residual_multiplier 'True' is not allowed"),
        (LLAMA | {"num_key_value_heads": 3}, 128, "num_attention_heads 8 is no multiple of num_key_value_heads 3"),
        (LLAMA, 96, "num_attention_heads 8 at width 512 is no whole number at width 96"),
        (LLAMA, 64, "num_key_value_heads 4 at width 512 is no whole number at width 64"),
        ("[1]", 128, "is no config"),
        ("{", 128, "is no config"),
    ],
)
def test_what_is_no_decoder_is_one_line(config: Any, base: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        answer(tmp_path, config, base, 512)
    assert message in str(caught.value) and "\n" not in str(caught.value)
