"""The guide to embeddings: its Python runs as it stands, and the transformer keeps the rules of scikit-learn."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from speechssl.errors import ConfigError
from speechssl.sklearn import SpeechEmbedder


def test_examples_of_the_guide_run_on_real_digits(corpora: Path, repository: Path) -> None:
    with open(corpora / "fsdd" / "transcripts.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    chosen = [row for row in rows if row["text"] in ("zero", "six", "nine")][::40][:18]
    names = {
        "paths": [str(next(corpora.glob(f"fsdd/**/{Path(row['path']).name}"))) for row in chosen],
        "digits": [row["text"] for row in chosen],
    }
    text = (repository / "docs" / "embeddings.md").read_text(encoding="utf-8").partition("## In Python")[2]
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "docs/embeddings.md", "exec"), names)
    found: dict = names  # type: ignore[type-arg,assignment]
    assert found["vector"].shape == (256,) and found["vectors"].shape == (18, 512)
    assert found["frames"].shape[1] == 256 and found["second"].shape == (256,)
    assert set(found["search"].best_params_) == {"embed__layer"} and found["search"].best_score_ > 0.4


def test_transformer_keeps_the_rules_of_scikit_learn() -> None:
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError
    from sklearn.utils import estimator_checks as checks

    for name in (
        "check_parameters_default_constructible", "check_get_params_invariance", "check_set_params",
        "check_no_attributes_set_in_init", "check_estimator_repr", "check_estimator_cloneable",
    ):  # fmt: skip
        getattr(checks, name)("SpeechEmbedder", SpeechEmbedder())
    made = clone(SpeechEmbedder(layer=2, pool="max").set_params(layer=1))
    assert made.get_params()["layer"] == 1 and made.get_params()["pool"] == "max"
    with pytest.raises(NotFittedError):
        made.transform([np.zeros(16_000, np.float32)])
    made.set_params(sample_rate=16_000).fit([])
    clips = [0.1 * np.random.default_rng(seed).normal(size=8000 + 100 * seed).astype(np.float32) for seed in range(3)]
    assert made.transform(clips).shape == (3, 256) == (3, len(made.get_feature_names_out()))
    np.testing.assert_array_equal(made.transform(clips[1:2])[0], made.encoder_.embed(clips[1], sample_rate=16_000,
                                                                                      layer=1, pool="max"))  # fmt: skip
    with pytest.raises(ConfigError, match="pool must give one vector a recording"):
        made.set_params(pool="none").transform(clips)
