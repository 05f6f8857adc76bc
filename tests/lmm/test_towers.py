"""Towers of other families behind our projector: the same tokens for the same budget, their own features, one loop.

Networks are tiny ones of the real classes with random weights (tests/evaluate/towers.py).
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ov_encoder as ov
from ov_encoder.lmm.config import LMMConfig
from ov_encoder.lmm.evaluate import generate
from ov_encoder.lmm.frames import TowerShape
from ov_encoder.lmm.media import as_bytes
from ov_encoder.lmm.model import OVLanguageModel
from ov_encoder.lmm.processor import OVProcessor
from ov_encoder.lmm.towers import VisionTower
from ov_encoder.lmm.training import build, prepare_language_run
from ov_encoder.patchify.options import Options
from tests.evaluate.towers import MEAN, STD, save_tower
from tests.lmm.conftest import make_llm, make_tokenizer
from tests.lmm.test_training import ONE, config, parts, weights  # noqa: F401 - parts is a fixture

NAMES = ["siglip2", "naflex", "qwen3vl"]  # naflex is opened as siglip2


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> (family, directory, the tower of transformers that was saved)."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = "siglip2" if name == "naflex" else name, folder, save_tower(name, folder)
        return made[name]

    return get


def make(saved, name, **lmm):
    """A model and its processor. Frames of our encoder at 56 pixels are 4 x 4 patches, as those of these towers."""
    family, folder, _ = saved(name)
    tower = VisionTower.open(family, folder, layer=lmm.get("feature_layer", -2))
    settings = LMMConfig(**lmm, tower=tower.shape)
    image, video = Options(mode="image", size=(56, 56)), Options(mode="chunk", size=56, frames=8, budget=64)
    processor = OVProcessor(make_tokenizer(), lmm=settings, image=image, video=video, context=2048)
    return OVLanguageModel(tower, make_llm(), settings, vision_id=processor.vision_id).eval(), processor


# --- the rule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "budget", "merge", "pixels", "frames"),
    [
        ({"patch": 14}, 224, 1024, 1, 224, 4),  # the numbers of our own encoder
        ({"patch": 16}, 224, 1024, 2, 256, 4),
        ({"patch": 16, "step": 2, "unit": 2}, 224, 1024, 1, 256, 8),  # pairs cost as much as single frames
        ({"patch": 16}, 504, 2048, 1, 512, 2),  # 36 rows would leave 752 tokens; 32 spend all
        ({"patch": 16}, 504, 1296, 1, 576, 1),
        ({"patch": 16, "unit": 2}, 224, 2304, 3, 16 * 12, 16),  # rows in multiples of 6
        ({"patch": 14, "rows": 24}, 224, 1152, 2, 336, 2),
        ({"patch": 16}, 224, 100, 1, 160, 1),  # a frame that fits
    ],
)
def test_a_budget_becomes_these_frames(shape, size, budget, merge, pixels, frames):
    made = TowerShape(name="x", **shape).video(Options(mode="chunk", size=size, budget=budget, frames=4), merge=merge)
    assert made.size == (pixels, pixels) and made.patch == shape["patch"] and made.mode == "chunk"
    assert made.budget == frames * (pixels // made.patch) ** 2
    assert made.frames == max(frames, 4)


@given(
    budget=st.integers(1, 5000), size=st.integers(14, 800), merge=st.sampled_from([1, 2, 3]),
    step=st.sampled_from([1, 2]), unit=st.sampled_from([1, 2]), rows=st.none() | st.sampled_from([6, 12, 18]),
)  # fmt: skip
def test_a_budget_is_never_passed_and_less_than_a_frame_is_left(budget, size, merge, step, unit, rows):
    shape = TowerShape(name="x", patch=16, rows=rows, step=step, unit=unit)
    try:
        made = shape.video(Options(mode="chunk", size=size, budget=budget), merge=merge)
    except ValueError as e:
        assert "does not pay for one frame" in str(e)
        assert budget < (rows or np.lcm(merge, unit)) ** 2
        return
    side = made.size[0] // 16
    assert side == rows if rows else side % np.lcm(merge, unit) == 0
    reaching = made.budget // step
    assert reaching % side**2 == 0 and reaching <= budget < reaching + side**2


def test_what_a_tower_of_one_size_leaves_unspent_is_said_once(caplog):
    shape = TowerShape(name="one", patch=14, rows=27)
    for _ in range(2):
        assert shape.video(Options(mode="chunk", budget=1024), merge=3).budget == 729
    assert [r.getMessage() for r in caplog.records] == [
        "one: a budget of 1024 pays for 1 x 27 x 27 tokens; 295 are not spent"
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mode": "codec"}, "mode='codec': siglip2 takes whole frames only; its modes: 'chunk' for videos, 'image'"),
        ({"mode": "collage"}, "mode='collage': siglip2 takes whole frames only"),
        ({"budget": 0.5}, "budget=0.5; siglip2 needs a number of tokens"),
        ({"budget": 15}, "budget=15 does not pay for one frame of siglip2: 4 x 4 patches"),
    ],
)
def test_what_a_tower_cannot_do_is_told(saved, movie, asked, message):
    _, processor = make(saved, "siglip2")
    with pytest.raises(ValueError, match=message):
        processor("<video>", videos=[movie], **asked)


def test_settings_that_do_not_fit_a_tower_are_told(saved):
    _, folder, _ = saved("siglip2")
    with pytest.raises(ValueError, match="merge=3; siglip2 has 4 x 4 patches, not in whole squares"):
        make(saved, "siglip2", merge=3)
    with pytest.raises(ValueError, match="feature_layer=3; siglip2 here has states 0 to 2"):
        VisionTower.open("siglip2", folder, layer=3)
    with pytest.raises(ValueError, match="size='native'; videos for x need a size"):
        TowerShape(name="x", patch=16).video(Options(mode="chunk", size="native"), merge=1)
    tower = VisionTower.open("siglip2", folder, layer=-2)
    with pytest.raises(ValueError, match=r"config.tower=None; they must agree"):
        OVLanguageModel(tower, make_llm(), LMMConfig(), vision_id=257)
    with pytest.raises(ov.OvEncoderError, match=r"cannot be loaded as Qwen3VLVisionModel|is no Qwen3VLVisionModel"):
        VisionTower.open("qwen3vl", folder, layer=-2)


# --- tokens and features --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lmm", [{}, {"merge": 2}, {"projector": "resampler", "queries": 5}], ids=str)
def test_as_many_tokens_reach_the_language_model_as_from_our_encoder(saved, name, lmm, movie, picture):
    from tests.lmm.conftest import make as make_ours

    _, ours = make_ours(**lmm)
    _, theirs = make(saved, name, **lmm)
    changes = {"mode": "chunk", "budget": 64, "size": (56, 56)}
    for prompt, media in (("<video>", {"videos": [movie], **changes}), ("<image>", {"images": [picture[:, :56]]})):
        counts = [int((p(prompt, **media)["input_ids"] == p.vision_id).sum()) for p in (ours, theirs)]
        assert counts[0] == counts[1] > 0


def own_state(name, tower, pixels_TCYX, layer):
    """State `layer` of transformers' tower, frames (or pairs) in raster order, by plain loops: [S, L, D]."""
    T, _, Y, X = pixels_TCYX.shape
    H, W = Y // 8, X // 8
    if name == "siglip2":
        return tower(pixel_values=pixels_TCYX, output_hidden_states=True).hidden_states[layer]
    cells = pixels_TCYX.unflatten(3, (W, 8)).unflatten(2, (H, 8))  # T, C, H, P, W, P
    if name == "naflex":
        patches_TLP = cells.permute(0, 2, 4, 3, 5, 1).reshape(T, H * W, -1)
        mask = torch.ones(T, H * W, dtype=torch.long)
        shapes = torch.tensor([[H, W]] * T)
        out = tower(
            pixel_values=patches_TLP, pixel_attention_mask=mask, spatial_shapes=shapes, output_hidden_states=True
        )
        return out.hidden_states[layer]
    places = [(h + y, w + x) for h in range(0, H, 2) for w in range(0, W, 2) for y in (0, 1) for x in (0, 1)]
    rows = [
        torch.stack((cells[t, :, h, :, w], cells[t + 1, :, h, :, w]), dim=1).flatten()
        for t in range(0, T, 2)
        for h, w in places
    ]
    out = tower(torch.stack(rows), grid_thw=torch.tensor([[T // 2, H, W]]), output_hidden_states=True)
    state_SLD = out.hidden_states[layer].reshape(T // 2, H * W, -1)
    raster = np.argsort([h * W + w for h, w in places])
    return state_SLD[:, raster]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", [-1, -2])
def test_features_are_the_states_of_transformers_own_tower(saved, name, layer, movie):
    model, processor = make(saved, name, feature_layer=layer)
    batch = processor.see(movie, "video")
    frames_TYXC = ov.plan(
        as_bytes(movie), mode="chunk", frames=8, budget=batch.tokens, size=(32, 32), patch=8
    ).frames_THWC[np.unique(batch.positions_N3[:, 0])]
    pixels = torch.from_numpy(frames_TYXC).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        own = own_state(name, saved(name)[2], pixels, layer)
        torch.testing.assert_close(model.encoder(batch), own.flatten(0, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_batch_equals_its_prompts_one_by_one(saved, name, picture, movie):
    model, processor = make(saved, name, merge=2)
    prompts = ["<image> then <video>", "nothing", "<video>"]
    videos = [movie, movie[:3]]
    both = processor(prompts, images=[picture], videos=videos)
    alone = [
        processor(prompts[0], images=[picture], videos=videos[:1]),
        processor(prompts[1]),
        processor(prompts[2], videos=videos[1:]),
    ]
    with torch.inference_mode():
        together = model(**both).logits
        for row, one in enumerate(alone):
            mine = together[row][both["attention_mask"][row].bool()]
            assert (mine - model(**one).logits[0]).abs().max() < 1e-4


def test_times_stand_before_the_slots_and_a_pair_has_the_time_between_its_frames(saved, movie):
    for name, step in (("siglip2", 1), ("qwen3vl", 2)):
        _, processor = make(saved, name)
        batch = processor.see(movie, "video", budget=64)
        times_S = batch.slot_times_B[0][np.unique(batch.positions_N3[:, 0])].reshape(-1, step).mean(axis=1)
        assert len(times_S) == 4
        assert processor.write_vision(batch) == "".join(f"<t={t:.1f}s>" + "<|vision|>" * 16 for t in times_S)


def test_a_short_clip_repeats_its_last_frame_to_fill_a_pair(saved, movie):
    model, processor = make(saved, "qwen3vl")
    three, four = (processor.see(f, "video") for f in (movie[:3], movie[[0, 1, 2, 2]]))
    assert (three.tokens, four.tokens) == (48, 64)
    with torch.inference_mode():
        assert torch.equal(model.visual_tokens(three), model.visual_tokens(four))


def test_patches_that_are_no_whole_frames_are_refused(saved, movie):
    model, processor = make(saved, "siglip2")
    sparse = ov.patchify(as_bytes(movie), mode="codec", size=(32, 32), patch=8, frames=8, budget=32)
    with pytest.raises(ValueError, match="sample of mode 'codec', 32 patches of 4 x 4 frames, is not made of whole"):
        processor("<video>", videos=[sparse])
    whole = processor.see(movie, "video")
    with pytest.raises(ValueError, match="not made of whole frames"):
        model.visual_tokens(replace(whole, positions_N3=whole.positions_N3[::-1].copy()))
    with pytest.raises(ValueError, match="patches of 14 pixels; siglip2 takes uint8 patches of 8"):
        processor("<video>", videos=[ov.patchify(as_bytes(movie), mode="chunk", size=56, budget=16)])


def test_a_prompt_is_made_to_fit_the_context_by_smaller_frames(saved, movie, picture):
    settings = make(saved, "naflex")[1]
    processor = OVProcessor(
        make_tokenizer(), lmm=settings.lmm, image=settings.image, video=settings.video, context=50
    )  # fmt: skip
    out = processor("<video><image>", videos=[movie], images=[picture], fit=True)
    assert out["input_ids"].shape[1] <= 50 and len(out["vision"]) == 2


# --- saved, trained, asked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_what_it_saved_with_all_weights_of_the_tower(saved, name, tmp_path, movie):
    model, processor = make(saved, name, merge=2)
    model.save(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reader = OVLanguageModel.load(tmp_path), OVProcessor.from_pretrained(tmp_path)
    assert again.config == model.config == reader.lmm and reader.video == processor.video
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(t, after[key]) for key, t in before.items())
    with torch.inference_mode():
        one, two = (m(**p("<video>", videos=[movie])).logits for m, p in ((model, processor), (again, reader)))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("train", ["projector", "all"])
def test_the_loop_trains_what_a_loss_reaches(saved, name, train, parts, tmp_path):  # noqa: F811
    family, folder, _ = saved(name)
    base = config(parts, encoder=f"{family}:{folder}", train=train)
    run = prepare_language_run(replace(base, sight=replace(base.sight, modes=("chunk",))), tmp_path, ONE)
    before = weights(run)
    run.fit()
    changed = {key for key, p in weights(run).items() if not torch.equal(p, before[key])}
    unused = {id(p) for part in run.task.module.encoder.unused for p in part.parameters()}
    reached = {
        key
        for key, p in run.task.module.named_parameters()
        if key.startswith("projector.") or (train == "all" and id(p) not in unused)
    }
    sure = {key for key in reached if not key.endswith("k_proj.bias")}  # softmax takes no notice of those
    assert sure <= changed <= reached


def test_a_run_is_resumed_goes_into_a_second_stage_and_answers(saved, parts, tmp_path, movie):  # noqa: F811
    _, folder, _ = saved("qwen3vl")
    base = config(parts, encoder=f"qwen3vl:{folder}")
    base = replace(base, sight=replace(base.sight, modes=("chunk",)))
    whole = prepare_language_run(base, tmp_path / "whole", ONE)
    whole.fit()
    cut = prepare_language_run(replace(base, loop=replace(base.loop, save_every=3)), tmp_path / "cut", ONE)

    def stop(record):
        if record["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.fit(stop)
    again = prepare_language_run(base, tmp_path / "cut", ONE)
    assert again.resumed
    again.fit()
    assert all(torch.equal(p, weights(again)[key]) for key, p in weights(whole).items())
    first = again.finish()
    second = prepare_language_run(replace(base, init=str(first), train="all", llm=""), tmp_path / "two", ONE)
    assert second.task.module.config.tower == again.task.module.config.tower
    second.fit()
    model, processor = OVLanguageModel.load(second.finish()), OVProcessor.from_pretrained(tmp_path / "two" / "model")
    prompt = processor.apply_chat_template([{"role": "user", "content": "<video> which?"}])
    assert isinstance(generate(model, processor, prompt, videos=[movie], max_new_tokens=2), str)


def test_codec_mode_for_a_tower_ends_before_training(saved, parts):  # noqa: F811
    with pytest.raises(ValueError, match="mode='codec': siglip2 takes whole frames only; its modes"):
        build(config(parts, encoder=f"siglip2:{saved('siglip2')[1]}"))


def test_the_commands_train_ask_and_measure(saved, parts, tmp_path, capsys):  # noqa: F811
    from ov_encoder.cli import lmm

    sizes = ("samples=4", "sight.image_size=28", "sight.video_size=56", "sight.frames=4", "sight.budget=16")
    run, settings = tmp_path / "run", {"loop.workers=0", *sizes}
    encoder = f"siglip2:{saved('siglip2')[1]}"
    talks = (str(parts / "talks.jsonl"),)
    assert lmm.train(data=talks, out=run, encoder=encoder, llm=str(parts / "llm"), steps=2, set=tuple(settings)) == 0
    question = {"video": str(parts / "clip.mkv"), "question": "which?", "answer": "c"}
    (tmp_path / "q.jsonl").write_text(json.dumps(question) + "\n")
    model = run / "model"
    assert lmm.eval_(tmp_path / "q.jsonl", model=model, out=tmp_path / "scores", max_new_tokens=2) == 0
    picture = tmp_path / "seen.png"
    assert lmm.ask(parts / "clip.mkv", "which?", model=model, max_new_tokens=2, budget=32, show=picture) == 0
    assert "32 patches of 4 slots were looked at" in capsys.readouterr().out and picture.exists()
    for command in (
        lambda: lmm.ask(parts / "clip.mkv", "which?", model=model, mode="codec"),
        lambda: lmm.eval_(tmp_path / "q.jsonl", model=model, out=tmp_path / "no", mode="codec"),
    ):
        with pytest.raises(ValueError, match="its modes: 'chunk' for videos"):
            command()
