"""Models of other tools: in and out, with equal numbers."""

from speechssl.interop.loading import identify, import_model, load_encoder
from speechssl.interop.model import ImportedModel, Origin

__all__ = ["ImportedModel", "Origin", "identify", "import_model", "load_encoder"]
