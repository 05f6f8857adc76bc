"""The transformers classes: same numbers as the packed encoder, loading and saving, the meanings of indices."""

import pytest
import torch

pytest.importorskip("transformers")

from transformers import AutoConfig, AutoModel

from ov_encoder.hf import OneVisionEncoderConfig, OneVisionEncoderModel
from ov_encoder.model.weights import load_model, save_model
from tests.model.oracle import noise
from tests.model.samples import make_encoder


@pytest.fixture
def folder(tmp_path):
    save_model(make_encoder(rope="reference"), tmp_path)
    return tmp_path


@pytest.fixture
def model(folder):
    return OneVisionEncoderModel.from_pretrained(folder)


def video(T=4, H=56, W=42, B=2):
    return torch.from_numpy(noise("video", (B, 3, T, H, W))).float()


def run(model, *args, **options):
    with torch.inference_mode():
        return model(*args, **options)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def same_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


class TestLoading:
    def test_keys_have_no_prefix(self, model):
        assert same_states(model, make_encoder())
        assert not list(model.buffers())

    @pytest.mark.parametrize("options", [{}, {"low_cpu_mem_usage": True}, {"attn_implementation": "eager"}])
    def test_auto_classes(self, folder, options):
        model = AutoModel.from_pretrained(folder, **options)
        assert type(model) is OneVisionEncoderModel and not model.training
        assert type(AutoConfig.from_pretrained(folder)) is OneVisionEncoderConfig
        assert same_states(model, make_encoder())

    def test_built_on_meta_then_filled(self, folder):
        """Rotary angles come from the config: nothing is left over from the meta device."""
        with torch.device("meta"):
            model = OneVisionEncoderModel(OneVisionEncoderConfig.from_pretrained(folder))
        assert all(t.is_meta for t in model.state_dict().values())
        model.to_empty(device="cpu")
        model.load_state_dict(make_encoder().state_dict())
        close(run(model.eval(), video()).pooler_output, run(self.plain(folder), video()).pooler_output)

    def plain(self, folder):
        return OneVisionEncoderModel.from_pretrained(folder)

    def test_bfloat16(self, folder):
        model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
        out = run(model, video())
        assert model.dtype == out.pooler_output.dtype == torch.bfloat16

    def test_save_pretrained_is_read_by_both(self, model, tmp_path):
        model.save_pretrained(tmp_path / "again")
        assert same_states(load_model(tmp_path / "again"), model)
        again = AutoModel.from_pretrained(tmp_path / "again")
        assert same_states(again, model)
        assert again.config.encoder_config() == load_model(tmp_path / "again").config

    @pytest.mark.parametrize("rope", ["reference", "rotation"])
    def test_rope_survives(self, rope, tmp_path):
        save_model(make_encoder(rope=rope), tmp_path)
        model = AutoModel.from_pretrained(tmp_path)
        model.save_pretrained(tmp_path / "again")
        assert load_model(tmp_path / "again").config.rope == model.config.rope == rope

    def test_config_without_rope_is_the_reference(self):
        assert OneVisionEncoderConfig().rope == "reference"
        assert OneVisionEncoderConfig().encoder_config().hidden_size == 1024

    def test_wrong_config(self):
        with pytest.raises(ValueError, match="rope is 'x'"):
            OneVisionEncoderConfig(rope="x")

    def test_from_config_initialises(self):
        torch.manual_seed(0)
        model = AutoModel.from_config(OneVisionEncoderConfig(**vars(make_encoder().config)))
        assert abs(model.encoder.layers[0].mlp.fc1.weight.std() - 0.02) < 2e-3
        assert not model.layernorm_post.bias.any() and (model.head.norm.weight == 1).all()


class TestForward:
    def test_image_is_a_video_of_one_frame(self, model):
        image = video(T=1)
        a, b = run(model, image[:, :, 0]), run(model, image)
        assert a.last_hidden_state.shape == (2, 12, 128) and a.pooler_output.shape == (2, 128)
        close(a.last_hidden_state, b.last_hidden_state)

    def test_default_positions_are_the_grid(self, model):
        t, h, w = torch.meshgrid(*(torch.arange(n) for n in (4, 4, 3)), indexing="ij")
        positions = torch.stack((t, h, w), -1).reshape(1, -1, 3).expand(2, -1, -1)
        close(run(model, video(), patch_positions=positions).pooler_output, run(model, video()).pooler_output)

    def test_fewer_indices_choose_patches(self, model):
        """Choosing before embedding equals packing exactly those patches with their positions."""
        index = torch.tensor([[0, 5, 13, 40, 47], [1, 2, 3, 4, 30]])
        chosen = run(model, video(), index)
        t, cell = index // 12, index % 12
        patches = video().unflatten(4, (3, 14)).unflatten(3, (4, 14)).permute(0, 2, 3, 5, 1, 4, 6).flatten(1, 3)
        picked = patches[torch.arange(2)[:, None], index].permute(0, 2, 1, 3, 4)  # five fake frames of one patch
        positions = torch.stack((t, cell // 3, cell % 3), -1)
        close(chosen.last_hidden_state, run(model, picked, patch_positions=positions).last_hidden_state)
        assert chosen.last_hidden_state.shape == (2, 5, 128)

    def test_only_chosen_patches_are_embedded(self, model):
        rows = []
        model.embeddings.register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
        run(model, video(), torch.arange(7).expand(2, -1))
        assert rows == [14]

    def test_as_many_indices_as_patches_only_place_them(self, model):
        """Packed fake frames: 48 patches whose indices lie anywhere in 64 slots."""
        index = torch.arange(48).flip(0).mul(15).expand(2, -1)
        t, cell = index // 12, index % 12
        positions = torch.stack((t, cell // 3, cell % 3), -1)
        close(
            run(model, video(), visible_indices=index).last_hidden_state,
            run(model, video(), patch_positions=positions).last_hidden_state,
        )

    def test_hidden_states_are_before_the_last_norm(self, model):
        out = run(model, video(), output_hidden_states=True)
        assert len(out.hidden_states) == 3 and out.hidden_states[0].shape == (2, 48, 128)
        with torch.inference_mode():
            close(model.layernorm_post(out.hidden_states[-1]), out.last_hidden_state)
        assert run(model, video()).hidden_states is None

    def test_tuple(self, model):
        out = run(model, video(), return_dict=False, output_hidden_states=True)
        assert isinstance(out, tuple) and [type(x) for x in out] == [torch.Tensor, torch.Tensor, tuple]

    def test_samples_are_independent(self, model):
        both, first = run(model, video()), run(model, video()[:1])
        close(both.pooler_output[:1], first.pooler_output)

    def test_pixels_beyond_the_last_whole_patch_are_unused(self, model):
        wide = torch.nn.functional.pad(video(), (0, 9, 0, 5), value=7.0)
        close(run(model, wide).pooler_output, run(model, video()).pooler_output)

    def test_gradient_checkpointing(self, model):
        def grads():
            model.zero_grad()
            model(video()).pooler_output.square().sum().backward()
            return [p.grad.clone() for p in model.parameters()]

        plain = grads()
        model.train()
        model.gradient_checkpointing_enable()
        calls = []
        model.encoder.layers[0].layer_norm1.register_forward_hook(lambda *_: calls.append(1))
        for a, b in zip(grads(), plain, strict=True):
            torch.testing.assert_close(a, b)
        assert model.is_gradient_checkpointing and len(calls) == 2
        model.gradient_checkpointing_disable()
        assert not model.encoder.gradient_checkpointing

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"pixel_values": video()[0, 0]}, r"must be \[B, 3, H, W\] or \[B, 3, T, H, W\]"),
            ({"pixel_values": video()[:, :1]}, "must be"),
            ({"pixel_values": video(H=13)}, "13 x 42 pixels hold no whole patch"),
            ({"visible_indices": torch.arange(5)}, r"must be \[2, K\]"),
            ({"visible_indices": torch.tensor([[48], [0]])}, r"from 0 to 48; .* in \[0, 48\)"),
            ({"visible_indices": torch.tensor([[-1], [0]])}, "from -1"),
            ({"visible_indices": torch.arange(48).add(721).expand(2, -1)}, r"to 768; .* in \[0, 768\)"),
            ({"patch_positions": torch.zeros(2, 47, 3)}, r"must be \[2, 48, 3\], got \[2, 47, 3\]"),
            ({"output_attentions": True}, "output_attentions"),
        ],
    )
    def test_wrong_arguments(self, model, arguments, says):
        with pytest.raises(ValueError, match=says):
            model(**{"pixel_values": video(), **arguments})
