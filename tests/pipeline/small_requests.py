"""A small model's config, and requests for a served one."""

import base64
import io

import numpy as np
from PIL import Image

from uniface.config import ModelConfig

TINY = ModelConfig(
    image_size=32,
    feature_stride=4,
    skip_strides=(4, 2),
    max_channels=8,
    channel_base=256,
    attribute_dim=16,
    attribute_channels=8,
    attribute_max_channels=16,
    alpha_init=0.5,
)


def text(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format=kind)
    return base64.b64encode(file.getvalue()).decode()


def face(seed, size=32):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
