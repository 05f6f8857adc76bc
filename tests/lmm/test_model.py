"""The language model with eyes: batches equal single prompts, features land where their placeholders stand."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import ov_encoder as ov
from ov_encoder.lmm.model import OVLanguageModel, load_llm
from ov_encoder.patchify.batch import pack
from tests.lmm.conftest import make, make_llm

KINDS = [{}, {"merge": 2}, {"projector": "resampler", "queries": 5}, {"feature_layer": -1, "stamps": False}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_equals_its_prompts_one_by_one(kind, side, picture, movie):
    model, processor = make(**kind)
    prompts = ["Look: <image> then <video>. What?", "no media at all", "<video> <image> <image>"]
    images, videos = [picture, picture[:, :56], picture[::-1].copy()], [movie, movie[::-1].copy()]
    both = processor(prompts, images=images, videos=videos, padding_side=side)
    with torch.inference_mode():
        together = model(**both).logits
        for row, (text, own_images, own_videos) in enumerate(
            [(prompts[0], images[:1], videos[:1]), (prompts[1], [], []), (prompts[2], images[1:], videos[1:])]
        ):
            alone = processor(text, images=own_images, videos=own_videos)
            expected = model(**alone).logits[0]
            mine = together[row][both["attention_mask"][row].bool()]
            assert mine.shape == expected.shape
            assert (mine - expected).abs().max() < 1e-4


def test_features_stand_where_their_placeholders_stood(picture):
    model, processor = make()
    out = processor("a<image>b", images=[picture])
    with torch.inference_mode():
        embeds = model.embed(out["input_ids"], out["vision"])[0]
        features = model.visual_tokens(out["vision"])
    visual = out["input_ids"][0] == processor.vision_id
    assert torch.equal(embeds[visual], features)
    assert torch.equal(embeds[~visual], model.embedding(out["input_ids"][0][~visual]))


def test_merged_features_are_those_of_a_plain_loop(picture):
    model, processor = make(merge=2)
    batch = processor.see(picture, "image")
    with torch.inference_mode():
        state = model.encoder(batch, hidden_states=[-2]).hidden_states[0]
        mine = model.visual_tokens(batch)
        at = {tuple(p): x for p, x in zip(batch.positions_N3.tolist(), state, strict=True)}
        normed = {k: model.projector.norm(x) for k, x in at.items()}
        rows, columns = batch.grids_B[0][1:]
        for i, (h, w) in enumerate((h, w) for h in range(0, rows, 2) for w in range(0, columns, 2)):
            joined = torch.cat([normed[0, h + y, w + x] for y in (0, 1) for x in (0, 1)])
            expected = model.projector.fc2(torch.nn.functional.gelu(model.projector.fc1(joined)))
            assert torch.allclose(mine[i], expected, atol=1e-5)


def test_generation_is_transformers_own_and_uses_the_cache(movie):
    model, processor = make()
    inputs = processor(["<video> what is said", "hello"], videos=[movie])
    new = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert new.shape == (2, 5)
    uncached = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, use_cache=False)
    assert torch.equal(new, uncached)
    ids = inputs["input_ids"][:1]
    for expected in new[0]:  # greedy by hand, one forward a token
        grown = ids.shape[1] - inputs["input_ids"].shape[1]
        mask = torch.nn.functional.pad(inputs["attention_mask"][:1], (0, grown), value=1)
        with torch.no_grad():
            logits = model(ids, mask, inputs["vision"]).logits[0, -1]
        logits[0] = -torch.inf  # min_new_tokens forbids the end
        assert logits.argmax() == expected
        ids = torch.cat([ids, expected.view(1, 1)], dim=1)


def test_it_loads_what_it_saved(tmp_path, movie):
    model, processor = make(merge=2)
    inputs = processor("<video>", videos=[movie])
    model.save(tmp_path)
    again = OVLanguageModel.load(tmp_path)
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    (tmp_path / "projector.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ov.OvEncoderError, match=r"projector\.safetensors: cannot be read as a projector"):
        OVLanguageModel.load(tmp_path)


def test_language_models_that_are_none_are_told(tmp_path):
    def change(name, edit):
        folder = tmp_path / name
        make_llm().save_pretrained(folder)
        edit(folder)
        return folder

    def kind(value):
        def edit(folder):
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | value))

        return edit

    def without(key):
        def edit(folder):
            tensors = load_file(folder / "model.safetensors")
            del tensors[key]
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

        return edit

    for name, edit, message in (
        ("other", kind({"model_type": "other"}), "model type `other` but Transformers does not recognize"),
        ("t5", kind({"model_type": "t5"}), "Unrecognized configuration class .*T5Config"),
        ("shape", kind({"intermediate_size": 80}), "cannot be loaded as a causal language model"),
        ("cut", lambda f: (f / "model.safetensors").write_bytes(b"\0" * 99), "cannot be loaded as a causal"),
        ("lacks", without("model.norm.weight"), "lacks 1 weights of LlamaForCausalLM, first model.norm.weight"),
    ):
        with pytest.raises(ov.OvEncoderError, match=message):
            load_llm(change(name, edit))
    assert load_llm(change("whole", lambda f: None)).config.model_type == "llama"


def test_counts_that_do_not_fit_are_told(picture):
    model, processor = make()
    inputs = processor("<image>", images=[picture])
    with pytest.raises(ValueError, match="hold 24 visual placeholders, but no vision was given"):
        model(inputs["input_ids"])
    with pytest.raises(ValueError, match="hold 24 visual placeholders for 48 visual tokens"):
        model(inputs["input_ids"], vision=pack([inputs["vision"]] * 2))


def test_gradients_reach_every_part(picture):
    model, processor = make()
    inputs = processor("<image> hi", images=[picture])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.vision_id, -100)
    model(**inputs, labels=labels).loss.backward()
    for part in (model.projector, model.llm, model.encoder.embeddings):
        assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in part.parameters())
