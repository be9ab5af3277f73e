"""Models of other tools: in and out, with equal numbers."""

from speechssl.interop.model import ImportedModel, Origin

__all__ = ["ImportedModel", "Origin"]
