"""ClipPlans made by hand: a bright square moves over a gradient. viz is tested without reading anything."""

import numpy as np

from ov_encoder.codec.info import MediaInfo
from ov_encoder.patchify.plan import ClipPlan


def media_info(**changes) -> MediaInfo:
    K = 48
    bits = np.full(K, 4_000, np.int64)
    bits[::12] = 60_000
    key = np.zeros(K, bool)
    key[::12] = True
    values = dict(
        name="clips/square.mp4", kind="video", container="mp4", codec="h264", profile="High",
        pixel_format="yuv420p", height=180, width=320, rotation=0, frames=K, fps=24.0, duration_s=2.0,
        native=("motion", "qp"),
        packet_bits_K=bits, packet_time_K=np.arange(K) / 24, packet_key_K=key,
    )  # fmt: skip
    return MediaInfo(**(values | changes))


def video_plan(T: int = 12, H: int = 8, W: int = 10, P: int = 14, **changes) -> ClipPlan:
    """Slot t has a 2x2 square of patches at (3, t % (W - 2)); slots 0 and T//2 are whole, T//2 starts a shot."""
    rows, cols = np.mgrid[0 : H * P, 0 : W * P]
    ground = np.stack([rows * 255 // (H * P), cols * 255 // (W * P), 0 * rows + 90], -1).astype(np.uint8)
    frames = np.repeat(ground[None], T, 0)
    scores = np.random.default_rng(0).random((T, H, W)).astype(np.float32) * 0.1
    keep = np.zeros((T, H, W), bool)
    for t in range(T):
        x = t % (W - 2)
        frames[t, 3 * P : 5 * P, x * P : (x + 2) * P] = (250, 60, 60)
        scores[t, 3:5, x : x + 2] = 1 + 0.01 * t
        keep[t, 3:5, x : x + 2] = True
    anchors = np.isin(np.arange(T), [0, T // 2])
    keep[anchors] = True
    values = dict(
        info=media_info(), mode="codec", patch_size=P, frames_THWC=frames, slot_frames_T=np.arange(T) * 4,
        slot_times_T=np.arange(T) / 6, scores_THW=scores, keep_THW=keep, anchors_T=anchors, shots=[0, T // 2],
        provenance={
            "source": "clips/square.mp4", "codec": "h264", "provider": "native", "signal": "fused",
            "signals": {"motion": "native", "residual": "derived", "bits": "absent"}, "notes": [],
        },
        maps_THW={"motion": scores}, seconds={"read": 0.12, "select": 0.01}, notes=[],
    )  # fmt: skip
    return ClipPlan(**(values | changes))


def image_plan(H: int = 6, W: int = 9, P: int = 14) -> ClipPlan:
    """One slot, every patch kept, nothing scored."""
    return video_plan(
        1, H, W, P, mode="image",
        keep_THW=np.ones((1, H, W), bool), scores_THW=np.full((1, H, W), np.nan, np.float32),
        info=media_info(name="photo.png", kind="image", codec="png", frames=1, fps=0.0, duration_s=0.0),
        anchors_T=np.array([True]), shots=[0], provenance={"provider": "none"}, maps_THW={},
    )  # fmt: skip
