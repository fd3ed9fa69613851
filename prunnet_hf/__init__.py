"""PrunNet for Hugging Face: train one network, cut subnetworks of any capacity, search one gallery with all of them.

Importing `prunnet_hf` registers its classes with the transformers Auto classes. The packages with heavier dependencies
(`prunnet_hf.data`, `retrieval`, `runs`, `training`, `compression`, `hub`) are imported only by their users.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from .configuration_prunnet import PrunNetConfig
from .image_processing_prunnet import PrunNetImageProcessor
from .modeling_prunnet import PrunNetForImageClassification, PrunNetModel
from .prunable_model import PrunNetPreTrainedModel

__version__ = "0.1.0.dev0"

AutoConfig.register(PrunNetConfig.model_type, PrunNetConfig)
AutoModel.register(PrunNetConfig, PrunNetModel)
AutoModelForImageClassification.register(PrunNetConfig, PrunNetForImageClassification)
AutoImageProcessor.register(PrunNetConfig, image_processor_classes={"torchvision": PrunNetImageProcessor})

__all__ = [
    "PrunNetConfig",
    "PrunNetForImageClassification",
    "PrunNetImageProcessor",
    "PrunNetModel",
    "PrunNetPreTrainedModel",
]
