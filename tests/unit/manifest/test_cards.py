"""Promises of corpus cards and layouts, on miniature corpora laid out as the real ones are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest, list_cards, load_card, prepare_corpus
from speechssl.manifest.corpora.card import LAYOUTS

WriteTone = Callable[..., Path]


def by_id(manifest: Manifest) -> dict[str, tuple[str | None, str | None, dict[str, object]]]:
    return {u.id: (u.text, u.speaker, dict(u.extra)) for u in manifest}


def test_every_card_is_complete_and_says_what_it_must() -> None:
    names = list_cards()
    assert names == ["common-voice", "folder", "fsdd", "librispeech", "ljspeech", "voice-prompts"]
    for name in names:
        card = load_card(name)
        assert card.name == name and card.layout in LAYOUTS
        assert card.layout == "folder" or str(card.homepage).startswith("https://")
        notice = card.licence_notice()
        assert card.licence in notice and card.attribution[:20] in notice
        assert card.to_dict()["title"] == card.title
    assert sum(count or 0 for count in load_card("librispeech").splits.values()) == 292367


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "layout is missing; homepage is missing"),
        ("titel: x\n", "titel is not known"),
        ("- a\n", "must be a mapping"),
        ("title:\t[x\n", "not a YAML file"),
        (
            "{title: x, layout: nemo, homepage: h, licence: l, attribution: a, languages: [en], root: r, tree: t}",
            "layout must be one of folder, voice_prompts, .*, is nemo",
        ),
    ],
)
def test_a_bad_card_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(ManifestError, match=message):
        load_card(str(tmp_path / "card.yaml"))


def test_a_corpus_that_cannot_be_fetched_asks_for_its_root(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"librispeech: name the corpus folder with --root; .*openslr.org/12"):
        build_manifest("librispeech")
    with pytest.raises(ManifestError, match="nowhere: no such folder; --root must be where LJ Speech|The LJ Speech"):
        prepare_corpus("ljspeech", tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="brings its own texts"):
        build_manifest("fsdd", root=tmp_path, transcripts=tmp_path / "x.tsv")


@pytest.mark.parametrize("name", ["common-voice", "fsdd", "librispeech", "ljspeech", "voice-prompts"])
def test_a_folder_of_another_layout_is_an_error(tmp_path: Path, write_tone: WriteTone, name: str) -> None:
    write_tone("a.wav")
    with pytest.raises(ManifestError, match=str(tmp_path)):
        prepare_corpus(name, tmp_path)


def test_fsdd(tmp_path: Path, write_tone: WriteTone) -> None:
    for name in ("0_george_4", "0_george_5", "7_jackson_32"):
        write_tone(f"recordings/{name}.wav", sample_rate=8000)
    write_tone("recordings/noise.wav")
    result = build_manifest("fsdd", root=tmp_path, output=tmp_path / "m.jsonl")
    assert by_id(Manifest.load(tmp_path / "m.jsonl")) == {
        "0_george_4": ("zero", "george", {"digit": 0, "take": 4, "split": "test"}),
        "0_george_5": ("zero", "george", {"digit": 0, "take": 5, "split": "train"}),
        "7_jackson_32": ("seven", "jackson", {"digit": 7, "take": 32, "split": "train"}),
    }
    assert [Path(path).name for path, _ in result.skipped] == ["noise.wav"]
    assert "fsdd: train has 2 utterances, the card expects 2700" in result.notes


def test_fsdd_as_recorded(corpora: Path) -> None:
    result = build_manifest("fsdd", root=corpora / "fsdd")
    assert len(result.manifest) == 3000 and result.notes == ()


def test_librispeech(tmp_path: Path, write_tone: WriteTone) -> None:
    chapter = "LibriSpeech/dev-clean/84/121123"
    for number in (0, 1):
        write_tone(f"{chapter}/84-121123-000{number}.flac")
    write_tone(f"{chapter}/stray.flac")
    lines = "84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT\n84-121123-0002 GONE\n"
    (tmp_path / chapter / "84-121123.trans.txt").write_text(lines)
    (tmp_path / "LibriSpeech/SPEAKERS.TXT").write_text(";ID|SEX\n84   | F | dev-clean | 8.02 | Christie Nowak\n")
    result = build_manifest("librispeech", root=tmp_path)
    extra = {"split": "dev-clean", "chapter": "121123", "gender": "F"}
    assert by_id(result.manifest) == {
        "84-121123-0000": ("GO DO YOU HEAR", "84", extra),
        "84-121123-0001": ("BUT", "84", extra),
    }
    reasons = {Path(path).name: reason for path, reason in result.skipped}
    assert reasons == {
        "stray.flac": "name is not {speaker}-{chapter}-{number}",
        "84-121123-0002": "has a text but no recording",
    }
    assert "librispeech: dev-clean has 2 utterances, the card expects 2703" in result.notes
    assert "librispeech: the split test-other is not there" in result.notes
    (tmp_path / chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO\n84-121123-0001\n")
    with pytest.raises(ManifestError, match=r"84-121123.trans.txt:2: no text after '84-121123-0001'"):
        build_manifest("librispeech", root=tmp_path)


def test_ljspeech(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("LJSpeech-1.1/wavs/LJ001-0001.wav", sample_rate=22050)
    write_tone("LJSpeech-1.1/wavs/LJ001-0009.wav", sample_rate=22050)
    lines = 'LJ001-0001|in 1455, "so"|in fourteen fifty-five, "so"\nLJ001-0002|gone|gone\n'
    (tmp_path / "LJSpeech-1.1/metadata.csv").write_text(lines)
    result = build_manifest("ljspeech", root=tmp_path)
    assert by_id(result.manifest) == {
        "LJ001-0001": (
            'in fourteen fifty-five, "so"',
            "linda_johnson",
            {"raw_text": 'in 1455, "so"', "chapter": "LJ001"},
        )
    }
    assert {Path(path).name: reason for path, reason in result.skipped} == {
        "LJ001-0002": "has a text but no recording",
        "LJ001-0009.wav": "has no line in metadata.csv",
    }
    (tmp_path / "LJSpeech-1.1/metadata.csv").write_text("LJ001-0001\n")
    with pytest.raises(ManifestError, match=r"metadata.csv:1: 1 fields instead of"):
        build_manifest("ljspeech", root=tmp_path)


def test_common_voice(tmp_path: Path, write_tone: WriteTone) -> None:
    header = "client_id\tpath\tsentence\tage\tlocale\n"
    for name in "abcd":
        write_tone(f"eo/clips/{name}.mp3", sample_rate=48000)
    (tmp_path / "eo/train.tsv").write_text(header + 's1\ta.mp3\tLi diris "ne.\tthirties\teo\n')
    (tmp_path / "eo/test.tsv").write_text(header + "s2\tb.mp3\tJes.\t\teo\ns2\tgone.mp3\tX\t\teo\n")
    (tmp_path / "eo/validated.tsv").write_text(header + "s1\ta.mp3\tx\t\teo\ns3\tc.mp3\tBone.\t\teo\n")
    (tmp_path / "eo/invalidated.tsv").write_text(header + "s4\td.mp3\tFi.\t\teo\n")
    result = build_manifest("common-voice", root=tmp_path)
    assert by_id(result.manifest) == {
        "eo/a": ('Li diris "ne.', "s1", {"split": "train", "age": "thirties"}),
        "eo/b": ("Jes.", "s2", {"split": "test"}),
        "eo/c": ("Bone.", "s3", {"split": "validated"}),
    }
    assert {u.language for u in result.manifest} == {"eo"}
    assert [reason for _, reason in result.skipped] == ["has a text but no recording", "rejected by the community"]
    one_language = build_manifest("common-voice", root=tmp_path / "eo").manifest
    assert [u.id for u in one_language] == ["a", "b", "c"]
    (tmp_path / "eo/train.tsv").write_text(header + "s1\ta.mp3\n")
    with pytest.raises(ManifestError, match=r"train.tsv:2: 2 fields, but the header has 5"):
        build_manifest("common-voice", root=tmp_path)


def test_parts_of_a_corpus_can_be_chosen(tmp_path: Path, write_tone: WriteTone) -> None:
    for split, chapter in (("dev-clean", "84/121123"), ("test-other", "1688/142285")):
        folder = f"LibriSpeech/{split}/{chapter}"
        name = chapter.replace("/", "-")
        write_tone(f"{folder}/{name}-0000.flac")
        (tmp_path / folder / f"{name}.trans.txt").write_text(f"{name}-0000 YES\n{name}-0001 GONE\n")
    result = build_manifest("librispeech", root=tmp_path, parts=["test-other"])
    assert [u.id for u in result.manifest] == ["1688-142285-0000"]
    assert [path for path, _ in result.skipped] == ["test-other/1688-142285-0001"]
    assert result.notes == ("librispeech: test-other has 1 utterances, the card expects 2939",)
    with pytest.raises(ManifestError, match="holds nothing of dev-other; what is there: dev-clean, test-other"):
        build_manifest("librispeech", root=tmp_path, parts=["dev-other"])
    with pytest.raises(ManifestError, match="librispeech: there is no part 'dev'; its splits and subsets are train-c"):
        build_manifest("librispeech", root=tmp_path, parts=["dev"])
    with pytest.raises(ManifestError, match="ljspeech: there is no part 'dev'; the corpus has no official parts"):
        build_manifest("ljspeech", root=tmp_path, parts=["dev"])
    with pytest.raises(ManifestError, match="--parts is for corpora that have a card, not for folders"):
        build_manifest(tmp_path, parts=["dev"])


def test_recordings_without_a_text_stay_in_and_are_named(tmp_path: Path, write_tone: WriteTone) -> None:
    chapter = "dev-clean/84/121123"
    for number in range(5):
        write_tone(f"{chapter}/84-121123-000{number}.flac")
    (tmp_path / chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO\n")
    result = build_manifest("librispeech", root=tmp_path)
    assert [u.text for u in result.manifest] == ["GO", None, None, None, None]
    assert any(
        "dev-clean: 4 recordings have no text and stay in without one: dev-clean/84/121123/84-121123-0001.flac," in note
        and note.endswith("and 1 more")
        for note in result.notes
    )


def test_the_card_of_a_folder_is_the_folder(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("a/b.wav")
    (tmp_path / "a/b.txt").write_text("hello")
    by_card, directly = build_manifest("folder", root=tmp_path), build_manifest(tmp_path)
    assert by_id(by_card.manifest) == by_id(directly.manifest) == {"a/b": ("hello", None, {})}
