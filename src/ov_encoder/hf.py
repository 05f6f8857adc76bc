"""The encoder for transformers: config, model and processor under `model_type="onevision_encoder"`.

    from transformers import AutoImageProcessor, AutoModel
    import ov_encoder.hf                            # registers the three classes
    model = AutoModel.from_pretrained("folder or hub id")

Importing this module needs the extra `hf`. The same weights load with `ov_encoder.load_model`.
"""

from ov_encoder.errors import missing_extra

try:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel
except ImportError as e:
    raise missing_extra("transformers", "hf", "ov_encoder.hf") from e

from ov_encoder.model.hf_model import OneVisionEncoderConfig, OneVisionEncoderModel
from ov_encoder.model.hf_processor import OneVisionEncoderProcessor, from_patch_batch

__all__ = ["OneVisionEncoderConfig", "OneVisionEncoderModel", "OneVisionEncoderProcessor", "from_patch_batch"]

AutoConfig.register(OneVisionEncoderConfig.model_type, OneVisionEncoderConfig, exist_ok=True)
AutoModel.register(OneVisionEncoderConfig, OneVisionEncoderModel, exist_ok=True)
AutoImageProcessor.register(OneVisionEncoderConfig, slow_image_processor_class=OneVisionEncoderProcessor, exist_ok=True)
