"""Modules of transformers, timm and torchvision, unmodified, and what every parameter of theirs is, by hand.

Every width is a config's own setting and heads have one size. What a row should be (AdamW, muP, no multipliers: size
and rate n^0, n^0 of tables, first layers and vectors; n^-1/2, n^-1 of hidden matrices; n^-1, n^-1 of readouts) is
written down by name, and what is not is hidden where it is a matrix.
"""

from functools import partial
from typing import Any

import timm  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]
from torchvision.models.resnet import BasicBlock, ResNet  # type: ignore[import-not-found]

from tests.helpers.torch_modules import Case

HEAD, LAYERS, VOCABULARY = 8, 2, 40


def tokens(_: int) -> dict[str, Any]:
    return {"input_ids": torch.randint(0, VOCABULARY, (2, 6))}


def images(_: int) -> Any:
    return torch.randn(2, 3, 64, 64)


def pairs(width: int) -> dict[str, Any]:
    return {**tokens(width), "decoder_input_ids": torch.randint(0, VOCABULARY, (2, 5))}


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


def resnet18_of_transformers(width: int) -> Any:
    config = transformers.ResNetConfig(
        embedding_size=width,
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=5,
    )
    return transformers.ResNetForImageClassification(config)


def vit_of_transformers(width: int) -> Any:
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


def vit_of_timm(width: int) -> Any:
    sizes = {"img_size": 64, "patch_size": 32, "embed_dim": width, "num_heads": width // HEAD, "depth": LAYERS}
    return timm.models.vision_transformer.VisionTransformer(**sizes, num_classes=5)


class WideResNet18(ResNet):
    """torchvision's ResNet-18, whose first width of 64 is no argument of its own, with any: its blocks, its forward."""

    def __init__(self, width: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=5)
        self.inplanes = width
        self.conv1 = torch.nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(width)
        for stage in range(4):
            made = self._make_layer(BasicBlock, width * 2**stage, 2, stride=1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", made)
        self.fc = torch.nn.Linear(8 * width, 5)


LLAMA = {"model.embed_tokens.weight": "embedding", "lm_head.weight": "readout"}
OF_TRANSFORMERS = {"resnet.embedder.*": "embedding", "classifier.1.weight": "readout"}
OF_TORCHVISION = {"conv1.weight": "embedding", "fc.weight": "readout"}
OF_TIMM = {
    "patch_embed.*": "embedding",
    "pos_embed": "embedding",
    "cls_token": "embedding",
    "head.weight": "readout",
}
GPT2 = {"transformer.wte.weight": "embedding", "transformer.wpe.weight": "embedding"}
T5 = {"shared.weight": "embedding", "*relative_attention_bias.weight": "embedding"}
LIBRARIES: dict[str, tuple[Case, bool]] = {
    "transformers GPT-2, tied": (Case(gpt2, tokens, GPT2, {"lm_head": "1"}), False),
    "transformers Llama, eager": (Case(partial(llama, attention="eager"), tokens, LLAMA), True),
    "transformers Llama, SDPA, grouped heads": (Case(partial(llama, attention="sdpa"), tokens, LLAMA), True),
    "transformers BERT": (
        Case(bert, tokens, {"bert.embeddings.*": "embedding", "classifier.weight": "readout"}),
        False,
    ),
    # beside the n^-1/2 that its code has
    "transformers T5": (Case(t5, pairs, T5, {"lm_head": "1/2"}), False),
    "transformers ViT": (
        Case(vit_of_transformers, images, {"vit.embeddings.*": "embedding", "classifier.weight": "readout"}),
        False,
    ),
    "transformers ResNet-18, eval": (Case(resnet18_of_transformers, images, OF_TRANSFORMERS), False),
    "transformers ResNet-18, train": (Case(resnet18_of_transformers, images, OF_TRANSFORMERS), True),
    "timm ViT, eval": (Case(vit_of_timm, images, OF_TIMM), False),
    "timm ViT, train": (Case(vit_of_timm, images, OF_TIMM), True),
    "torchvision ResNet-18, eval": (Case(WideResNet18, images, OF_TORCHVISION), False),
    "torchvision ResNet-18, train": (Case(WideResNet18, images, OF_TORCHVISION), True),
}
"""With whether the module is in training mode; those with dropout inside functions are not, to be compared."""
