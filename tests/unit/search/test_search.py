"""Search finds what is there, where it is, and the same as a comparison of everything with everything."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.cli import main
from speechssl.embed import EmbedConfig, stage
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest
from speechssl.search import Hit, SearchConfig, SearchResult, run
from speechssl.search.approximate import usual_parameters
from speechssl.search.collection import Collection
from speechssl.search.spans import best_spans, cumulative, describe, span_scores, thirds, without_overlaps
from speechssl.types import Utterance

RATE = 16_000
SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}


@pytest.fixture(scope="module")
def folder(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings of four spoken digits each, embedded as frames and as vectors; `words.json` says what is where.

    Recording 7 is there twice, the second time a little softer.
    """
    folder = tmp_path_factory.mktemp("search")
    rows, words = [], {}
    for number in range(13):
        source = 7 if number == 12 else number
        pieces, spans, place = [], [], 0.0
        for digit in (source % 10, (source * 3 + 1) % 10, (source * 7 + 2) % 10, (source + 5) % 10):
            wave, rate = soundfile.read(corpora / f"fsdd/audio/{digit}_jackson_{5 + source}.flac", dtype="float32")
            wave = np.repeat(wave, RATE // rate)
            pieces += [wave, np.zeros(RATE // 10, np.float32)]
            spans.append((digit, place, place + len(wave) / RATE))
            place += len(wave) / RATE + 0.1
        audio = np.concatenate(pieces)
        audio = (audio + np.random.default_rng(source).normal(size=len(audio)) * 0.003) * (0.7 if number == 12 else 1)
        soundfile.write(folder / f"r{number}.wav", audio, RATE)
        words[f"r{number}"] = spans
        rows.append(
            Utterance(id=f"r{number}", audio_filepath=str(folder / f"r{number}.wav"), sample_rate=RATE,
                      num_samples=len(audio), duration=len(audio) / RATE)
        )  # fmt: skip
    Manifest.from_utterances(rows).save(folder / "all.jsonl")
    (folder / "words.json").write_text(json.dumps(words))
    SpeechEncoder(encoder_config("tiny", SMALL), seed=5).save(folder / "small")
    embed(folder, folder / "frames", "none")
    embed(folder, folder / "vectors", "mean")
    return folder


def embed(folder: Path, output: Path, pool: str, **values: object) -> None:
    what = {
        "checkpoint": "speechssl-tiny",
        "manifest": folder / "all.jsonl",
        "output": output,
        "layer": 3,
        "pool": pool,
    }
    stage.run(EmbedConfig(**(what | values)))  # type: ignore[arg-type]


def find(folder: Path, index: str, queries: list[Path], **values: object) -> SearchResult:
    return run(SearchConfig(index=folder / index, queries=tuple(queries), **values))  # type: ignore[arg-type]


def cut(folder: Path, name: str, word: int, path: Path) -> tuple[float, float]:
    """Write a word of a recording as a query; where it is, in seconds."""
    _, start, end = json.loads((folder / "words.json").read_text())[name][word]
    audio, _ = soundfile.read(folder / f"{name}.wav", dtype="float32")
    soundfile.write(path, audio[int(start * RATE) : int(end * RATE)], RATE)
    return start, end


@pytest.mark.parametrize("rerank", [0, 50])
def test_word_is_found_where_it_is(folder: Path, tmp_path: Path, rerank: int) -> None:
    for number, word in ((2, 0), (5, 2), (9, 3)):
        start, end = cut(folder, f"r{number}", word, tmp_path / "query.wav")
        hits = find(folder, "frames", [tmp_path / "query.wav"], rerank=rerank).hits[str(tmp_path / "query.wav")]
        # other takes of the word may be as near: the encoder hears the query without what was around it
        best = next(hit for hit in hits[: 3 if rerank else 10] if hit.id == f"r{number}")
        assert best.start is not None and best.end is not None
        assert abs(best.start - start) < 0.1 and abs(best.end - end) < 0.1, (best, start, end)
        assert [hit.value for hit in hits] == sorted((hit.value for hit in hits), reverse=True) and len(hits) == 10
        assert (best.warped is not None) == bool(rerank) and best.score > 0.5


def test_other_recordings_of_a_digit_come_before_other_digits(folder: Path, corpora: Path, tmp_path: Path) -> None:
    wave, rate = soundfile.read(corpora / "fsdd/audio/6_jackson_40.flac", dtype="float32")
    soundfile.write(tmp_path / "six.wav", np.repeat(wave, RATE // rate), RATE)
    hits = find(folder, "frames", [tmp_path / "six.wav"], top_k=4).hits[str(tmp_path / "six.wav")]
    words = json.loads((folder / "words.json").read_text())

    def digit_at(hit: Hit) -> int:
        middle = (hit.start + hit.end) / 2  # type: ignore[operator]
        return int(min(words[hit.id], key=lambda word: abs((word[1] + word[2]) / 2 - middle))[0])

    assert sum(digit_at(hit) == 6 for hit in hits) >= 3, [(hit, digit_at(hit)) for hit in hits]


def test_span_scores_are_those_of_every_span_by_itself() -> None:
    random = np.random.default_rng(0)
    frames, query = random.normal(size=(23, 5)).astype(np.float32), random.normal(size=(7, 5)).astype(np.float32)
    scores = span_scores(cumulative(frames), describe(query), 7)
    direct = [float((describe(frames[start : start + 7]) * describe(query)).sum() / 3) for start in range(17)]
    np.testing.assert_allclose(scores, direct, atol=1e-6)
    assert span_scores(cumulative(frames), describe(frames[4:11]), 7)[4] == pytest.approx(1)
    assert thirds(7) == [(0, 2), (2, 5), (5, 7)] and thirds(1) == [(0, 1)] * 3
    assert all(first < last <= count for count in range(1, 20) for first, last in thirds(count))


def test_spans_of_one_recording_do_not_overlap_by_half() -> None:
    scores = np.array([0, 0.9, 1.0, 0.9, 0, 0, 0.5, 0.4])
    assert best_spans(scores, 4, 9) == [2, 6]
    hits = [Hit(query="q", id="a", score=score, start=start, end=start + 1.0)
            for score, start in ((0.5, 0.4), (0.9, 0.0), (0.7, 0.6), (0.1, 3.0))]  # fmt: skip
    kept = without_overlaps(hits, per_recording=2)
    assert [(hit.score, hit.start) for hit in kept] == [(0.9, 0.0), (0.7, 0.6)]


def test_result_does_not_depend_on_how_the_table_is_cut(folder: Path, tmp_path: Path) -> None:
    cut(folder, "r3", 1, tmp_path / "query.wav")
    embed(folder, tmp_path / "cut", "none", shard_rows=3, format="numpy")
    assert len(list(Collection(tmp_path / "cut").blocks())) > 3 > len(list(Collection(folder / "frames").blocks()))
    whole, parts = (find(where, name, [tmp_path / "query.wav"]) for where, name in
                    ((folder, "frames"), (tmp_path, "cut")))  # fmt: skip
    first, second = (list(result.hits.values())[0] for result in (whole, parts))
    assert [(hit.id, hit.start) for hit in first] == [(hit.id, hit.start) for hit in second]
    np.testing.assert_allclose([h.value for h in first], [h.value for h in second], atol=1e-4)


@pytest.mark.parametrize("index", ["frames", "vectors"])
def test_approximate_index_names_what_the_exact_search_finds(folder: Path, tmp_path: Path, index: str) -> None:
    pytest.importorskip("faiss")
    for number in range(3):
        cut(folder, f"r{number}", 1, tmp_path / f"{number}.wav")
    queries = [tmp_path / f"{number}.wav" for number in range(3)]
    flat = find(folder, index, queries, method="faiss", factory="Flat", candidates=5000, recall=True, top_k=5)
    assert flat.recall is not None and set(flat.recall.values()) == {1.0}
    assert flat.hits == find(folder, index, queries, top_k=5).hits
    few = find(folder, index, queries, method="faiss", candidates=1, recall=True, top_k=5)
    assert few.recall is not None and 0 < min(few.recall.values()) and max(few.recall.values()) <= 1
    if index == "frames":
        assert min(few.recall.values()) < 1, "one neighbour of each window is too few"


def test_an_index_that_is_searched_more_carefully_finds_more(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    cut(folder, "r1", 1, tmp_path / "query.wav")

    def recall(parameters: str) -> float:
        found = find(folder, "frames", [tmp_path / "query.wav"], method="faiss", factory="IVF8,Flat",
                     parameters=parameters, recall=True, candidates=500, top_k=13, per_recording=1)  # fmt: skip
        assert found.recall is not None
        return next(iter(found.recall.values()))

    assert recall("nprobe=8") == 1 > recall("nprobe=1")
    with pytest.raises(ConfigError, match="parameters 'legs=3': FAISS knows none such of IVF8,Flat"):
        recall("legs=3")


def test_recordings_that_are_there_twice_are_found(folder: Path, tmp_path: Path) -> None:
    result = run(SearchConfig(index=folder / "vectors", all_pairs=True, min_score=0.9))
    assert result.pairs[0][:2] == ("r7", "r12") and result.pairs[0][2] > 0.97
    hits = find(folder, "vectors", [folder / "r12.wav"], top_k=13).hits[str(folder / "r12.wav")]
    assert [hit.id for hit in hits[:2]] == ["r12", "r7"] and hits[0].score == pytest.approx(1, abs=1e-4)
    collection = Collection(folder / "vectors")
    statistics = collection.statistics()
    (block,) = collection.blocks()
    vectors = statistics.standardise(block.vectors).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = sorted(zip(-(vectors @ vectors[12]), block.ids, strict=True))
    assert [hit.id for hit in hits] == [name for _, name in expected]


def test_command_shows_and_writes_hits(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(folder, "r4", 0, tmp_path / "query.wav")
    code = main(["search", str(folder / "frames"), str(tmp_path / "query.wav"), "--top_k", "3",
                 "--output", str(tmp_path / "hits.jsonl")])  # fmt: skip
    shown = capsys.readouterr().out
    assert code == 0 and "r4" in shown and "warped" in shown and "13 recordings looked at" in shown
    lines = [json.loads(line) for line in (tmp_path / "hits.jsonl").read_text().splitlines()]
    assert [line["rank"] for line in lines] == [1, 2, 3] and lines[0]["id"] == "r4"


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    query = folder / "r0.wav"
    for values, message in (
        ({"queries": ()}, "give recordings to search by, or all_pairs=true; not both"),
        ({"top_k": 0}, "top_k must be at least 1, but is 0"),
        ({"method": "guess"}, "method must be exact or faiss, but is 'guess'"),
        ({"recall": True}, "recall compares faiss with the exact search"),
        ({"checkpoint": str(folder / "small")}, "made with another encoder than .*small is now"),
        ({"index": tmp_path}, "no such table of embeddings; make one with `speechssl embed`"),
        ({"layer": 2}, "has no layer 2, but 3; name one of them as --layer"),
        ({"queries": (), "all_pairs": True}, "all_pairs needs utterance vectors; embed with --pool mean"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(SearchConfig(**{"index": folder / "frames", "queries": (query,), **values}))  # type: ignore[arg-type]
    pytest.importorskip("faiss")
    with pytest.raises(ConfigError, match="factory 'Tree9': FAISS knows no such index"):
        find(folder, "vectors", [query], method="faiss", factory="Tree9")


@pytest.mark.parametrize(
    ("factory", "parameters"),
    [("HNSW32", "efSearch=500"), ("IVF4096,PQ64", "nprobe=64"), ("IVF8,Flat", "nprobe=3"), ("Flat", "")],
)
def test_an_index_is_searched_with_more_care_than_faiss_does(factory: str, parameters: str) -> None:
    assert usual_parameters(factory, 500) == parameters
