"""A picture of embeddings in two dimensions, coloured by what is known of the utterances."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.errors import ConfigError
from speechssl.report.figures import MARKERS, colour, drawing, inline_png, inline_svg, panels
from speechssl.report.page import Section, paragraph, section

Projection = Literal["pca", "tsne", "umap"]
NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
MAX_NAMED = 8
MAX_POINTS = 2000


def project(vectors: ArrayLike, method: Projection, *, seed: int = 0) -> tuple[NDArray[np.float64], str]:
    """Vectors `[B, D]` -> points `[B, 2]` and a sentence on what the picture keeps of them.

    PCA is exact; t-SNE starts from PCA, both it and UMAP run on its first 50 components and depend on the seed.

    Raises:
        ConfigError: fewer than three vectors, or UMAP without its package.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    matrix = np.asarray(vectors, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < 3:
        raise ConfigError(f"a picture needs at least three vectors [B, D], but the array has the shape {matrix.shape}")
    pca = PCA(n_components=min(50, *matrix.shape), random_state=seed)
    with np.errstate(invalid="ignore"):  # the variance of equal vectors is 0
        components = pca.fit_transform(matrix)
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    if method == "pca":
        total = float(matrix.var(axis=0, ddof=1).sum())
        kept = 100 * float(pca.explained_variance_[:2].sum()) / total if total else 0.0
        return components[:, :2], f"PCA: the two axes hold {kept:.0f} % of the variance."
    if method == "umap":
        return _umap(components, seed), "UMAP: neighbours are kept, distances between groups mean little."
    perplexity = min(30.0, (len(matrix) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components)
    return np.asarray(points, dtype=np.float64), "t-SNE: neighbours are kept, distances between groups mean little."


def _umap(components: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    try:
        from umap import UMAP
    except ImportError:
        raise ConfigError(
            "method=umap needs the package umap-learn: pip install 'speechssl[map]', or use tsne"
        ) from None
    made = UMAP(n_neighbors=min(15, len(components) - 1), random_state=seed, n_jobs=1)
    return np.asarray(made.fit_transform(components), dtype=np.float64)


def similarity_section(
    vectors: ArrayLike, values: Sequence[str | None], *, name: str, title: str = "Similarity", max_shown: int = 300
) -> Section:
    """A matrix of cosines between utterance vectors `[B, D]`, standardised, in the order of a label's values.

    Raises:
        ConfigError: a list of another length.
    """
    matrix = np.asarray(vectors, dtype=np.float64)
    if len(values) != len(matrix):
        raise ConfigError(f"{len(values)} values of {name!r} for {len(matrix)} embeddings; give one for each")
    scale = matrix.std(axis=0)
    matrix = (matrix - matrix.mean(axis=0)) / np.where(scale > 1e-9, scale, 1)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    kinds = np.array([str(value or "unknown") for value in values])
    order = np.argsort(kinds, kind="stable")
    order = order[np.unique(np.linspace(0, len(order) - 1, min(max_shown, len(order))).round().astype(np.int64))]
    cosines = matrix[order] @ matrix[order].T
    names, firsts, counts = np.unique(kinds[order], return_index=True, return_counts=True)
    same = kinds[order][:, None] == kinds[order][None]
    apart = ~np.eye(len(order), dtype=bool)
    within = float(cosines[same & apart].mean()) if (same & apart).any() else float("nan")
    between = float(cosines[~same].mean()) if (~same).any() else float("nan")
    with drawing(6.4, 5.6) as figure:
        axes = figure.add_subplot()
        drawn = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        if len(names) <= 30:
            axes.set_xticks(firsts + counts / 2 - 0.5, names, rotation=90)
            axes.set_yticks(firsts + counts / 2 - 0.5, names)
        for first in firsts[1:]:
            axes.axhline(first - 0.5, color="#101418", linewidth=0.4)
            axes.axvline(first - 0.5, color="#101418", linewidth=0.4)
        axes.grid(visible=False)
        figure.colorbar(drawn, ax=axes, shrink=0.8, label="cosine")
    spoken = f"mean cosine {within:.2f} within a value of {name}, {between:.2f} between values"
    text = f"{len(order)} utterances in the order of {name}: {spoken}. Vectors are centred and scaled first."
    return section(title, paragraph(text), inline_png(figure, label=f"Cosines of {len(order)} utterances: {spoken}"))


def embeddings_section(
    vectors: ArrayLike,
    labels: Mapping[str, Sequence[str | None]],
    *,
    methods: Sequence[Projection] = ("pca", "tsne"),
    title: str = "Embeddings",
    source: str = "",
    seed: int = 0,
) -> Section:
    """Scatter plots of utterance vectors, one for each method and kind of label.

    Args:
        vectors: `[B, D]`; of more than 2000 a seeded sample is drawn.
        labels: what to colour by -> a value for each vector, such as `{"language": [...]}`; None means unknown.
        methods: `pca`, `tsne` or both.
        title: of the section.
        source: which encoder and layer the vectors are from, in words.
        seed: of the sample and of t-SNE.

    Raises:
        ConfigError: fewer than three vectors, or a label list of another length.
    """
    matrix = np.asarray(vectors, dtype=np.float64)
    for name, values in labels.items():
        if len(values) != len(matrix):
            raise ConfigError(f"{len(values)} values of {name!r} for {len(matrix)} embeddings; give one for each")
    chosen = list(range(len(matrix)))
    if len(matrix) > MAX_POINTS:
        sample = np.random.default_rng(seed).choice(len(matrix), MAX_POINTS, replace=False)
        chosen = sorted(int(index) for index in sample)
    figures, sentences = [], [f"Utterance vectors of {source}." if source else "Utterance vectors."]
    if len(chosen) < len(matrix):
        sentences.append(f"A sample of {len(chosen):,} of {len(matrix):,}.")
    for method in methods:
        points, sentence = project(matrix[chosen], method, seed=seed)
        sentences.append(sentence)
        for name, values in labels.items():
            figures.append(_scatter(points, [values[index] for index in chosen], name, method))
    return section(title, paragraph(" ".join(sentences)), panels(figures))


def _scatter(points: NDArray[np.float64], values: Sequence[str | None], name: str, method: Projection) -> str:
    counts = Counter(str(value) for value in values if value not in (None, ""))
    named = [value for value, _ in counts.most_common(MAX_NAMED)]
    kinds = np.array([named.index(str(value)) if str(value) in named else -1 for value in values])
    size = 14 if len(points) < 400 else 7
    with drawing(4.6, 3.9) as figure:
        axes = figure.add_subplot()
        if (kinds < 0).any():
            rest = points[kinds < 0]
            label = f"others ({len(counts) - len(named)})" if len(counts) > len(named) else "unknown"
            axes.scatter(rest[:, 0], rest[:, 1], s=size * 0.7, color=colour(7), alpha=0.35, linewidths=0, label=label,
                         rasterized=len(rest) > 300)  # fmt: skip
        for index, value in enumerate(named):
            mine = points[kinds == index]
            axes.scatter(mine[:, 0], mine[:, 1], s=size, color=colour(index), marker=MARKERS[index], alpha=0.8,
                         linewidths=0, label=value if len(value) < 24 else value[:22] + "…")  # fmt: skip
        axes.set(title=f"{NAMES[method]} by {name}", xticks=[], yticks=[])
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        columns = min(4, max(1, len(axes.get_legend_handles_labels()[1])))
        figure.legend(loc="outside lower center", ncols=columns, markerscale=1.4, handletextpad=0.2, columnspacing=1.0)
    spoken = ", ".join(f"{value} ({counts[value]})" for value in named)
    return inline_svg(figure, label=f"{NAMES[method]} picture of {len(points)} embeddings by {name}: {spoken}")
