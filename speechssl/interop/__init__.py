"""Models of other tools: in and out, with equal numbers."""

from speechssl.interop.card import ModelFacts
from speechssl.interop.export import EXPORTERS, ExportResult, export_model
from speechssl.interop.gate import ParityReport
from speechssl.interop.loading import identify, import_model, load_encoder
from speechssl.interop.model import Exportable, ImportedModel, Origin, PretrainingModel
from speechssl.interop.models import load_asr, load_described, load_model, load_pretraining, save_imported
from speechssl.interop.torchaudio import import_torchaudio

__all__ = [
    "EXPORTERS",
    "ExportResult",
    "Exportable",
    "ImportedModel",
    "ModelFacts",
    "Origin",
    "ParityReport",
    "PretrainingModel",
    "export_model",
    "identify",
    "import_model",
    "import_torchaudio",
    "load_asr",
    "load_described",
    "load_encoder",
    "load_model",
    "load_pretraining",
    "save_imported",
]
