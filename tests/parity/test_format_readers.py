"""What `write_format` writes, the peers' own readers read: the same ids, durations, texts and samples.

lhotse, kaldiio, datasets, fairseq2, pandas and polars are installed for this. Of fairseq2 the recipe that reads the
lists is not in its wheel, so the pipeline here chains the same functions of fairseq2 as that recipe
(recipes/wav2vec2/asr/data/dataset.py). NeMo and fairseq are read by their own source files where SPEECHSSL_PEERS names
a folder with `nemo_toolkit-*.whl` and `fairseq-*.tar.gz`, as from

    pip download --no-deps nemo_toolkit==3.0.0
    pip download --no-deps --no-build-isolation --no-binary :all: fairseq==0.12.2

(the second needs setuptools, wheel, cython and numpy beside pip), and else these tests skip: as installed packages both
would bring a hundred others.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechssl import audio
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.formats import FORMATS, read_format, write_format
from speechssl.types import Utterance

pytestmark = pytest.mark.corpora

TEXTS = [
    'say "hi", she said',
    "Grüße aus Weißenburg",
    "don't; stop = it",
    "semi; colon | bar",
    "tab\tand\nline",
    "世界",
]


def change(utterance: Utterance, **fields: Any) -> Utterance:
    return Utterance(**{**utterance.__dict__, **fields})


@pytest.fixture(scope="module")
def whole(corpora: Path) -> Manifest:
    """Nine recordings in flac, Vorbis and Opus, two languages, with their speakers and texts."""
    parts = [build_corpus(corpora, name) for name in ("fsdd", "ljspeech_part", "kerstin_de")]
    return Manifest.from_utterances([utterance for part in parts for utterance in part])


def build_corpus(corpora: Path, name: str) -> list[Utterance]:
    """The first three recordings, without looking at the others."""
    folder = corpora / name
    header, *lines = (folder / "transcripts.tsv").read_text(encoding="utf-8").splitlines()[:4]
    names = header.split("\t")
    rows = []
    for line in lines:
        fields = dict(zip(names, line.split("\t"), strict=True))
        info = audio.probe(folder / fields["path"])
        rows.append(
            Utterance(
                id=f"{name}-{Path(fields['path']).stem}",
                audio_filepath=str(folder / fields["path"]),
                sample_rate=info.sample_rate,
                num_samples=info.num_samples,
                duration=info.duration,
                text=fields["text"],
                speaker=fields["speaker"],
                language="de" if name == "kerstin_de" else "en",
            )
        )
    return rows


@pytest.fixture(scope="module")
def spans(whole: Manifest) -> Manifest:
    """Two spans of every recording, whose texts have quotes, umlauts, commas and semicolons."""
    rows = []
    for number, utterance in enumerate(whole):
        for part, (first, count) in enumerate([(333, 1601), (2001, 1777)]):
            rate = utterance.sample_rate
            times = {"offset": first / rate, "duration": count / rate, "num_samples": count}
            text = TEXTS[(2 * number + part) % 4]
            rows.append(change(utterance, id=f"{utterance.id}-{part}", text=text, **times))
    return Manifest.from_utterances(rows)


def ours(manifest: Manifest) -> dict[str, np.ndarray]:
    return {u.id: audio.read_utterance(u, u.sample_rate) for u in manifest}


@pytest.mark.parametrize("name", FORMATS)
def test_real_clips_come_back(name: str, spans: Manifest, tmp_path: Path) -> None:
    """Not a peer's reader: what we read of our own writing, beside which the peers' are compared."""
    manifest = spans.with_column("text", [text.replace("|", "/") for text in spans.column("text").to_pylist()])
    target = tmp_path / {"fairseq": "t.tsv", "fairseq2": "t.tsv", "nemo": "n.json"}.get(name, f"m.{name}")
    write_format(manifest, target, name, clips=tmp_path / "clips", place="copy")
    expected = ours(spans)
    rows = {(u.text, u.num_samples, round(float(np.abs(expected[u.id]).sum()))): u for u in manifest}
    assert len(rows) == len(manifest)
    for utterance in read_format(target, name).manifest:
        samples = audio.read_utterance(utterance, utterance.sample_rate)
        key = (utterance.text, utterance.num_samples, round(float(np.abs(samples).sum())))
        before = rows.pop(key)
        tolerance = 0 if FORMATS[name].spans else 0.51 / 32768
        np.testing.assert_allclose(samples, expected[before.id], atol=tolerance, rtol=0)
    assert not rows


# lhotse


def test_lhotse_reads_cuts_recordings_and_supervisions(whole: Manifest, spans: Manifest, tmp_path: Path) -> None:
    import lhotse

    manifest = whole.take([0, 3, 6]).concat(spans)
    expected = ours(manifest)
    write_format(manifest, tmp_path / "all", "lhotse")
    cuts = lhotse.load_manifest(tmp_path / "all/cuts.jsonl.gz").to_eager()
    lhotse.validate(cuts)
    recordings = lhotse.load_manifest(tmp_path / "all/recordings.jsonl.gz")
    supervisions = lhotse.load_manifest(tmp_path / "all/supervisions.jsonl.gz")
    joined = lhotse.CutSet.from_manifests(recordings=recordings, supervisions=supervisions).trim_to_supervisions()
    assert len(cuts) == len(supervisions) == len(manifest)
    for utterance, cut in zip(manifest, cuts, strict=True):
        supervision = cut.supervisions[0]
        assert (cut.id, supervision.text) == (utterance.id, utterance.text)
        assert (supervision.speaker, supervision.language) == (utterance.speaker, utterance.language)
        assert (cut.start, cut.duration) == (utterance.offset, utterance.duration)
        assert (supervision.start, supervision.duration) == (0, utterance.duration)  # within the cut
        np.testing.assert_array_equal(cut.load_audio()[0], expected[utterance.id])
    whole_ids = {u.id for u in whole}
    for cut in joined:
        if cut.supervisions[0].id not in whole_ids:  # trimming also gives these the supervisions within
            np.testing.assert_array_equal(cut.load_audio()[0], expected[cut.supervisions[0].id])


def test_what_lhotse_writes_is_read_here(whole: Manifest, tmp_path: Path) -> None:
    import lhotse

    recordings = [lhotse.Recording.from_file(u.audio_filepath, recording_id=u.id) for u in whole]
    supervisions = [
        lhotse.SupervisionSegment(
            id=f"{u.id}-{part}", recording_id=u.id, start=0.05 + 0.1 * part, duration=0.08, text=f"{part} {u.text}",
            speaker=u.speaker, gender="F", custom={"snr": 1.5 * part},
        )
        for u in whole for part in range(2)
    ]  # fmt: skip
    lhotse.RecordingSet.from_recordings(recordings).to_file(tmp_path / "x_recordings_dev.jsonl.gz")
    lhotse.SupervisionSet.from_segments(supervisions).to_file(tmp_path / "x_supervisions_dev.jsonl.gz")
    cuts = lhotse.CutSet.from_manifests(
        recordings=lhotse.RecordingSet.from_recordings(recordings),
        supervisions=lhotse.SupervisionSet.from_segments(supervisions),
    )
    trimmed = cuts.trim_to_supervisions().map(lambda cut: cut.with_id(cut.supervisions[0].id)).to_eager()
    trimmed.to_file(tmp_path / "cuts.jsonl.gz")
    cuts.to_file(tmp_path / "long_cuts.jsonl")
    expected = {cut.id: (cut.load_audio()[0], cut.supervisions[0].text) for cut in trimmed}
    for name in ("x_supervisions_dev.jsonl.gz", "x_recordings_dev.jsonl.gz", "cuts.jsonl.gz", "long_cuts.jsonl"):
        manifest = read_format(tmp_path / name).manifest
        assert {u.id for u in manifest} == expected.keys()
        for utterance in manifest:
            samples, text = expected[utterance.id]
            assert (utterance.text, utterance.extra["gender"]) == (text, "F")
            assert utterance.extra["snr"] == 1.5 * int(utterance.id[-1])
            np.testing.assert_array_equal(audio.read_utterance(utterance, utterance.sample_rate), samples)


def test_lhotse_takes_all_channels_and_a_cut_of_one_is_not_mistaken(tmp_path: Path) -> None:
    import lhotse

    from speechssl.errors import ManifestError

    noise = 0.1 * np.random.default_rng(0).standard_normal((8000, 2))
    soundfile.write(tmp_path / "stereo.wav", noise, 16000)
    manifest = build_manifest(tmp_path).manifest
    write_format(manifest, tmp_path / "cuts.jsonl", "lhotse")
    cut = lhotse.load_manifest(tmp_path / "cuts.jsonl")[0]
    assert cut.num_channels == 2
    np.testing.assert_allclose(cut.load_audio().mean(axis=0), ours(manifest)["stereo"], atol=1e-7)
    assert [u.id for u in read_format(tmp_path / "cuts.jsonl").manifest] == ["stereo"]
    one = lhotse.Recording.from_file(tmp_path / "stereo.wav").to_cut().with_channels([1])
    lhotse.CutSet.from_cuts([one]).to_file(tmp_path / "one_cuts.jsonl")
    with pytest.raises(ManifestError, match=r"one_cuts.jsonl:1: takes channel 1 of 'stereo', which is not all"):
        read_format(tmp_path / "one_cuts.jsonl")


def test_files_of_one_channel_each_are_told_apart(tmp_path: Path) -> None:
    import lhotse

    for channel in range(2):
        soundfile.write(tmp_path / f"{channel}.wav", 0.1 * np.random.default_rng(channel).standard_normal(8000), 16000)
    sources = [lhotse.AudioSource(type="file", channels=[n], source=str(tmp_path / f"{n}.wav")) for n in range(2)]
    recording = lhotse.Recording(id="r", sources=sources, sampling_rate=16000, num_samples=8000, duration=0.5)
    segments = [
        lhotse.SupervisionSegment(id=f"s{n}", recording_id="r", start=0.1, duration=0.2, channel=n, text=str(n))
        for n in range(2)
    ]
    lhotse.RecordingSet.from_recordings([recording]).to_file(tmp_path / "recordings.jsonl")
    lhotse.SupervisionSet.from_segments(segments).to_file(tmp_path / "supervisions.jsonl")
    for utterance in read_format(tmp_path / "supervisions.jsonl").manifest:
        samples = recording.load_audio(channels=int(utterance.text), offset=0.1, duration=0.2)[0]
        np.testing.assert_array_equal(audio.read_utterance(utterance, 16000), samples)


# Kaldi


@pytest.fixture(scope="module")
def wavs(spans: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The spans as parts of wav files, which Kaldi's readers need no command for; Opus as what ffmpeg makes of it."""
    folder = tmp_path_factory.mktemp("wavs")
    rows = []
    for utterance in spans:
        path = folder / f"{Path(utterance.audio_filepath).stem}.wav"
        if not path.exists():
            samples = audio.read(utterance.audio_filepath)
            soundfile.write(path, np.rint(samples * 32767).astype(np.int16), utterance.sample_rate)
        rows.append(change(utterance, audio_filepath=str(path)))
    return Manifest.from_utterances(rows)


def test_lhotse_and_kaldiio_read_the_data_directory(wavs: Manifest, tmp_path: Path) -> None:
    import kaldiio
    import lhotse.kaldi

    expected = ours(wavs)
    write_format(wavs, tmp_path / "data", "kaldi")
    rows = {f"{u.speaker}-{u.id}": u for u in wavs}
    recordings, supervisions, _ = lhotse.kaldi.load_kaldi_data_dir(tmp_path / "data", 16000)
    assert {s.id for s in supervisions} == rows.keys()
    for supervision in supervisions:
        utterance = rows[supervision.id]
        assert supervision.text == " ".join(utterance.text.split())
        assert (supervision.speaker, supervision.language) == (utterance.speaker, utterance.language)
        assert supervision.duration == pytest.approx(utterance.duration, abs=1e-6)
        recording = recordings[supervision.recording_id]
        samples = recording.load_audio(offset=supervision.start, duration=supervision.duration)[0]
        np.testing.assert_array_equal(samples, expected[utterance.id])
    scp, segments = tmp_path / "data/wav.scp", tmp_path / "data/segments"
    with kaldiio.ReadHelper(f"scp:{scp}", segments=str(segments)) as reader:
        for key, (rate, samples) in reader:
            assert rate == 16000
            np.testing.assert_array_equal(samples / np.float32(32768), expected[rows.pop(key).id])
    assert not rows


def test_whole_recordings_need_no_segments(wavs: Manifest, tmp_path: Path) -> None:
    import kaldiio
    import lhotse.kaldi

    files = sorted({u.audio_filepath: u for u in wavs}.values(), key=lambda u: u.id)
    infos = [audio.probe(u.audio_filepath) for u in files]
    rows = [
        change(u, id=f"{u.speaker}-{n}", offset=0.0, duration=info.duration, num_samples=info.num_samples)
        for n, (u, info) in enumerate(zip(files, infos, strict=True))
    ]
    manifest = Manifest.from_utterances(rows)
    exported = write_format(manifest, tmp_path / "data", "kaldi")
    assert exported.left_out == {} and not (tmp_path / "data/segments").exists()
    recordings, supervisions, _ = lhotse.kaldi.load_kaldi_data_dir(tmp_path / "data", 16000)
    expected = ours(manifest)
    assert {s.id: s.text for s in supervisions} == {u.id: u.text for u in manifest}
    loaded = kaldiio.load_scp(str(tmp_path / "data/wav.scp"))
    for recording in recordings:
        np.testing.assert_array_equal(recording.load_audio()[0], expected[recording.id])
        np.testing.assert_array_equal(loaded[recording.id][1] / np.float32(32768), expected[recording.id])


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="Kaldi's readers run ffmpeg for what is no wav")
def test_the_commands_for_other_files_give_the_same_samples(spans: Manifest, tmp_path: Path) -> None:
    import kaldiio

    manifest = spans.filter([not u.audio_filepath.endswith(".opus") for u in spans])
    expected = ours(manifest)
    write_format(manifest, tmp_path / "data", "kaldi")
    loaded = kaldiio.load_scp(str(tmp_path / "data/wav.scp"), segments=str(tmp_path / "data/segments"))
    rows = {f"{u.speaker}-{u.id}": u.id for u in manifest}
    assert set(loaded) == rows.keys()
    for key, (rate, samples) in loaded.items():
        assert rate == 16000
        np.testing.assert_allclose(samples / 32768, expected[rows[key]], atol=1.01 / 32768)  # 16 bit


def test_what_lhotse_writes_as_kaldi_is_read_here(wavs: Manifest, tmp_path: Path) -> None:
    import lhotse
    from lhotse.kaldi import export_to_kaldi

    write_format(wavs, tmp_path / "lhotse", "lhotse")
    recordings = lhotse.load_manifest(tmp_path / "lhotse/recordings.jsonl.gz")
    supervisions = lhotse.load_manifest(tmp_path / "lhotse/supervisions.jsonl.gz")
    supervisions = supervisions.map(lambda s: s.with_custom("x", 1)).to_eager()
    export_to_kaldi(recordings, supervisions, tmp_path / "data")
    expected = ours(wavs)
    back = read_format(tmp_path / "data").manifest
    assert {u.id for u in back} == expected.keys()
    for utterance in back:
        np.testing.assert_array_equal(audio.read_utterance(utterance, 16000), expected[utterance.id])


# fairseq2 and fairseq


def pack(whole: Manifest, folder: Path) -> Manifest:
    """The recordings again, half of them as members of an archive."""
    rows = list(whole)
    with tarfile.open(folder / "half.tar", "w") as archive:
        for utterance in rows[::2]:
            archive.add(utterance.audio_filepath, arcname=Path(utterance.audio_filepath).name)
    with tarfile.open(folder / "half.tar") as archive:
        places = {member.name: f"{folder / 'half.tar'}:{member.offset_data}:{member.size}" for member in archive}
    for number in range(0, len(rows), 2):
        rows[number] = change(rows[number], audio_filepath=places[Path(rows[number].audio_filepath).name])
    return Manifest.from_utterances(rows)


def fairseq2_examples(folder: Path, split: str) -> list[dict[str, Any]]:
    """The examples of a split, as fairseq2's recipe for wav2vec 2.0 and ASR reads them."""
    pytest.importorskip("fairseq2")
    import torch
    from fairseq2.data.audio import AudioDecoder
    from fairseq2.data.data_pipeline import DataPipeline, FileMapper
    from fairseq2.data.text import StrSplitter, read_text

    with (folder / f"{split}.tsv").open(encoding="utf-8") as file:
        root = Path(file.readline().rstrip())
    assert root.exists()
    builder = read_text(folder / f"{split}.tsv", rtrim=True, memory_map=True, block_size=10 * 1024 * 1024)
    builder.skip(1)
    builder.map(StrSplitter(names=["audio", "audio_size"]))
    builder.map(int, selector="audio_size")
    texts = read_text(folder / f"{split}.wrd", key="text", rtrim=True, memory_map=True).and_return()
    builder = DataPipeline.zip([builder.and_return(), texts], names=["tsv", "wrd"])
    builder.map(lambda example: {**example["tsv"], **example["wrd"]})
    builder.map(FileMapper(root, cached_fd_count=10), selector="audio")
    builder.map(AudioDecoder(dtype=torch.float32), selector="audio.data")
    return list(builder.and_return())


def test_fairseq2_reads_its_lists_and_archives(whole: Manifest, tmp_path: Path) -> None:
    manifest = pack(whole, tmp_path)
    write_format(manifest, tmp_path / "lists/train.tsv", "fairseq2")
    expected = ours(manifest)
    examples = fairseq2_examples(tmp_path / "lists", "train")
    for utterance, example in zip(manifest, examples, strict=True):
        assert str(example["text"]) == utterance.text
        assert example["audio_size"] == utterance.num_samples
        assert example["audio"]["data"]["sample_rate"] == utterance.sample_rate
        waveform = example["audio"]["data"]["waveform"].numpy().squeeze()
        np.testing.assert_array_equal(waveform, expected[utterance.id])


def test_fairseq2_reads_cut_clips(spans: Manifest, tmp_path: Path) -> None:
    split = spans.with_column("split", ["train", "dev"] * (len(spans) // 2))
    split = split.with_column("text", [text.replace("|", "/") for text in split.column("text").to_pylist()])
    write_format(split, tmp_path / "lists", "fairseq", clips=tmp_path / "clips")
    expected = ours(spans)
    for name, rows in (("train", list(split)[::2]), ("dev", list(split)[1::2])):
        for utterance, example in zip(rows, fairseq2_examples(tmp_path / "lists", name), strict=True):
            assert str(example["text"]) == utterance.text
            waveform = example["audio"]["data"]["waveform"].numpy().squeeze()
            np.testing.assert_allclose(waveform, expected[utterance.id], atol=0.51 / 32768)


FAIRSEQ_READER = """
import json, sys, types
from pathlib import Path
source, folder = Path(sys.argv[1]) / "fairseq", Path(sys.argv[2])

def package(name, path):  # without running its __init__, which wants hydra, omegaconf and compiled parts
    module = types.ModuleType(name)
    module.__path__ = [str(path)]
    sys.modules[name] = module
    return module

top, data = package("fairseq", source), package("fairseq.data", source / "data")
package("fairseq.data.audio", source / "data/audio")
top.utils = sys.modules["fairseq.utils"] = types.ModuleType("fairseq.utils")
top.utils.item = lambda value: value.item() if hasattr(value, "item") else value
data.data_utils = sys.modules["fairseq.data.data_utils"] = types.ModuleType("fairseq.data.data_utils")
for name in ("compute_mask_indices", "get_buckets", "get_bucketed_sizes", "post_process"):
    setattr(data.data_utils, name, None)
data.FairseqDataset = object
data.BaseWrapperDataset = type("Wrapper", (), {"__init__": lambda self, dataset: setattr(self, "dataset", dataset)})

from fairseq.data.add_target_dataset import AddTargetDataset
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.dictionary import Dictionary
from fairseq.data.text_compressor import TextCompressionLevel, TextCompressor

recordings = FileAudioDataset(str(folder / "train.tsv"), sample_rate=16000)
letters = Dictionary.load(str(folder / "dict.ltr.txt"))
compressor = TextCompressor(level=TextCompressionLevel.none)
labels = [compressor.compress(line) for line in open(folder / "train.ltr", encoding="utf-8")]
assert len(labels) == len(recordings)
encode = lambda line: letters.encode_line(line, append_eos=False, add_if_not_exist=False)
dataset = AddTargetDataset(
    recordings, labels, pad=letters.pad(), eos=letters.eos(), batch_targets=True, process_label=encode
)
for number in range(len(labels)):
    item = dataset[number]
    symbols = [letters[code] for code in item["label"]]
    assert letters.unk() not in item["label"].tolist()
    print(json.dumps({"symbols": symbols, "size": int(recordings.sizes[number]), "sum": item["source"].double().sum().item(), "length": len(item["source"])}))
"""  # noqa: E501


def test_fairseq_reads_its_lists_letters_and_dictionary(whole: Manifest, tmp_path: Path) -> None:
    with tarfile.open(peer("fairseq-*.tar.gz")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    manifest = pack(whole, tmp_path)
    write_format(manifest, tmp_path / "lists/train.tsv", "fairseq")
    items = run_reader(FAIRSEQ_READER, source, tmp_path / "lists")
    expected = ours(manifest)
    for utterance, item in zip(manifest, items, strict=True):
        assert "".join(item["symbols"]).replace("|", " ") == utterance.text + " "
        assert item["size"] == item["length"] == utterance.num_samples
        assert item["sum"] == pytest.approx(float(expected[utterance.id].astype(np.float64).sum()), abs=1e-9)


# NeMo


NEMO_READER = """
import json, sys, types
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import nemo.utils
root = Path(list(nemo.__path__)[0])
packages = ("collections", "collections.common", "collections.common.parts", "collections.common.data")
for name in (*packages, "collections.common.parts.preprocessing", "collections.common.data.lhotse"):
    module = types.ModuleType(f"nemo.{name}")  # without running its __init__, which wants hydra and lightning
    module.__path__ = [str(root / name.replace(".", "/"))]
    sys.modules[f"nemo.{name}"] = module
from nemo.collections.common.parts.preprocessing.manifest import item_iter
import nemo.collections.common.data.lhotse.nemo_adapters as adapters
adapters.expand_sharded_filepaths = lambda path: [path]
rows = zip(item_iter(sys.argv[2]), adapters.LazyNeMoIterator(sys.argv[2]), strict=True)
for item, cut in rows:
    samples = cut.load_audio()[0]
    kept = {name: item[name] for name in ("audio_file", "duration", "offset", "text", "speaker", "lang")}
    supervision = cut.supervisions[0]
    cut = {"text": supervision.text, "lang": supervision.language, "id": cut.custom["id"]}
    print(json.dumps(kept | {"cut": cut, "length": len(samples), "sum": samples.astype("float64").sum()}))
"""


def test_nemo_reads_its_manifest(whole: Manifest, spans: Manifest, tmp_path: Path) -> None:
    manifest = whole.concat(spans)
    write_format(manifest, tmp_path / "nemo.json", "nemo")
    items = run_reader(NEMO_READER, peer("nemo_toolkit-*.whl"), tmp_path / "nemo.json")
    expected = ours(manifest)
    for utterance, item in zip(manifest, items, strict=True):
        assert (item["duration"], item["offset"] or 0) == (utterance.duration, utterance.offset)
        assert (item["text"], item["speaker"], item["lang"]) == (
            utterance.text, utterance.speaker, utterance.language,
        )  # fmt: skip
        assert Path(item["audio_file"]).samefile(utterance.audio_filepath)
        assert item["cut"] == {"text": utterance.text, "lang": utterance.language, "id": utterance.id}
        samples = expected[utterance.id]
        assert item["length"] == len(samples)
        assert item["sum"] == pytest.approx(float(samples.astype(np.float64).sum()), abs=1e-9)


def test_nemo_finds_paths_relative_to_its_manifest(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    write_format(build_manifest(tmp_path).manifest, tmp_path / "m/nemo.json", "nemo")
    assert json.loads((tmp_path / "m/nemo.json").read_text())["audio_filepath"] == "../a.wav"
    (item,) = run_reader(NEMO_READER, peer("nemo_toolkit-*.whl"), tmp_path / "m/nemo.json")
    assert Path(item["audio_file"]).samefile(tmp_path / "a.wav")


def peer(pattern: str) -> Path:
    """A peer's distribution in the folder SPEECHSSL_PEERS."""
    folder = os.environ.get("SPEECHSSL_PEERS")
    found = sorted(Path(folder).glob(pattern)) if folder else []
    if not found:
        pytest.skip(f"no {pattern}: set SPEECHSSL_PEERS to a folder that holds it (see the top of this file)")
    return found[-1]


def run_reader(script: str, *words: Path) -> list[dict[str, Any]]:
    """Lines of JSON that a script prints, in a process of its own: what it does to imports stays there."""
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# Hugging Face datasets, pandas, polars


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package; it imports an encoder of torchcodec even where it only notes the path of a file."""
    module = pytest.importorskip("datasets")
    if "torchcodec" not in sys.modules:
        encoders = types.ModuleType("torchcodec.encoders")
        encoders.AudioEncoder = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
        monkeypatch.setitem(sys.modules, "torchcodec.encoders", encoders)
    module.disable_progress_bars()
    return module


@pytest.mark.parametrize("metadata", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize("split", [False, True])
def test_datasets_reads_the_audiofolder(
    metadata: str, split: bool, whole: Manifest, tmp_path: Path, datasets: Any
) -> None:
    manifest = whole.with_column("text", (TEXTS * 2)[: len(whole)])
    if split:
        manifest = manifest.with_column("split", ["train", "dev", "test"] * 3)
    write_format(manifest, tmp_path / "set" / metadata, "audiofolder", place="link" if split else "copy")
    loaded = datasets.load_dataset("audiofolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == ({"train", "validation", "test"} if split else {"train"})
    rows = {u.id: u for u in manifest}
    for part in loaded.values():
        for row in part.cast_column("audio", datasets.Audio(decode=False)):
            utterance = rows.pop(row["id"])
            assert (row["text"], row["speaker"]) == (utterance.text, utterance.speaker)
            assert (row["duration"], row["num_samples"]) == (utterance.duration, utterance.num_samples)
            assert Path(row["audio"]["path"]).read_bytes() == Path(utterance.audio_filepath).read_bytes()
    assert not rows


def test_pandas_and_polars_read_csv_and_tsv(whole: Manifest, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    pandas = pytest.importorskip("pandas")
    manifest = whole.take(range(len(TEXTS))).with_column("text", TEXTS)
    write_format(manifest, tmp_path / "m.csv")
    for column in (pandas.read_csv(tmp_path / "m.csv")["text"], polars.read_csv(tmp_path / "m.csv")["text"]):
        assert column.to_list() == TEXTS
    write_format(manifest, tmp_path / "m.tsv")
    flat = [" ".join(text.split()) for text in TEXTS]
    by_pandas = pandas.read_csv(tmp_path / "m.tsv", sep="\t", quoting=3)
    by_polars = polars.read_csv(tmp_path / "m.tsv", separator="\t", quote_char=None)
    for frame in (by_pandas, by_polars):
        assert frame["text"].to_list() == flat
        assert frame["num_samples"].to_list() == [u.num_samples for u in manifest]
