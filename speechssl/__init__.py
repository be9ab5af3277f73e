"""Self-supervised speech encoders: pre-train, fine-tune, evaluate, embed.

`import speechssl` is cheap; what is named here is imported when it is first used::

    encoder = speechssl.load_encoder("speechssl-tiny")
    embedding = encoder.embed("clip.flac", layer=3, pool="mean")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechssl.interop import load_asr, load_encoder
    from speechssl.manifest import Manifest

__version__ = "0.1.0"

__all__ = ["Manifest", "__version__", "load_asr", "load_encoder"]

_HOMES = {"load_asr": "speechssl.interop", "load_encoder": "speechssl.interop", "Manifest": "speechssl.manifest"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'speechssl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
