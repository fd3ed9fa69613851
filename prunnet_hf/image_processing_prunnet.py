"""Image processor of PrunNet models: resize the shorter side, crop the centre, normalise."""

from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN
from transformers.image_utils import IMAGENET_DEFAULT_STD
from transformers.image_utils import PILImageResampling


class PrunNetImageProcessor(TorchvisionBackend):
    """Turns images into `pixel_values` `(batch, 3, height, width)`.

    The default is the paper's evaluation at 224 pixels: the shorter side to 256 (bicubic), then the central 224 x 224.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 256}
    crop_size = {"height": 224, "width": 224}
    default_to_square = False
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
