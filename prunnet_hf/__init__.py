"""PrunNet for Hugging Face: train one network, cut subnetworks of any capacity, search one gallery with all of them.

Importing `prunnet_hf` registers its classes with the transformers Auto classes. Names that need faiss or datasets are
imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from .configuration_prunnet import PrunNetConfig
from .image_processing_prunnet import PrunNetImageProcessor
from .modeling_prunnet import PrunNetForImageClassification, PrunNetModel
from .prunable_model import PrunNetPreTrainedModel

if TYPE_CHECKING:
    from .data.loading import load_splits
    from .export.budgets import capacity_for
    from .export.onnx import export_onnx
    from .retrieval.compatibility import check_compatible
    from .retrieval.embedding_table import Embeddings, read_embeddings
    from .retrieval.folder_encoding import encode_folder
    from .retrieval.gallery import Gallery
    from .retrieval.milvus_export import export_to_milvus
    from .retrieval.search import search

__version__ = "0.1.0.dev0"

AutoConfig.register(PrunNetConfig.model_type, PrunNetConfig)
AutoModel.register(PrunNetConfig, PrunNetModel)
AutoModelForImageClassification.register(PrunNetConfig, PrunNetForImageClassification)
AutoImageProcessor.register(PrunNetConfig, image_processor_classes={"torchvision": PrunNetImageProcessor})

_LAZY = {
    "Embeddings": ".retrieval.embedding_table",
    "Gallery": ".retrieval.gallery",
    "capacity_for": ".export.budgets",
    "check_compatible": ".retrieval.compatibility",
    "encode_folder": ".retrieval.folder_encoding",
    "export_onnx": ".export.onnx",
    "export_to_milvus": ".retrieval.milvus_export",
    "load_splits": ".data.loading",
    "read_embeddings": ".retrieval.embedding_table",
    "search": ".retrieval.search",
}
"""Names that are imported from these modules when they are first used."""

__all__ = [
    "Embeddings",
    "Gallery",
    "PrunNetConfig",
    "PrunNetForImageClassification",
    "PrunNetImageProcessor",
    "PrunNetModel",
    "PrunNetPreTrainedModel",
    "capacity_for",
    "check_compatible",
    "encode_folder",
    "export_onnx",
    "export_to_milvus",
    "load_splits",
    "read_embeddings",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_LAZY[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
