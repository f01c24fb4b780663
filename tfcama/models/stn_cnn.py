"""`stn_cnn`: a CNN that first moves its input to where it likes it (Jaderberg et al., 2015)."""

from __future__ import annotations

from tfcama.models.discriminative import (
    Discriminative,
    DiscriminativeConfig,
    check_images,
    cnn_stack,
)
from tfcama.networks.spatial_transformer import SpatialTransformer
from tfcama.types import InputSpec


def stn_cnn(spec: InputSpec, config: DiscriminativeConfig) -> Discriminative:
    """A spatial transformer of six affine numbers before the layers of `cnn`.

    Raises:
      InputError: the inputs are no images.
    """
    check_images(spec, "stn_cnn")
    transformer = SpatialTransformer(kernel_initializer=config.kernel_initializer)
    return Discriminative(spec, [(transformer, 0.0), *cnn_stack(config)], name="stn_cnn")
