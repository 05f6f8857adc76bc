"""A language model, tokenizer and encoder small enough to check by eye; nothing is downloaded."""

import numpy as np
import pytest
import torch

from ov_encoder.lmm.config import LMMConfig
from ov_encoder.lmm.model import OVLanguageModel
from ov_encoder.lmm.processor import OVProcessor
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import OVEncoder
from ov_encoder.patchify.options import Options


def make_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def make_llm(vocabulary: int = 257):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=2048, bos_token_id=None, eos_token_id=0, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def make(**lmm):
    """A model and a processor of one config."""
    config = LMMConfig(**lmm)
    image, video = Options(mode="image", size=56), Options(mode="codec", size=56, frames=6, budget=36, anchors=1)
    processor = OVProcessor(make_tokenizer(), lmm=config, image=image, video=video, context=2048)
    torch.manual_seed(1)
    encoder = OVEncoder(
        OVEncoderConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    )
    return OVLanguageModel(encoder.eval(), make_llm(), config, vision_id=processor.vision_id).eval(), processor


@pytest.fixture(scope="session")
def picture():
    return np.random.default_rng(0).integers(0, 255, (56, 84, 3), np.uint8)


@pytest.fixture(scope="session")
def movie():
    """A bright square that moves over noise: uint8 [8, 56, 56, 3]."""
    frames = np.repeat(np.random.default_rng(1).integers(60, 120, (1, 56, 56, 3), np.uint8), 8, axis=0)
    for t in range(8):
        frames[t, 10:24, 4 * t : 4 * t + 14] = 250
    return frames
