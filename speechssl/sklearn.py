"""An encoder as a transformer of scikit-learn: recordings in, one row of features each out.

    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(SpeechEmbedder("speechssl-tiny", layer=3), LogisticRegression(max_iter=1000))
    model.fit(paths, labels)

`Pipeline(..., memory="folder")` keeps the features of a layer between the fits of a search.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from speechssl.encoder import resolve_device
from speechssl.errors import ConfigError
from speechssl.interop import load_encoder


class SpeechEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Recordings -> `[B, E]`, each row that of `SpeechEncoder.embed`.

    The encoder is frozen: `fit` only loads it. X is a list (or array) of paths, of utterances or of waveforms `[S]`
    (with `sample_rate`), or a `Manifest`.
    """

    def __init__(
        self,
        checkpoint: str = "speechssl-tiny",
        *,
        layer: int | None = None,
        layer_weights: Sequence[float] | None = None,
        pool: str = "mean",
        normalize: str = "none",
        sample_rate: int | None = None,
        batch_seconds: float = 60.0,
        device: str = "cpu",
    ) -> None:
        """The arguments are those of `load_encoder` and `SpeechEncoder.embed`."""
        self.checkpoint = checkpoint
        self.layer = layer
        self.layer_weights = layer_weights
        self.pool = pool
        self.normalize = normalize
        self.sample_rate = sample_rate
        self.batch_seconds = batch_seconds
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "SpeechEmbedder":
        """Load the encoder; nothing is learnt.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        self.encoder_ = load_encoder(self.checkpoint, device=resolve_device(self.device))
        dimension = self.encoder_.config.model_dim
        self._n_features_out = 2 * dimension if self.pool == "mean_std" else dimension
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Features f32 `[B, E]`.

        Raises:
            AudioError: a recording cannot be read or is too short; the message names it.
            ConfigError: there is no such layer or pooling.
        """
        check_is_fitted(self)
        if self.pool in ("none", "attentive"):
            raise ConfigError(f"pool must give one vector a recording and need no weights, but is {self.pool!r}")
        sources = [str(item) for item in X] if isinstance(X, np.ndarray) and X.dtype.kind in "US" else X
        found = self.encoder_.embed(
            list(sources),
            sample_rate=self.sample_rate,
            layer=self.layer,
            layer_weights=self.layer_weights,
            pool=self.pool,  # type: ignore[arg-type]
            normalize=self.normalize,  # type: ignore[arg-type]
            batch_seconds=self.batch_seconds,
        )
        return np.asarray(found)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags
