"""Characters of spoken digits in time, as CTM, by an aligner that has never seen an encoder.

A small CTC head is trained on MFCCs of all the digits (it labels them, it is not tested), and the known text is aligned
to its output by the best path. A character lasts from the middle between its spikes to the next.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torchaudio.functional import forced_align, merge_tokens

from speechssl.alignments import AlignedSpan, write_ctm
from speechssl.frames import FrameSource
from speechssl.manifest import Manifest
from speechssl.probe.ctc_head import fitting, train_head
from speechssl.text import Vocabulary

EDGE_SECONDS = 0.06  # how far the first and last characters reach beyond their spikes


def main() -> None:
    """Train, align, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = FrameSource(name="mfcc")
    frames, texts = {}, {}
    for path in arguments.manifests:
        manifest = Manifest.load(path)
        texts |= dict(zip(manifest.column("id").to_pylist(), manifest.column("text").to_pylist(), strict=True))
        frames |= {name: found.astype(np.float16) for name, found in source.stream(manifest)}
    vocabulary = Vocabulary.from_texts(texts.values())
    ids = fitting(list(frames), frames, texts, vocabulary)
    trained = train_head(ids, frames, texts, vocabulary, rates=[1e-2], num_updates=600, seed=0)
    print(f"character error rate on the fifth that was held out: {100 * trained.inner_cer:.1f} %")
    alignments = {}
    for name in ids:
        found = torch.from_numpy(frames[name].astype(np.float32))[None]
        with torch.inference_mode():
            logits = trained.head(found, torch.tensor([found.shape[2]]))
        path, scores = forced_align(logits.log_softmax(-1), torch.tensor([vocabulary.encode(texts[name])]))
        spans = merge_tokens(path[0], scores[0])
        times = source.times(found.shape[2])
        spikes = [float(times[(span.start + span.end - 1) // 2]) for span in spans]
        edges = [max(0.0, spikes[0] - EDGE_SECONDS), *((a + b) / 2 for a, b in zip(spikes, spikes[1:], strict=False))]
        edges.append(min(float(times[-1]), spikes[-1] + EDGE_SECONDS))
        alignments[name] = [
            AlignedSpan(start=start, end=end, label=vocabulary.tokens[span.token])
            for span, start, end in zip(spans, edges, edges[1:], strict=False)
        ]
    write_ctm(arguments.output, alignments)
    print(
        f"{arguments.output}: {len(alignments)} utterances aligned, {len(frames) - len(ids)} too short for their text"
    )


if __name__ == "__main__":
    main()
