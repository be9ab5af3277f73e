"""The label files of Hugging Face's CTC models: `vocab.json` and what stands beside it, in and out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl.errors import CheckpointError, ConfigError
from speechssl.interop.files import read_optional_object
from speechssl.text import Case, NormalizerName, Vocabulary

_CLASSES = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
_PHONEME_CLASS = "Wav2Vec2PhonemeCTCTokenizer"
_DEFAULTS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def read_vocabulary(folder: Path, *, num_labels: int, source: str) -> tuple[Vocabulary, tuple[str, ...]]:
    """The vocabulary of a `...ForCTC` model with `num_labels` outputs, in the model's order, and notes.

    Raises:
        CheckpointError: files are missing, several languages share the model, or the tokenizer is of another kind.
    """
    config = {
        **read_optional_object(folder / "special_tokens_map.json"),
        **read_optional_object(folder / "tokenizer_config.json"),
    }
    kind = config.get("tokenizer_class") or _CLASSES[0]
    if kind not in (*_CLASSES, _PHONEME_CLASS):
        raise CheckpointError(
            f"{source}: its tokenizer is a {kind}, but these can be imported: {', '.join((*_CLASSES, _PHONEME_CLASS))}"
        )
    ids = _token_ids(folder, source)
    special = {name: _text(config.get(name, default)) for name, default in _DEFAULTS.items()}
    blank = special["pad_token"]
    if blank is None or blank not in ids:
        raise CheckpointError(
            f"{source}: the tokenizer's pad_token {blank!r}, which is the CTC blank, is not in vocab.json; name it in"
            f" {folder / 'tokenizer_config.json'}"
        )
    silent = {token for token in special.values() if token in ids} | _added_special(config)
    tokens, notes = _in_order(ids, num_labels)
    separator = None if kind == _PHONEME_CLASS else _text(config.get("word_delimiter_token", "|"))
    if kind == _PHONEME_CLASS:  # leaves its word delimiter unwritten
        silent.add(_text(config.get("word_delimiter_token")) or "")
    lower = bool(config.get("do_lower_case"))
    known = {token: index for index, token in enumerate(tokens)}
    silent |= {token for token in tokens if token.startswith("<unused ")}
    written = [token for token in tokens if token not in silent and token != separator]
    try:
        vocabulary = Vocabulary(
            tuple(tokens),
            blank=known[blank],
            separator=known.get(separator) if separator is not None else None,
            special=tuple(sorted(known[token] for token in silent if token in known and token != blank)),
            joiner=" " if kind == _PHONEME_CLASS else "",
            encode_case="upper" if lower else case_of(written),
            decode_case="lower" if lower else "keep",
        )
    except (ConfigError, KeyError) as error:
        raise CheckpointError(f"{folder / 'vocab.json'}: {error}") from None
    return vocabulary, notes


def normalizer_of(vocabulary: Vocabulary) -> NormalizerName:
    """The rule that makes texts such as the model writes: `letters` where it writes one case and no punctuation."""
    written = [token for token in vocabulary.ids if token != " "]
    one_case = vocabulary.encode_case != "keep" or not any(token != token.lower() for token in written)
    plain = all(character.isalnum() or character == "'" for token in written for character in token)
    return "letters" if one_case and plain and not vocabulary.joiner else "none"


def write_vocabulary(vocabulary: Vocabulary, folder: Path) -> Any:
    """Write the tokenizer's files; returns the tokenizer, which writes the same texts.

    Raises:
        CheckpointError: Hugging Face's tokenizers cannot write such texts.
    """
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer

    if vocabulary.word_prefix is not None:
        raise CheckpointError(
            f"its labels mark the beginnings of words by {vocabulary.word_prefix!r}, which Hugging Face's CTC tokenizer"
            " would write as they stand; export the encoder alone (the pre-trained run)"
        )
    if vocabulary.decode_case != "keep" and (vocabulary.encode_case, vocabulary.decode_case) != ("upper", "lower"):
        raise CheckpointError(
            f"it writes {vocabulary.decode_case} case of labels in another, which Hugging Face's CTC tokenizer does not"
        )
    vocabulary.save(folder / "vocab.json")
    names = special_tokens(vocabulary)
    separator = None if vocabulary.separator is None else vocabulary.tokens[vocabulary.separator]
    if vocabulary.joiner:
        tokenizer = Wav2Vec2PhonemeCTCTokenizer(
            str(folder / "vocab.json"), **names, word_delimiter_token=separator, do_phonemize=False
        )
    else:
        tokenizer = Wav2Vec2CTCTokenizer(
            str(folder / "vocab.json"),
            **names,
            word_delimiter_token=separator,
            do_lower_case=vocabulary.decode_case == "lower",
            clean_up_tokenization_spaces=False,
        )
    check_tokenizer(tokenizer, vocabulary)
    return tokenizer


def special_tokens(vocabulary: Vocabulary) -> dict[str, str | None]:
    """`pad_token` (the blank), and `bos_token`, `eos_token` and `unk_token` where the vocabulary has such labels."""
    silent = {vocabulary.tokens[label] for label in vocabulary.special}
    names: dict[str, str | None] = {"pad_token": vocabulary.tokens[vocabulary.blank]}
    for name, spellings in (("bos_token", ("<s>",)), ("eos_token", ("</s>",)), ("unk_token", ("<unk>", "[UNK]"))):
        names[name] = next((token for token in spellings if token in silent), None)
    return names


def check_tokenizer(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Compare the texts of every label, twice in a row and alone.

    Raises:
        CheckpointError: the first label that is written differently.
    """
    for label in vocabulary.ids.values():
        frames = [label, label, vocabulary.blank, label]
        theirs = " ".join(tokenizer.decode(frames).split())
        ours = vocabulary.decode([label, label])
        if theirs != ours:
            raise CheckpointError(
                f"label {label} ({vocabulary.tokens[label]!r}) is written {theirs!r} by Hugging Face's tokenizer and"
                f" {ours!r} here"
            )


def _token_ids(folder: Path, source: str) -> dict[str, int]:
    """Token -> id, of `vocab.json` and `added_tokens.json`."""
    path = folder / "vocab.json"
    if not path.is_file():
        raise CheckpointError(
            f"{source}: has no vocab.json, so the labels of its CTC layer are unknown; fetch the tokenizer's files too"
        )
    ids = read_optional_object(path)
    if any(isinstance(value, dict) for value in ids.values()):
        languages = list(ids)
        shown = ", ".join(languages[:8]) + (f" and {len(languages) - 8} more" if len(languages) > 8 else "")
        raise CheckpointError(
            f"{path}: holds one vocabulary for each of {len(languages)} languages ({shown}), of a model that swaps its"
            " CTC layer and adapters by language (MMS); that cannot be imported. Save the model for one language"
            " without adapters, or fine-tune its encoder"
        )
    if not ids or not all(isinstance(value, int) for value in ids.values()):
        raise CheckpointError(f"{path}: must be an object from token to label id; download the tokenizer again")
    return {
        **ids,
        **{
            token: value
            for token, value in read_optional_object(folder / "added_tokens.json").items()
            if token not in ids
        },
    }


def _in_order(ids: Mapping[str, int], num_labels: int) -> tuple[list[str], tuple[str, ...]]:
    """Tokens of the labels 0..N-1, and notes on labels without a token and tokens without a label."""
    by_id: dict[int, str] = {}
    for token, index in ids.items():
        by_id.setdefault(index, token)
    beyond = [token for token, index in ids.items() if not 0 <= index < num_labels]
    missing = [index for index in range(num_labels) if index not in by_id]
    notes = []
    if beyond:
        notes.append(f"left out the tokens {', '.join(map(repr, beyond))}: the CTC layer has no output for them")
    if missing:
        notes.append(f"the labels {', '.join(map(str, missing))} have no token; they are never written")
    return [by_id.get(index, f"<unused {index}>") for index in range(num_labels)], tuple(notes)


def _added_special(config: Mapping[str, Any]) -> set[str]:
    """Tokens that the tokenizer's configuration marks as special."""
    named = {_text(token) or "" for token in config.get("additional_special_tokens") or []}
    entries = (config.get("added_tokens_decoder") or {}).values()
    marked = {str(entry["content"]) for entry in entries if isinstance(entry, dict) and entry.get("special")}
    return (named | marked) - {_text(config.get("word_delimiter_token", "|")) or ""}


def case_of(tokens: list[str]) -> Case:
    """The case that all tokens have, where letters have one."""
    text = "".join(tokens)
    if text == text.lower():
        return "keep" if text == text.upper() else "lower"
    return "upper" if all(token == token.upper() for token in tokens) else "keep"


def _text(token: Any) -> str | None:
    """A token as JSON has it: text, or an object with its `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return None if content is None else str(content)
