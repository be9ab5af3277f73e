"""Promises of corpus cards, and of what is common to all layouts; `corpora/` has those of each."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.cli import main
from speechssl.cli.manifests.build import BuildOptions
from speechssl.cli.manifests.list_cards import markdown_table
from speechssl.cli.options import stage_config
from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest, list_cards, load_card, prepare_corpus
from speechssl.manifest.corpora.card import LAYOUTS

WriteTone = Callable[..., Path]


def by_id(manifest: Manifest) -> dict[str, tuple[str | None, str | None, dict[str, object]]]:
    return {u.id: (u.text, u.speaker, dict(u.extra)) for u in manifest}


@pytest.mark.parametrize("name", list_cards())
def test_every_card_has_all_facts(name: str) -> None:
    card = load_card(name)
    assert card.name == name and card.layout in LAYOUTS
    assert card.layout == "folder" or str(card.homepage).startswith(("https://", "http://www.speech.cs.cmu.edu/"))
    notice = card.licence_notice()
    assert card.licence in notice and card.attribution.strip()[:20] in notice and (card.terms or "") in notice
    assert all(re.fullmatch(r"[a-z]{2,4}(_[a-z0-9]+)*", language) for language in card.languages)
    assert card.tree.startswith(card.root) and len(card.tree.splitlines()) > 1
    assert card.layout == "folder" or card.sample_rate
    counts = list(card.splits.values())
    if card.num_utterances is not None and counts:
        assert sum(count or 0 for count in counts) == card.num_utterances
    assert card.split_hours.keys() <= card.splits.keys()
    assert card.language_splits.keys() <= set(card.languages)
    assert json.loads(json.dumps(card.to_dict()))["title"] == card.title
    comments = [line for line in Path(card.source).read_text().splitlines() if line.startswith("#")]
    assert comments, "a card says above its first key where its figures come from"


def test_every_layout_has_a_card_and_every_corpus_is_there() -> None:
    assert {load_card(name).layout for name in list_cards()} == set(LAYOUTS)
    wanted = "librispeech libri-light ljspeech vctk common-voice voxpopuli mls fleurs tedlium3 timit an4 fsdd"
    assert set(list_cards()) == {*wanted.split(), "speech-commands", "voxceleb", "voice-prompts", "folder"}


@pytest.mark.parametrize("name", ["timit", "voxceleb", "tedlium3", "common-voice"])
def test_restrictions_are_stated_plainly(name: str) -> None:
    terms = {
        "timit": ["holders of a licence", "passed on", "non-commercial"],
        "voxceleb": ["does not cover the videos", "biometric"],
        "tedlium3": ["Not for commercial use", "no changed copies"],
        "common-voice": ["find out who the speakers are"],
    }
    assert all(part in str(load_card(name).terms) for part in terms[name])


def test_the_readme_lists_every_card(repository: Path) -> None:
    text = (repository / "manifests/README.md").read_text(encoding="utf-8")
    table = markdown_table([load_card(name) for name in list_cards()])
    assert table in text, "print the table again with `speechssl manifest list --markdown`"
    assert all(f"| `{name}` |" in table for name in list_cards())


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


@pytest.mark.parametrize("name", [name for name in list_cards() if name != "folder"])
def test_a_folder_of_another_layout_is_an_error(tmp_path: Path, write_tone: WriteTone, name: str) -> None:
    write_tone("a.wav")
    with pytest.raises(ManifestError, match=str(tmp_path)):
        prepare_corpus(name, tmp_path)


def test_fsdd_as_recorded(corpora: Path) -> None:
    result = build_manifest("fsdd", root=corpora / "fsdd")
    assert len(result.manifest) == 3000 and result.notes == ()


def test_parts_of_a_corpus_can_be_chosen(tmp_path: Path, write_tone: WriteTone) -> None:
    for split, chapter in (("dev-clean", "84/121123"), ("test-other", "1688/142285")):
        folder = f"LibriSpeech/{split}/{chapter}"
        name = chapter.replace("/", "-")
        write_tone(f"{folder}/{name}-0000.flac")
        (tmp_path / folder / f"{name}.trans.txt").write_text(f"{name}-0000 YES\n{name}-0001 GONE\n")
    result = build_manifest("librispeech", root=tmp_path, parts=["test-other"])
    assert [u.id for u in result.manifest] == ["1688-142285-0000"]
    assert [path for path, _ in result.skipped] == ["test-other/1688-142285-0001"]
    assert result.notes == (
        "librispeech: test-other: 1 left out (has a text but no recording): test-other/1688-142285-0001",
        "librispeech: test-other has 1 utterances, the card expects 2939",
    )
    with pytest.raises(ManifestError, match="LibriSpeech: holds nothing of dev-other; leave --parts away to see"):
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
        "dev-clean: 4 recordings without a text: dev-clean/84/121123/84-121123-0001.flac," in note
        and note.endswith("and 1 more")
        for note in result.notes
    )


def test_the_card_of_a_folder_is_the_folder(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("a/b.wav")
    (tmp_path / "a/b.txt").write_text("hello")
    by_card, directly = build_manifest("folder", root=tmp_path), build_manifest(tmp_path)
    assert by_id(by_card.manifest) == by_id(directly.manifest) == {"a/b": ("hello", None, {})}


def test_the_list_shows_every_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifest", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0]: line for line in lines[1 : 1 + len(list_cards())]}
    assert list(shown) == list_cards()
    assert "57,706" in shown["libri-light"] and "--root" in shown["libri-light"] and " en " in shown["libri-light"]
    assert "the network" in shown["voice-prompts"] and "CC BY-NC-ND 3.0" in shown["tedlium3"]
    assert "–" in shown["fleurs"] and "102 languages" in shown["fleurs"]
    assert main(["manifest", "list", "--markdown", "--json"]) == 2
    assert "--markdown prints the table of all cards" in capsys.readouterr().err


@pytest.mark.parametrize("name", list_cards())
def test_a_card_is_shown_in_full_with_a_command_that_is_understood(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    card = load_card(name)
    assert main(["manifest", "list", name]) == 0
    out = capsys.readouterr().out
    assert card.title in out and card.tree.splitlines()[-1] in out
    for part in (*card.splits, *card.subsets):
        assert part in out
    commands = [line.strip() for line in out.splitlines() if line.strip().startswith("speechssl manifest build")]
    assert commands[0] == card.build_command and ("--root" in commands[0]) != card.can_be_fetched
    for command in commands:
        words = shlex.split(command)[3:]
        options = stage_config("manifest build", BuildOptions, words, example="", summary="", positionals=("source",))
        assert options is not None and options.source == (name,)
        assert set(options.parts) <= {*card.splits, *card.subsets}
