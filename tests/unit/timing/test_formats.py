"""Files that hold words and times."""

import re

from speechssl.timing import Character, Word, to_ctm, to_entries, to_srt, to_textgrid, to_vtt

WORDS = (
    Word(
        text='o"h', start_seconds=0.5, end_seconds=0.9, confidence=0.75,
        characters=(
            Character(text="o", start_seconds=0.5, end_seconds=0.6, confidence=0.5),
            Character(text="h", start_seconds=0.6, end_seconds=0.9, confidence=1.0),
        ),
    ),
    Word(text="<b>&", start_seconds=0.9, end_seconds=1.25, confidence=0.5),
    Word(text="late", start_seconds=3600.0, end_seconds=3600.4, confidence=1.0),
)  # fmt: skip


def test_ctm_has_six_columns_and_no_spaces_in_the_name() -> None:
    lines = to_ctm(WORDS, recording="my talk").splitlines()
    assert lines[0] == 'my_talk 1 0.500 0.400 o"h 0.7500'
    assert to_ctm([Word(text="a", start_seconds=0, end_seconds=1)], recording="x") == "x 1 0.000 1.000 a\n"


def test_vtt_has_a_stamp_for_every_word_and_escapes_text() -> None:
    blocks = to_vtt(WORDS).split("\n\n")
    assert blocks[0].strip() == "WEBVTT"
    assert blocks[1].strip() == "NOTE confidence 0.750 0.500"
    assert blocks[2].splitlines() == ["00:00:00.500 --> 00:00:01.250", 'o"h <00:00:00.900>&lt;b&gt;&amp;']
    assert "01:00:00.000 --> 01:00:00.400\nlate" in blocks[4]
    assert to_srt(WORDS).splitlines()[1] == "00:00:00,500 --> 00:00:01,250"


def intervals(grid: str) -> dict[str, list[tuple[float, float, str]]]:
    """A TextGrid read as Praat does: numbers and quoted texts in order, everything else is decoration."""
    tokens = [
        number or text for number, text in re.findall(r'= (-?[\d.]+)$|= ("(?:[^"]|"")*")\s*$', grid, re.MULTILINE)
    ]
    assert tokens[:2] == ['"ooTextFile"', '"TextGrid"']
    end, count = float(tokens[3]), int(tokens[4])
    place, tiers = 5, {}
    for _ in range(count):
        kind, name, low, high, size = tokens[place : place + 5]
        assert (kind, float(low), float(high)) == ('"IntervalTier"', 0.0, end)
        rows = [tokens[place + 5 + 3 * i : place + 8 + 3 * i] for i in range(int(size))]
        tiers[name.strip('"')] = [(float(a), float(b), text[1:-1].replace('""', '"')) for a, b, text in rows]
        place += 5 + 3 * int(size)
    assert place == len(tokens)
    return tiers


def test_textgrid_tiers_cover_the_recording_without_gaps() -> None:
    tiers = intervals(to_textgrid(WORDS, duration_seconds=3601.0))
    assert list(tiers) == ["words", "characters", "confidence"]
    for tier in tiers.values():
        assert (tier[0][0], tier[-1][1]) == (0.0, 3601.0)
        assert all(before[1] == after[0] for before, after in zip(tier, tier[1:], strict=False))
        assert all(start < end for start, end, _ in tier)
    assert tiers["words"] == [
        (0.0, 0.5, ""), (0.5, 0.9, 'o"h'), (0.9, 1.25, "<b>&"), (1.25, 3600.0, ""), (3600.0, 3600.4, "late"),
        (3600.4, 3601.0, ""),
    ]  # fmt: skip
    assert [text for *_, text in tiers["characters"]] == ["", "o", "h", ""]
    assert tiers["confidence"][1] == (0.5, 0.9, "0.750")


def test_textgrid_of_nothing_is_silence() -> None:
    assert intervals(to_textgrid([], duration_seconds=2.5)) == {"words": [(0.0, 2.5, "")]}


def test_overlap_and_words_without_length_do_not_break_a_tier() -> None:
    words = [
        Word(text="a", start_seconds=0.0, end_seconds=1.2),
        Word(text="none", start_seconds=1.0, end_seconds=1.0),
        Word(text="b", start_seconds=1.0, end_seconds=1.5),
    ]
    tier = intervals(to_textgrid(words, duration_seconds=1.5))["words"]
    assert tier == [(0.0, 1.0, "a"), (1.0, 1.5, "b")]


def test_entries_hold_what_is_known() -> None:
    assert to_entries(WORDS)[0] == {
        "word": 'o"h', "start": 0.5, "end": 0.9, "confidence": 0.75,
        "characters": [
            {"character": "o", "start": 0.5, "end": 0.6, "confidence": 0.5},
            {"character": "h", "start": 0.6, "end": 0.9, "confidence": 1.0},
        ],
    }  # fmt: skip
    assert to_entries([Word(text="a", start_seconds=0, end_seconds=1)]) == [{"word": "a", "start": 0, "end": 1}]
