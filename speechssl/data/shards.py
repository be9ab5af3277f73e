"""Which utterances lie together: windows of a few shards, for storage that is slow to jump."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from speechssl.errors import ConfigError

MIN_WINDOW_BATCHES = 8
"""Windows with fewer batches would make bad ones: too few utterances of each length, and always the same together."""

_WINDOW_SEED = 3


def shard_windows(
    paths: pa.ChunkedArray, seconds: NDArray[np.float64], *, shards_at_once: int, batch_seconds: float, seed: int
) -> NDArray[np.int64]:
    """i64 `[N]`: the window that each row belongs to; a window is `shards_at_once` shards.

    A shard is the file that holds the recording: an archive, or a long recording of which many utterances are spans.
    Which shards share a window follows from the seed and is the same in every epoch. `paths` and `seconds` `[N]` are
    the rows' `audio_filepath` and durations.

    Raises:
        ConfigError: the windows would hold too little.
    """
    files = pc.replace_substring_regex(paths, pattern=r":\d+:\d+$", replacement="")
    codes = files.combine_chunks().dictionary_encode()
    num_shards = len(codes.dictionary)
    turn = np.random.default_rng([seed, _WINDOW_SEED]).permutation(num_shards)
    windows: NDArray[np.int64] = turn[codes.indices.to_numpy()] // shards_at_once
    num_windows = -(-num_shards // shards_at_once)
    held = float(seconds.sum()) / num_windows / batch_seconds
    if num_windows > 1 and held < MIN_WINDOW_BATCHES:
        enough = min(num_shards, int(np.ceil(shards_at_once * MIN_WINDOW_BATCHES / held)))
        raise ConfigError(
            f"order is by_shard, but {shards_at_once} of the manifest's {num_shards} files hold only {held:.2g}"
            f" batches; set shards_at_once to {enough} or more, or order to random where recordings are single files"
        )
    return windows
