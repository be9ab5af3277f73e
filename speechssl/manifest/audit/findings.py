"""What an audit finds wrong with single rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

QUALITY_KINDS: Mapping[str, str] = {
    "unreadable": "cannot be decoded",
    "silent": "digital silence from beginning to end",
    "clipping": "peaks are cut off flat",
    "at_ceiling": "peaks end at one ceiling: limited, or clipped and coded afterwards",
    "dc_offset": "the waveform does not lie around zero",
    "narrow_band": "less bandwidth than the sample rate promises",
    "long_silence": "a long stretch without activity",
    "mostly_silence": "hardly any activity",
    "low_level": "speech is very quiet",
    "noisy": "speech is hardly above the background",
    "hum": "mains hum",
    "dead_channel": "a channel is empty",
    "identical_channels": "all channels are the same",
    "repeated_audio": "audio that an earlier row of the same manifest holds too",
}
"""Findings about recordings, in the order in which a report lists them."""

TEXT_KINDS: Mapping[str, str] = {
    "empty_text": "no text, where other rows have one",
    "mojibake": "text that was read in the wrong encoding",
    "control_characters": "control characters, or characters that cannot be seen",
    "mixed_scripts": "letters of several scripts in one word",
    "not_nfc": "letters spelled with separate accents (not in Unicode's form NFC)",
    "markup": "mark-up, links or escapes",
    "digits": "digits, which a recogniser of letters cannot learn",
    "rare_characters": "characters that hardly any other row has",
    "other_language": "not in the language that the row names",
    "speech_rate": "far more or fewer letters than the recording's length lets expect",
}
"""Findings about texts, likewise."""

KINDS: Mapping[str, str] = {**QUALITY_KINDS, **TEXT_KINDS}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Rows of one kind of finding, the worst first, with a word or number about each: `values` or `texts`.

    `form` makes text of a value, such as `{:.1f} s`.
    """

    kind: str
    rows: Integers
    values: npt.NDArray[np.float64] | None = None
    form: str = ""
    texts: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def said(self, index: int) -> str:
        """What there is to say of one row."""
        return self.form.format(float(self.values[index])) if self.values is not None else self.texts[index]
