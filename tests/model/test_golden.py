"""Numbers that must never move: our own goldens (no weights stored) and those of the reference, where present.

Rewrite ours with `python -m tests.model.test_golden` (from the float64 oracle, not from the model under test).
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.weights import load_model
from ov_encoder.patchify.batch import PatchBatch
from tests.model import oracle
from tests.model.samples import make_batch, make_encoder

OURS = Path(__file__).parent / "golden" / "packed.npz"
THEIRS = Path(__file__).resolve().parents[3] / "shared" / "golden"
LENGTHS = [16, 16, 40, 7]
shared = [
    pytest.mark.shared,
    pytest.mark.skipif(not THEIRS.exists(), reason="the reference's golden tensors are not here"),
]


@pytest.mark.parametrize("kind", ["reference", "rotation"])
def test_our_golden(kind):
    want = np.load(OURS)
    with torch.inference_mode():
        out = make_encoder(rope=kind)(make_batch(LENGTHS, seed="golden"))
    firsts = np.cumsum([0, *LENGTHS[:-1]])
    np.testing.assert_allclose(out.pooled_BD, want[f"{kind}_pooled_BD"], atol=1e-5)
    np.testing.assert_allclose(out.tokens_ND[firsts], want[f"{kind}_first_tokens_BD"], atol=1e-5)


def reference_cases():
    """mode -> (patches [B, N, 588], positions [B, N, 3], arguments for the transformers model)."""
    io = load_file(THEIRS / "tiny.io.safetensors")
    image, native, codec = (cut(io[f"{m}.pixel_values"]) for m in ("image", "native", "codec"))
    index = io["codec.visible_indices"]
    chosen = torch.gather(codec, 1, index[..., None].expand(-1, -1, codec.shape[-1]))
    packed_pixels = io["codec.pixel_values"]
    return io, {
        "image": (image, grid(2, 1, 4, 4), {"pixel_values": io["image.pixel_values"]}),
        "native": (native, grid(1, 1, 2, 5), {"pixel_values": io["native.pixel_values"]}),
        "codec": (chosen, io["codec.positions"], {"pixel_values": packed_pixels, "visible_indices": index}),
        "chunk": (
            codec,
            io["chunk.positions"],
            {"pixel_values": packed_pixels, "patch_positions": io["chunk.positions"]},
        ),
    }


def cut(pixels):
    """[B, 3, (T,) H, W] to patches [B, N, 588], t-major."""
    video = pixels if pixels.ndim == 5 else pixels[:, :, None]
    B, C, T, H, W = video.shape
    x = video.reshape(B, C, T, H // 14, 14, W // 14, 14).permute(0, 2, 3, 5, 1, 4, 6)
    return x.reshape(B, T * (H // 14) * (W // 14), 588)


def grid(B, *sides):
    return torch.tensor(list(itertools.product(*map(range, sides)))).expand(B, -1, -1)


@pytest.mark.parametrize("mode", ["image", "native", "codec", "chunk"])
@pytest.mark.parametrize("way", ["packed", pytest.param("hf", id="transformers")])
class TestReference:
    pytestmark = shared

    def test_reproduced(self, mode, way):
        io, cases = reference_cases()
        patches_BNS, positions_BN3, arguments = cases[mode]
        B, N, _ = patches_BNS.shape
        model = load_model(THEIRS / "tiny.weights.safetensors")
        assert model.config.rope == "reference"
        with torch.inference_mode():
            if way == "packed":
                out = model(
                    PatchBatch.from_arrays(
                        patches_ND=patches_BNS.flatten(0, 1).numpy(),
                        positions_N3=positions_BN3.flatten(0, 1).numpy(),
                        lengths_B=[N] * B,
                    )
                )
                tokens, pooled = out.tokens_ND.unflatten(0, (B, N)), out.pooled_BD
            else:
                pytest.importorskip("transformers")
                from ov_encoder import hf

                config = hf.OneVisionEncoderConfig.from_json_file(THEIRS / "tiny.config.json")
                hf_model = hf.OneVisionEncoderModel(config).eval()
                hf_model.load_state_dict(load_file(THEIRS / "tiny.weights.safetensors"), strict=True)
                out = hf_model(**arguments)
                tokens, pooled = out.last_hidden_state, out.pooler_output
        torch.testing.assert_close(tokens, io[f"{mode}.last_hidden_state"], atol=1e-5, rtol=0)
        torch.testing.assert_close(pooled, io[f"{mode}.pooler_output"], atol=1e-5, rtol=0)


def write_ours() -> None:
    arrays = {}
    for kind in ("reference", "rotation"):
        config = OVEncoderConfig(**oracle.SMALL, rope=kind)
        weights = {k: t.numpy() for k, t in make_encoder(rope=kind).state_dict().items()}
        outs = [
            oracle.forward(weights, config, b.patches_ND, b.positions_N3)
            for b in make_batch(LENGTHS, seed="golden").unpack()
        ]
        arrays[f"{kind}_first_tokens_BD"] = np.stack([tokens[0] for tokens, _, _ in outs]).astype(np.float32)
        arrays[f"{kind}_pooled_BD"] = np.stack([pooled for _, pooled, _ in outs]).astype(np.float32)
    np.savez_compressed(OURS, **arrays)


if __name__ == "__main__":
    write_ours()
