"""Words with times and confidences, and the file formats that hold them: SubRip, WebVTT, CTM, TextGrid, JSON."""

from speechssl.timing.subtitles import to_srt, to_vtt
from speechssl.timing.tables import to_ctm, to_entries, to_textgrid
from speechssl.timing.words import Character, Word

__all__ = ["Character", "Word", "to_ctm", "to_entries", "to_srt", "to_textgrid", "to_vtt"]
