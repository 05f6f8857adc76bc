"""Text in pictures that we drew: what is written there becomes tags; pictures without text get none."""

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

from ov_encoder.data.manifest import Sample
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.ocr import read_text, read_texts, tag_images
from ov_encoder.labels.vocabulary import read_vocabulary
from tests.labels.inline import blocks_inline  # noqa: F401
from tests.labels.media import picture

pytest.importorskip("rapidocr_onnxruntime")


@pytest.fixture(scope="module")
def signs(tmp_path_factory):
    """Three signs, a picture without text, and a broken file."""
    folder = tmp_path_factory.mktemp("signs")
    font = ImageFont.load_default(size=30)
    samples = []
    for name, text in (("0", "COFFEE HOUSE"), ("1", "Coffee and tea"), ("2", "tea garden")):
        image = Image.new("RGB", (320, 80), "white")
        ImageDraw.Draw(image).text((12, 20), text, fill="black", font=font)
        image.save(folder / f"{name}.png")
    Image.fromarray(picture(1)).save(folder / "3.png")
    (folder / "4.png").write_bytes((folder / "0.png").read_bytes()[:300])
    for i in range(5):
        samples.append(Sample(f"s{i}", str(folder / f"{i}.png"), "image"))
    return samples


def test_lines_are_read(signs):
    assert [line.casefold().replace(" ", "") for line in read_text(signs[0].path)] == ["coffeehouse"]
    assert read_text(signs[3].path) == []


def test_tags_follow_the_words(signs, tmp_path):
    text = tmp_path / "text"
    assert read_texts(signs, text, rows=3) == {"images": 5, "with_text": 3, "failed": 1}
    assert tag_images(text, tmp_path) == {"vocabulary": 2, "images": 5, "with_tags": 3}
    assert read_vocabulary(tmp_path / "vocabulary.parquet") == {"coffee": 0, "tea": 1}
    rows = pq.read_table(tmp_path / "ocr.parquet").to_pylist()
    assert [(r["id"], r["tags"]) for r in rows] == [("s0", [0]), ("s1", [0, 1]), ("s2", [1]), ("s3", []), ("s4", [])]
    reasons = [r["reason"] for r in pq.read_table(text / "part-000001.parquet").to_pylist()]
    assert reasons[0] == "" and "damaged" in reasons[1]
    tag_images(text, tmp_path, min_images=1, tags=1)
    rows = pq.read_table(tmp_path / "ocr.parquet").to_pylist()
    assert [len(r["tags"]) for r in rows] == [1, 1, 1, 0, 0] and rows[1]["words"] == 3
    read_texts(signs, text, rows=3, progress=lambda tally: pytest.fail("read again"))
    with pytest.raises(ValueError, match="other options"):
        read_texts(signs[:2], text, rows=3)
    (text / "part-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(OvEncoderError, match=r"part-000001\.parquet: cannot be read"):
        tag_images(text, tmp_path)


def test_arguments(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        read_texts([], tmp_path)
    with pytest.raises(ValueError, match="tags must be"):
        tag_images(tmp_path, tmp_path, tags=0)
    with pytest.raises(OvEncoderError, match="holds no texts"):
        tag_images(tmp_path, tmp_path)
    from tests import clips

    (tmp_path / "x.mp4").write_bytes(clips.encode(clips.moving_object(T=3, H=48, W=64, radius=8).frames_THW3))
    with pytest.raises(OvEncoderError, match=r"x\.mp4: no still image"):
        read_text(str(tmp_path / "x.mp4"))
