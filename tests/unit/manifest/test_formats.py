"""Promises of import and export that hold for every format: nothing is lost unsaid, and errors name file and line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechssl import audio
from speechssl.cli import main
from speechssl.cli.manifests.convert import ConvertOptions
from speechssl.cli.manifests.registry import parse
from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.formats import FORMATS, detect_source, read_format, write_format
from speechssl.types import Utterance

WriteTone = Callable[..., Path]

AWKWARD = [
    'say "hi", she said', "tab\there", "new\nline", "Grüße, 世界", "don't; stop", "a  b", " lead", "trail ",
    "back\\slash", "=1+1", "#no comment", "pipe - |" , "{}", "ünïcödé \u00a0 space", "line\u2028separator", "cr\rhere",
]  # fmt: skip

TARGETS = {
    "jsonl": "m.jsonl", "parquet": "m.parquet", "nemo": "nemo.json", "fairseq": "fs/train.tsv",
    "fairseq2": "fs2/train.tsv", "kaldi": "kaldi", "lhotse": "cuts.jsonl.gz", "audiofolder": "folder",
    "csv": "m.csv", "tsv": "m.tsv",
}  # fmt: skip

KEEPS_EVERYTHING = {"jsonl", "parquet", "nemo", "lhotse", "csv"}


@pytest.fixture
def tones(tmp_path: Path, write_tone: WriteTone) -> Manifest:
    """Four whole recordings of two speakers, with texts."""
    for name in ("a/one.wav", "a/two.flac", "b/three.ogg", "b/four.wav"):
        write_tone(f"audio/{name}", seconds=0.3 + 0.05 * len(name))
    manifest = build_manifest(tmp_path / "audio").manifest
    texts = {"a/one": "eins", "a/two": "zwei drei", "b/three": "vier", "b/four": "fünf ßäöü"}
    ids = manifest.column("id").to_pylist()
    manifest = manifest.with_column("text", [texts[id] for id in ids])
    return manifest.with_column("speaker", [id[0] for id in ids])


def spans_of(manifest: Manifest) -> Manifest:
    """Two spans of each recording, neither of them whole."""
    rows = []
    for utterance in manifest:
        for number, (first, count) in enumerate([(160, 1600), (2000, 801)]):
            rows.append(
                Utterance(
                    id=f"{utterance.id}-{number}",
                    audio_filepath=utterance.audio_filepath,
                    sample_rate=utterance.sample_rate,
                    num_samples=count,
                    offset=first / utterance.sample_rate,
                    duration=count / utterance.sample_rate,
                    text=f"{utterance.text} {number}",
                    speaker=utterance.speaker,
                )
            )
    return Manifest.from_utterances(rows)


def waveforms(manifest: Manifest) -> dict[str, np.ndarray]:
    return {u.id: audio.read_utterance(u, u.sample_rate) for u in manifest}


@pytest.mark.parametrize("name", FORMATS)
def test_whole_recordings_come_back(name: str, tones: Manifest, tmp_path: Path) -> None:
    place = "link" if name == "audiofolder" else "keep"
    exported = write_format(tones, tmp_path / "out" / TARGETS[name], name, place=place)
    assert exported.num_utterances == 4 and all(file.exists() for file in exported.files)
    back = read_format(tmp_path / "out" / TARGETS[name]).manifest
    before = {u.text: u for u in tones}
    assert {u.text for u in back} == before.keys()
    for after in back:
        utterance = before[after.text]
        assert Path(after.audio_filepath).samefile(utterance.audio_filepath)
        assert (after.num_samples, after.sample_rate, after.offset) == (utterance.num_samples, 16000, 0)
        assert after.duration == pytest.approx(utterance.duration, abs=1e-9)
        if name not in ("fairseq", "fairseq2"):
            assert (after.id, after.speaker) == (utterance.id, utterance.speaker)
        else:
            assert exported.left_out == {"field id": 4, "field speaker": 4}


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.spans])
def test_spans_come_back_to_the_sample(name: str, tones: Manifest, tmp_path: Path) -> None:
    spans = spans_of(tones)
    write_format(spans, tmp_path / "out" / TARGETS[name], name)
    back = read_format(tmp_path / "out" / TARGETS[name]).manifest
    assert {u.id: u.text for u in back} == {u.id: u.text for u in spans}
    ours = waveforms(spans)
    for id, waveform in waveforms(back).items():
        np.testing.assert_array_equal(waveform, ours[id])


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if not format.spans])
def test_formats_of_whole_files_refuse_spans_or_cut_them(name: str, tones: Manifest, tmp_path: Path) -> None:
    spans = spans_of(tones)
    target = tmp_path / "out" / TARGETS[name]
    with pytest.raises(ManifestError, match=rf"{name} cannot name 8 parts of recordings .*--clips FOLDER"):
        write_format(spans, target, name)
    assert not target.exists()
    write_format(spans, target, name, clips=tmp_path / "out" / TARGETS[name].split("/")[0] / "clips")
    back = read_format(target).manifest
    ours = {u.text: waveforms(spans)[u.id] for u in spans}
    for utterance in back:
        clip = audio.read_utterance(utterance, 16000)
        np.testing.assert_allclose(clip, ours[utterance.text], atol=0.5 / 32768)


@pytest.mark.parametrize("name", ["fairseq", "audiofolder"])
def test_a_row_shorter_than_its_recording_is_a_span(name: str, tones: Manifest, tmp_path: Path) -> None:
    short = tones.with_column("num_samples", [2000] * 4).with_column("duration", [0.125] * 4)
    with pytest.raises(ManifestError, match="4 parts of recordings"):
        write_format(short, tmp_path / TARGETS[name], name, place="link")
    exported = write_format(short, tmp_path / TARGETS[name], name, place="link", open_recordings=False)
    assert exported.num_utterances == 4


def test_kaldi_has_no_segments_only_where_every_row_is_whole(tones: Manifest, tmp_path: Path) -> None:
    write_format(tones, tmp_path / "k", "kaldi", open_recordings=False)
    assert (tmp_path / "k/segments").is_file()
    write_format(tones, tmp_path / "k", "kaldi")
    assert not (tmp_path / "k/segments").exists()


def test_members_of_archives_and_urls_go_where_they_can_be_read(tones: Manifest, tmp_path: Path) -> None:
    files = [u.audio_filepath for u in tones]
    whole = b"".join(Path(file).read_bytes() for file in files)
    (tmp_path / "all.tar").write_bytes(whole)
    starts = np.cumsum([0, *(Path(file).stat().st_size for file in files)])
    ranges = [f"all.tar:{start}:{end - start}" for start, end in zip(starts, starts[1:], strict=False)]
    packed = Manifest(tones.with_column("audio_filepath", ranges).table, tmp_path)
    ours = waveforms(packed)
    for name in ("fairseq", "fairseq2", "csv", "tsv", "jsonl"):
        write_format(packed, tmp_path / "out" / TARGETS[name], name)
        back = read_format(tmp_path / "out" / TARGETS[name]).manifest
        texts = {u.text: u.id for u in packed}
        for utterance in back:
            waveform = audio.read_utterance(utterance, 16000)
            np.testing.assert_array_equal(waveform, ours[texts[utterance.text]])
    for name in ("nemo", "kaldi", "lhotse", "audiofolder"):
        with pytest.raises(ManifestError, match=rf"{name} cannot name 4 members of archives .*--clips"):
            write_format(packed, tmp_path / "out" / TARGETS[name], name)
    clips = tmp_path / "out/kaldi/clips"
    write_format(packed, tmp_path / "out/kaldi", "kaldi", clips=clips)
    assert sorted(path.suffix for path in clips.rglob("*.*")) == [".wav"] * 4
    remote = tones.with_column("audio_filepath", [f"s3://bucket/{number}.wav" for number in range(4)])
    for name in ("fairseq", "kaldi", "audiofolder"):
        with pytest.raises(ManifestError, match="4 URLs"):
            write_format(remote, tmp_path / "out" / TARGETS[name], name)
    for name in ("nemo", "lhotse", "csv"):
        write_format(remote, tmp_path / "urls" / TARGETS[name], name)
        back = read_format(tmp_path / "urls" / TARGETS[name], sample_rate=16000).manifest
        assert {u.audio_filepath for u in back} == {f"s3://bucket/{number}.wav" for number in range(4)}


@pytest.mark.parametrize("name", sorted(KEEPS_EVERYTHING))
def test_awkward_texts_and_free_fields_survive(name: str, tones: Manifest, tmp_path: Path) -> None:
    rows = tones.take([number % 4 for number in range(len(AWKWARD))])
    rows = rows.with_column("id", [f"u{number}" for number in range(len(rows))]).with_column("text", AWKWARD)
    rows = rows.with_column("take", [number if number % 3 else None for number in range(len(rows))])
    rows = rows.with_column("good", [number % 2 == 0 for number in range(len(rows))])
    rows = rows.with_column("score", [number / 7 for number in range(len(rows))])
    exported = write_format(rows, tmp_path / "out" / TARGETS[name], name)
    assert exported.left_out == {}
    back = read_format(tmp_path / "out" / TARGETS[name]).manifest
    assert [u.text for u in back] == AWKWARD
    for name in ("take", "good", "score"):
        assert back.column(name).to_pylist() == rows.column(name).to_pylist()


@pytest.mark.parametrize("name", ["fairseq", "fairseq2", "kaldi"])
def test_formats_of_words_make_white_space_one_and_count_it(name: str, tones: Manifest, tmp_path: Path) -> None:
    texts = ["a\tb  c", " lead\n", "as it is", None]
    rows = tones.with_column("text", texts)
    exported = write_format(rows, tmp_path / "out" / TARGETS[name], name)
    assert exported.left_out["white space in the text made one"] == 2
    assert exported.left_out["no text: written as an empty one"] == 1
    back = read_format(tmp_path / "out" / TARGETS[name]).manifest
    assert {u.text for u in back} == {"a b c", "lead", "as it is", ""}


def test_tsv_counts_what_it_cannot_hold(tones: Manifest, tmp_path: Path) -> None:
    rows = tones.with_column("text", ["a\tb", 'say "hi"', "", None])
    rows = rows.with_column("tags", [["x"], None, ["y", "z"], None])
    exported = write_format(rows, tmp_path / "m.tsv")
    assert exported.left_out == {
        "tab or line break in text: a space instead": 1,
        "empty text: an unknown one when read back": 1,
    }
    assert exported.notes == ("tags is written as JSON text (2 rows)",)
    back = read_format(tmp_path / "m.tsv").manifest
    assert back.column("text").to_pylist() == ["a b", 'say "hi"', None, None]
    assert back.column("tags").to_pylist() == ['["x"]', None, '["y", "z"]', None]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
NAME = st.text(st.sampled_from("abcäöß-_. 0123456789"), min_size=1, max_size=8).filter(lambda name: name.strip(". "))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Rows that need no recordings: spans and whole ones, with any text."""
    count = draw(st.integers(1, 6))
    rows = []
    for number in range(count):
        rate = draw(st.sampled_from([8000, 16000, 22050, 44100]))
        num_samples = draw(st.integers(1, 10 * rate))
        rows.append(
            Utterance(
                id=f"{number}-{draw(NAME)}".strip(),
                audio_filepath=f"/audio/{draw(NAME)}/{number}.wav",
                sample_rate=rate,
                num_samples=num_samples,
                duration=num_samples / rate,
                offset=draw(st.sampled_from([0, 0, 1, 12345])) / rate,
                text=draw(st.none() | TEXT),
                speaker=draw(st.none() | NAME.map(str.strip)),
                extra={"take": draw(st.none() | st.integers(-(2**40), 2**40)), "note": draw(st.none() | TEXT)},
            )
        )
    return Manifest.from_utterances(rows)


@pytest.mark.parametrize("name", ["jsonl", "nemo", "lhotse", "csv"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifest=manifests())
def test_any_row_survives_a_format_that_holds_everything(name: str, manifest: Manifest, tmp_path: Path) -> None:
    rate = manifest[0].sample_rate
    if name == "nemo":  # which leaves the rate to the headers
        manifest = manifest.filter([u.sample_rate == rate for u in manifest])
    write_format(manifest, tmp_path / TARGETS[name], name, open_recordings=False)
    back = read_format(tmp_path / TARGETS[name], name, sample_rate=rate).manifest
    for before, after in zip(manifest, back, strict=True):
        assert (after.id, after.audio_filepath, after.text, after.speaker) == (
            before.id, before.audio_filepath, before.text, before.speaker,
        )  # fmt: skip
        assert (after.num_samples, after.offset, after.duration) == (before.num_samples, before.offset, before.duration)
        assert after.sample_rate == before.sample_rate
        kept = {name: value for name, value in after.extra.items() if value is not None}
        known = {name: value for name, value in before.extra.items() if value is not None}
        assert {name: str(value) for name, value in kept.items()} == {name: str(value) for name, value in known.items()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifest=manifests())
def test_any_span_survives_kaldi(manifest: Manifest, tmp_path: Path) -> None:
    rate = manifest[0].sample_rate
    manifest = manifest.filter([u.sample_rate == rate for u in manifest])
    try:
        write_format(manifest, tmp_path / "kaldi", "kaldi", open_recordings=False)
    except ManifestError as error:
        assert "cannot be brought into one order" in str(error)
        return
    for name in ("wav.scp", "segments", "utt2spk", "spk2utt", "utt2dur", "utt2num_samples"):
        keys = [line.split(b" ")[0] for line in (tmp_path / "kaldi" / name).read_bytes().splitlines()]
        assert keys == sorted(keys) and len(set(keys)) == len(keys)
    pairs = [line.split(b" ") for line in (tmp_path / "kaldi/utt2spk").read_bytes().splitlines()]
    assert pairs == sorted(pairs, key=lambda pair: (pair[1], pair[0]))
    assert all(utterance.startswith(speaker) for utterance, speaker in pairs)
    back = {u.audio_filepath: u for u in read_format(tmp_path / "kaldi", sample_rate=rate).manifest}
    for before in manifest:
        after = back[before.audio_filepath]
        assert after.num_samples == before.num_samples
        assert after.offset == pytest.approx(before.offset, abs=1e-9)
        expected = "" if before.text is None else " ".join(before.text.split())
        assert after.text == (expected if any(u.text is not None for u in manifest) else None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifest=manifests())
def test_any_whole_row_survives_fairseq(manifest: Manifest, tmp_path: Path) -> None:
    rate = manifest[0].sample_rate
    manifest = manifest.filter([u.sample_rate == rate and "|" not in (u.text or "") for u in manifest])
    if len(manifest) == 0:
        return
    manifest = manifest.with_column("offset", np.zeros(len(manifest)))
    for path in (tmp_path / "dict.ltr.txt", tmp_path / "t.wrd", tmp_path / "t.ltr"):
        path.unlink(missing_ok=True)
    write_format(manifest, tmp_path / "t.tsv", "fairseq", open_recordings=False)
    for name in ("words", "letters"):
        if name == "letters":
            (tmp_path / "t.wrd").unlink(missing_ok=True)
        back = read_format(tmp_path / "t.tsv", "fairseq", sample_rate=rate).manifest
        for before, after in zip(manifest, back, strict=True):
            assert (after.audio_filepath, after.num_samples) == (before.audio_filepath, before.num_samples)
            expected = "" if before.text is None else " ".join(before.text.split())
            assert after.text == (expected if any(u.text is not None for u in manifest) else None)


def test_the_format_is_told_by_what_lies_there(tones: Manifest, tmp_path: Path) -> None:
    for name, target in TARGETS.items():
        place = "link" if name == "audiofolder" else "keep"
        write_format(tones, tmp_path / name / target, name, place=place)
        expected = {"fairseq2": "fairseq"}.get(name, name)
        assert detect_source(tmp_path / name / target) == expected, name
    assert detect_source(tmp_path / "fairseq/fs") == "fairseq"
    assert detect_source(tmp_path / "kaldi/kaldi/wav.scp") == "kaldi"
    with pytest.raises(ManifestError, match="no such file or folder"):
        detect_source(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match=r"holds no manifest .*wav.scp.*speechssl manifest build"):
        detect_source(tmp_path / "audio")
    (tmp_path / "kaldi/kaldi/metadata.csv").write_text("file_name\nx.wav\n")
    with pytest.raises(ManifestError, match="could be kaldi or audiofolder; say which with --source_format"):
        detect_source(tmp_path / "kaldi/kaldi")
    with pytest.raises(ManifestError, match="say with --target_format what to write"):
        write_format(tones, tmp_path / "folder")
    with pytest.raises(ManifestError, match="there is no format 'kladi'; there are jsonl, parquet"):
        write_format(tones, tmp_path / "folder", "kladi")


def test_missing_recordings_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(f"{tmp_path}\na.wav\t16000\nb.wav\t16000\n")
    with pytest.raises(ManifestError, match=r"2 of 2 rows name recordings.*\n.*t.tsv:2: .*a.wav: no such file"):
        read_format(tmp_path / "t.tsv")
    assert len(read_format(tmp_path / "t.tsv", sample_rate=16000).manifest) == 2
    (tmp_path / "n.json").write_text('{"audio_filepath": "a.wav", "duration": 1}\n')
    with pytest.raises(ManifestError, match=r"n.json:1: .*a.wav: no such file"):
        read_format(tmp_path / "n.json")


def test_clips_are_named_after_their_rows_without_harm(tones: Manifest, tmp_path: Path) -> None:
    spans = spans_of(tones.take([0, 1]))
    spans = spans.with_column("id", ["../../etc/x", "a b;c", "A_B_C", "..."])
    write_format(spans, tmp_path / "t.tsv", "fairseq", clips=tmp_path / "clips")
    names = sorted(str(path.relative_to(tmp_path / "clips")) for path in (tmp_path / "clips").rglob("*.flac"))
    assert names == ["0000/A_B_C-2.flac", "0000/a_b_c.flac", "0000/clip.flac", "0000/etc_x.flac"]
    assert soundfile.info(tmp_path / "clips/0000/clip.flac").subtype == "PCM_16"


def test_a_failed_export_leaves_what_was_there(tones: Manifest, tmp_path: Path) -> None:
    write_format(tones, tmp_path / "t.tsv", "fairseq")
    before = {path: path.read_bytes() for path in tmp_path.glob("*t*.*")}
    with pytest.raises(ManifestError, match=r"t.ltr:1: 1 texts hold a '\|'"):
        write_format(tones.with_column("text", ["a|b", "c", "d", "e"]), tmp_path / "t.tsv", "fairseq")
    assert {path: path.read_bytes() for path in tmp_path.glob("*t*.*")} == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_command_says_what_was_carried_and_what_not(
    tones: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tones.save(tmp_path / "m.jsonl")
    words = ["manifest", "convert", str(tmp_path / "m.jsonl"), str(tmp_path / "out/train.tsv")]
    assert main([*words, "--target_format", "fairseq"]) == 0
    printed = capsys.readouterr().out
    assert "4 utterances" in printed and "carried: audio_filepath, num_samples, text" in printed
    assert "changed or left out in writing: field id (4)" in printed
    assert "changed or left out in writing: field speaker (4)" in printed
    assert main(["manifest", "convert", str(tmp_path / "out/train.tsv"), str(tmp_path / "b.parquet"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["source"]["format"] == "fairseq" and result["target"]["carried"][0] == "id"
    assert len(Manifest.load(tmp_path / "b.parquet")) == 4
    assert main(["manifest", "convert", str(tmp_path / "m.jsonl"), "x.jsonl", "--target_format", "kladi"]) == 2
    assert "there is no 'kladi'" in capsys.readouterr().err


def test_every_format_has_its_section_in_the_guide(repository: Path) -> None:
    guide = (repository / "docs/formats.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in guide for name in FORMATS)
    commands = [
        line.split("   ")[0].split()[3:] for line in guide.splitlines() if line.startswith("speechssl manifest")
    ]
    for words in commands:
        if "SOURCE" not in words:
            assert parse("convert", ConvertOptions, words, ("source", "target")) is not None
    assert len(commands) > 15
