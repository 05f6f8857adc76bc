"""The contract with lmms-eval, on a local task of two questions. Run by hand, in an environment that has it:

    make check-lmms-eval

lmms-eval asks for torchvision, an older PyAV and a CUDA torch, so it is not among the project's test requirements and
this file is not collected by the test command.
"""

import numpy as np
import pytest
import torch
from PIL import Image

lmms_eval = pytest.importorskip("lmms_eval")

from ov_encoder.lmm.evaluate import generate  # noqa: E402
from ov_encoder.lmm.media import as_bytes  # noqa: E402
from tests.lmm.conftest import make  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmm")
    torch.manual_seed(0)
    model, processor = make()
    model.save(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def task(tmp_path, movie, picture):
    clip = tmp_path / "clip.mkv"
    clip.write_bytes(as_bytes(movie))
    return {"local": {"test": [{"visual": [str(clip)]}, {"visual": [Image.fromarray(picture)]}]}}


def requests(kind, *arguments):
    from lmms_eval.api.instance import Instance

    return [
        Instance(request_type=kind, arguments=a, idx=i, metadata={"task": "local", "doc_id": i, "repeats": 1})
        for i, a in enumerate(arguments)
    ]


def test_the_name_is_found_and_the_class_is_ours():
    from lmms_eval.models import get_model

    cls = get_model("ov_encoder")
    assert cls.__module__ == "ov_encoder.lmm.harness_model" and cls.is_simple


def test_it_generates_what_the_library_generates(saved, task, movie):
    from lmms_eval.models import get_model

    ours = get_model("ov_encoder").create_from_arg_string(f"pretrained={saved},device=cpu,mode=chunk,budget=32")
    ours.task_dict = task
    options = {"max_new_tokens": 5, "temperature": 0, "do_sample": False, "until": []}
    asked = requests(
        "generate_until",
        ("what is said?", options, lambda d: d["visual"], 0, "local", "test"),
        ("<image> which?", options, lambda d: d["visual"], 1, "local", "test"),
    )
    answers = ours.generate_until(asked)
    prompt = ours.processor.apply_chat_template([{"role": "user", "content": "<video>\nwhat is said?"}])
    batch = ours.processor.see(movie, "video", mode="chunk", budget=32)
    assert answers[0] == generate(ours.model, ours.processor, prompt, max_new_tokens=5, videos=[batch])
    assert len(answers) == 2 and all(isinstance(a, str) for a in answers)


def test_the_likeliest_choice_has_the_smallest_first_value(saved, task):
    from lmms_eval.models import get_model

    from ov_encoder.lmm.evaluate import likelihoods

    ours = get_model("ov_encoder").create_from_arg_string(f"pretrained={saved},device=cpu")
    ours.task_dict = task
    choices = (" ants", " bees")
    asked = requests("loglikelihood", *[("which?", c, lambda d: d["visual"], 1, "local", "test") for c in choices])
    found = ours.loglikelihood(asked)
    image = task["local"]["test"][1]["visual"]
    for (loss, greedy), choice in zip(found, choices, strict=True):
        talk = [{"role": "user", "content": "<image>\nwhich?"}]
        assert np.isclose(-loss, likelihoods(ours.model, ours.processor, talk, [choice.strip()], images=image)[0])
        assert isinstance(greedy, bool)


def test_unknown_arguments_are_named(saved):
    from lmms_eval.models import get_model

    with pytest.raises(ValueError, match="unknown model_args frames; known: pretrained"):
        get_model("ov_encoder").create_from_arg_string(f"pretrained={saved},frames=8")


TASK = """
task: ov_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/data.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function task_functions.visual
doc_to_text: !function task_functions.text
doc_to_target: answer
process_results: !function task_functions.score
generation_kwargs: {{max_new_tokens: 4, temperature: 0, do_sample: false}}
metric_list:
  - {{metric: right, aggregation: mean, higher_is_better: true}}
"""
FUNCTIONS = """
def visual(doc):
    return [doc["video"]]

def text(doc, *args, **kwargs):
    return doc["question"]

def score(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""


def test_the_documented_line_runs_a_local_task(saved, tmp_path, movie):
    import json
    import subprocess
    import sys

    clip = tmp_path / "clip.mkv"
    clip.write_bytes(as_bytes(movie))
    (tmp_path / "data.jsonl").write_text(json.dumps({"video": str(clip), "question": "what?", "answer": "x"}) + "\n")
    (tmp_path / "ov_local.yaml").write_text(TASK.format(folder=tmp_path))
    (tmp_path / "task_functions.py").write_text(FUNCTIONS)
    line = f"--model ov_encoder --model_args pretrained={saved},device=cpu,mode=codec,budget=32 --tasks ov_local"
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *line.split(), "--include_path", str(tmp_path), "--batch_size", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ov_local" in done.stdout and "right" in done.stdout
