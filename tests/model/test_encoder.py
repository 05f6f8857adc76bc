"""The packed forward against a naive float64 re-implementation, and the properties that packing must have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.model import layers
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import OVEncoder, normalise
from ov_encoder.patchify.batch import PatchBatch, pack
from tests.model import oracle
from tests.model.samples import LENGTHS, bounds, make_batch, make_encoder, numpy_weights

KINDS = ("reference", "rotation")


def encode(model, batch, **options):
    with torch.inference_mode():
        return model(batch, **options)


def one(patches_ND, positions_N3):
    return PatchBatch.from_arrays(patches_ND=patches_ND, positions_N3=positions_N3, lengths_B=[len(patches_ND)])


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_oracle(kind):
    model, batch = make_encoder(rope=kind), make_batch()
    out = encode(model, batch, hidden_states=True)
    weights = numpy_weights(model)
    for i, (a, b) in enumerate(bounds(batch)):
        tokens, pooled, states = oracle.forward(weights, model.config, batch.patches_ND[a:b], batch.positions_N3[a:b])
        np.testing.assert_allclose(out.tokens_ND[a:b], tokens, atol=2e-5)
        np.testing.assert_allclose(out.pooled_BD[i], pooled, atol=2e-5)
        for got, want in zip(out.hidden_states, states, strict=True):
            np.testing.assert_allclose(got[a:b], want, atol=5e-5)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5))
@settings(max_examples=15)
def test_packed_equals_separate(lengths):
    model, batch = make_encoder(), make_batch(lengths)
    together, alone = encode(model, batch), [encode(model, b) for b in batch.unpack()]
    torch.testing.assert_close(together.tokens_ND, torch.cat([o.tokens_ND for o in alone]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.pooled_BD, torch.cat([o.pooled_BD for o in alone]), atol=1e-5, rtol=0)
    assert [len(x) for x in together.split()] == lengths
    assert torch.equal(together.split()[-1], together.tokens_ND[-lengths[-1] :])


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_equals_dense_restricted_to_the_same_tokens(kind):
    """All 64 patches, but nobody sees the dropped ones (oracle) == only the kept patches, packed (ours)."""
    model = make_encoder(rope=kind)
    grid, patches = np.argwhere(np.ones((4, 4, 4))), oracle.formula_pixels("dense", 64)
    keep = np.zeros(64, bool)
    keep[np.random.default_rng(0).choice(64, 17, replace=False)] = True
    allowed = np.broadcast_to(keep, (64, 64)) | np.eye(64, dtype=bool)
    dense, _, _ = oracle.forward(numpy_weights(model), model.config, patches, grid, allowed)
    sparse = encode(model, one(patches[keep], grid[keep]))
    np.testing.assert_allclose(sparse.tokens_ND, dense[keep], atol=2e-5)
    everything = encode(model, one(patches, grid)).tokens_ND.numpy()
    assert np.abs(everything[keep] - dense[keep]).max() > 1e-2  # the restriction does matter


@pytest.mark.parametrize("kind", KINDS)
def test_order_is_irrelevant_when_positions_travel_along(kind):
    model, batch = make_encoder(rope=kind), make_batch([20])
    order = np.random.default_rng(1).permutation(20)
    straight = encode(model, batch)
    moved = encode(model, one(batch.patches_ND[order], batch.positions_N3[order]))
    torch.testing.assert_close(moved.tokens_ND, straight.tokens_ND[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.pooled_BD, straight.pooled_BD, atol=1e-5, rtol=0)
    left_behind = encode(model, one(batch.patches_ND[order], batch.positions_N3))
    assert (left_behind.pooled_BD - straight.pooled_BD).abs().max() > 1e-2


def test_rotation_sees_only_relative_positions():
    shift = np.array([10, 3, 5])
    for kind, same in (("rotation", True), ("reference", False)):
        model, batch = make_encoder(rope=kind), make_batch([20])
        moved = one(batch.patches_ND, batch.positions_N3 + shift)
        gap = (encode(model, moved).pooled_BD - encode(model, batch).pooled_BD).abs().max()
        assert gap < 1e-4 if same else gap > 1e-2, (kind, gap)


def test_fractional_positions():
    model, batch = make_encoder(), make_batch([6])
    halves = batch.positions_N3 / 2
    assert halves.dtype == np.float64
    tokens, _, _ = oracle.forward(numpy_weights(model), model.config, batch.patches_ND, halves)
    np.testing.assert_allclose(encode(model, one(batch.patches_ND, halves)).tokens_ND, tokens, atol=2e-5)


def test_pixels_normalised_here_or_before_are_the_same():
    model, batch = make_encoder(), make_batch()
    floats = normalise(torch.from_numpy(batch.patches_ND)).numpy()
    ready = PatchBatch.from_arrays(patches_ND=floats, positions_N3=batch.positions_N3, lengths_B=batch.lengths_B)
    for other in (ready, batch.to("cpu"), pack(batch.unpack())):
        assert torch.equal(encode(model, other).tokens_ND, encode(model, batch).tokens_ND)


def test_bfloat16_is_close_to_float32():
    exact = encode(make_encoder(), make_batch())
    out = encode(make_encoder().to(torch.bfloat16), make_batch())
    assert out.tokens_ND.dtype == out.pooled_BD.dtype == torch.bfloat16
    for got, want in ((out.tokens_ND, exact.tokens_ND), (out.pooled_BD, exact.pooled_BD)):
        assert torch.nn.functional.cosine_similarity(got.float(), want, dim=-1).min() > 0.999


def test_long_input_goes_through_the_mlp_in_pieces(monkeypatch):
    model, batch = make_encoder(), make_batch([50])
    whole = encode(model, batch)
    monkeypatch.setattr(layers, "MLP_ROWS", 7)
    torch.testing.assert_close(encode(model, batch).tokens_ND, whole.tokens_ND, atol=1e-5, rtol=0)


def test_hidden_states_by_number():
    model, batch = make_encoder(), make_batch()
    every = encode(model, batch, hidden_states=True).hidden_states
    assert len(every) == 3
    assert not encode(model, batch).hidden_states
    picked = encode(model, batch, hidden_states=(-1, 0, -2)).hidden_states
    assert all(torch.equal(a, every[i]) for a, i in zip(picked, (2, 0, 1), strict=True))
    with torch.inference_mode():
        assert torch.equal(model.layernorm_post(every[-1]), encode(model, batch).tokens_ND)
    with pytest.raises(ValueError, match="hidden state 3 does not exist; 2 blocks have states 0 to 2"):
        model(batch, hidden_states=(3,))


def test_checkpointing_changes_neither_outputs_nor_gradients():
    def run(enabled):
        model = make_encoder()
        model.set_gradient_checkpointing(enabled)
        calls = []
        model.encoder.layers[0].layer_norm1.register_forward_hook(lambda *_: calls.append(1))
        out = model(make_batch())
        out.pooled_BD.square().sum().backward()
        return out.pooled_BD.detach(), [p.grad for p in model.parameters()], len(calls)

    plain, grads, once = run(False)
    again, grads_again, twice = run(True)
    assert (once, twice) == (1, 2)  # it does recompute
    assert torch.equal(plain, again)
    for g, h in zip(grads, grads_again, strict=True):
        torch.testing.assert_close(g, h)


def test_gradients_reach_every_parameter_and_are_right():
    """One directional derivative of the pooled output, against central differences in float64."""
    model, batch = make_encoder().double(), make_batch([5, 3])
    floats = normalise(torch.from_numpy(batch.patches_ND)).double()
    positions = torch.from_numpy(batch.positions_N3)

    def loss():
        return model.encode(floats, positions, [5, 3], config=model.config).pooled_BD.sin().sum()

    loss().backward()
    direction = [torch.from_numpy(oracle.noise(n, p.shape)) for n, p in model.named_parameters()]
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if "k_proj.b" not in n
    )
    slope = sum((p.grad * d).sum() for p, d in zip(model.parameters(), direction, strict=True))
    values = []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            for p, d in zip(model.parameters(), direction, strict=True):
                p.add_(d, alpha=step)
            values.append(loss())
            for p, d in zip(model.parameters(), direction, strict=True):
                p.sub_(d, alpha=step)
    # rotary tables are float32 by design, so a derivative is good to about four digits
    torch.testing.assert_close((values[0] - values[1]) / 2e-3, slope, rtol=1e-2, atol=1e-2)


def test_compiles_as_one_graph():
    torch._dynamo.reset()
    model, batch = make_encoder(), make_batch().to("cpu")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(encode(compiled, batch).tokens_ND, encode(model, batch).tokens_ND)


def test_model_without_head():
    out = encode(make_encoder(use_head=False), make_batch())
    assert out.pooled_BD is None and out.tokens_ND.shape == (sum(LENGTHS), 128)


def test_rms_norm_has_no_biases():
    model = make_encoder(layer_norm_type="rms_norm")
    assert not any("norm" in k and k.endswith("bias") for k in model.state_dict())
    assert torch.isfinite(encode(model, make_batch()).pooled_BD).all()


def test_wrong_patch_size():
    batch = PatchBatch.from_arrays(
        patches_ND=np.zeros((2, 768), np.uint8), positions_N3=np.zeros((2, 3), int), lengths_B=[2]
    )
    with pytest.raises(ValueError, match="patches of 16 pixels, this model takes 14"):
        make_encoder()(batch)


def test_names_and_shapes_of_released_checkpoints():
    """ViT-L: 315,509,760 parameters, no class token, no absolute positions, no buffers."""
    with torch.device("meta"):
        model = OVEncoder(OVEncoderConfig.from_name("large"))
    shapes = {k: tuple(t.shape) for k, t in model.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == 315_509_760
    assert not list(model.buffers())
    D = 1024
    want = {"embeddings.patch_embedding.weight": (D, 3, 14, 14), "head.probe": (1, 1, D), "head.norm.weight": (D,)}
    want |= {f"{n}.{p}": (D,) for n in ("layernorm_pre", "layernorm_post") for p in ("weight", "bias")}
    want |= {"head.attention.in_proj_weight": (3 * D, D), "head.attention.in_proj_bias": (3 * D,)}
    linear = {"head.attention.out_proj": (D, D), "head.mlp.fc1": (4 * D, D), "head.mlp.fc2": (D, 4 * D)}
    for i in range(24):
        layer = f"encoder.layers.{i}"
        want |= {f"{layer}.layer_norm{n}.{p}": (D,) for n in (1, 2) for p in ("weight", "bias")}
        linear |= {f"{layer}.self_attn.{n}_proj": (D, D) for n in ("q", "k", "v", "out")}
        linear |= {f"{layer}.mlp.fc1": (4 * D, D), f"{layer}.mlp.fc2": (D, 4 * D)}
    want |= {f"{n}.weight": shape for n, shape in linear.items()} | {f"{n}.bias": s[:1] for n, s in linear.items()}
    assert shapes == want


def test_fresh_weights():
    model = OVEncoder(OVEncoderConfig.from_name("tiny", num_hidden_layers=1))
    block = model.encoder.layers[0]
    assert abs(block.mlp.fc1.weight.std() - 0.02) < 1e-3 and not block.mlp.fc1.bias.any()
    assert abs(model.embeddings.patch_embedding.weight.std() - 0.02) < 1e-3
    assert (block.layer_norm1.weight == 1).all() and not block.layer_norm1.bias.any()
    assert 0.7 < model.head.probe.std() < 1.3
    bound = (6 / (4 * 192)) ** 0.5
    w = model.head.attention.in_proj_weight
    assert 0.98 * bound < w.abs().max() <= bound
