"""CTC training as the loop sees it.

Shapes: B utterances, S samples, T frames, L labels, D model dim, N vocabulary.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.asr import CtcModel
from speechssl.ctc import ctc_nll, greedy_decode, required_frames_batch
from speechssl.data import EpochCoverage, LabeledBatches, coverage_path, current_ranks, iterate_once
from speechssl.errors import AudioError
from speechssl.finetune.config import FinetuneConfig
from speechssl.finetune.labels import LabeledData
from speechssl.finetune.weights import TrainedWeights
from speechssl.lengths import no_padding, output_length, padding_mask, receptive_field
from speechssl.nn.masking import sample_span_mask
from speechssl.scoring import count_errors, error_rates
from speechssl.training.randomness import derive_seed
from speechssl.types import AudioBatch, LabeledBatch, ObjectiveOutput, Utterance

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """A batch on its device. `feasible` bool `[B]`: the audio, as decoded, has frames for all labels."""

    batch: LabeledBatch
    feasible: Tensor
    num_frames: Tensor  # i64 [B], on the CPU, so that drawing masks never waits for the device
    padding_share: Tensor  # f32 scalar, on the CPU


class CtcTask:
    """Supervised training of a `CtcModel` as the training loop sees it."""

    def __init__(
        self,
        model: CtcModel,
        train_data: LabeledData,
        valid_data: LabeledData,
        config: FinetuneConfig,
        *,
        pretrained_checksum: str = "",
    ) -> None:
        """Train `model`; `pretrained_checksum` is noted beside adapters (see `adapters.weights_checksum`)."""
        self.model = model
        self._config = config
        self._valid_data = valid_data
        self._rate = model.encoder.config.sample_rate
        self._layers = model.encoder.strided_layers
        ranks = current_ranks()
        self._stream = LabeledBatches(
            train_data.manifest,
            train_data.labels,
            config.data,
            sample_rate=self._rate,
            min_num_samples=receptive_field(self._layers),
            seed=derive_seed("data", config.training.seed) % 2**32,
            rank=ranks.rank,
            world_size=ranks.world_size,
            pin_memory=model.device.type == "cuda",
            coverage_path=coverage_path(config.run_directory, ranks),
        )
        logger.info("%d training utterances, %s", len(train_data.manifest), self._stream.describe())
        self._short: dict[str, str] = {}
        self._unreadable: set[str] = set()
        self.weights = TrainedWeights(model, config)
        self.pretrained_checksum = pretrained_checksum
        self.num_seen = self.num_infeasible = 0

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What a checkpoint holds."""
        return self.weights.modules

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Training utterances whose recording could not be used so far: id -> reason."""
        return {**self._stream.problems, **self._short}

    @property
    def coverage(self) -> tuple[EpochCoverage, ...]:
        """What became of the training utterances, by epoch, as far as this process has seen."""
        return self._stream.coverage

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `TrainedWeights`."""
        return self.weights.parameter_groups()

    def batches(self, start: int) -> Iterator[LabeledBatch]:
        """This rank's micro-batches from its number `start` on, when all ranks have made as many."""
        return self._stream.batches(start * self._stream.world_size)

    def batch_seconds(self, batch: LabeledBatch) -> float:
        """Seconds of audio, without padding."""
        return batch.audio.seconds

    def to_device(self, batch: LabeledBatch, device: torch.device) -> _Placed:
        """The batch on `device`, with what is computed from lengths while they are still on the CPU."""
        num_frames = output_length(batch.audio.num_samples, self._layers)
        feasible = num_frames >= required_frames_batch(batch.targets, batch.target_lengths)
        self.num_seen += len(feasible)
        self.num_infeasible += int((~feasible).sum())
        if not feasible.all():
            for row in (~feasible).nonzero().flatten().tolist():
                self._note_short(batch.audio.utterance_ids[row])
        padding_share = 1 - batch.audio.num_samples.sum() / batch.audio.waveform.numel()
        return _Placed(
            batch=batch.to(device), feasible=feasible.to(device), num_frames=num_frames, padding_share=padding_share
        )

    def _note_short(self, utterance_id: str) -> None:
        """The recording holds less than the manifest says, else it had been found before training; or it is played
        faster in this epoch, which says nothing against it.
        """
        if utterance_id not in self._short and self._config.data.augment.min_length_factor == 1:
            self._short[utterance_id] = "its recording is shorter than the manifest says, and too short for its text"
            logger.warning(
                "left out %s: %s; run `speechssl manifest validate --audio`", utterance_id, self._short[utterance_id]
            )

    def before_step(self, step: int) -> None:
        """Freeze the encoder in the first `freeze_steps` updates, the convolutions throughout."""
        self.weights.freeze(step)

    def loss(self, batch: _Placed, *, step: int, generator: torch.Generator) -> ObjectiveOutput:
        """Negative log likelihood in nats per label, of the utterances whose labels fit their frames."""
        labeled = batch.batch
        masks = self._masks(batch.num_frames, generator)
        with no_padding(bool(labeled.audio.is_full)):
            output = self.model(labeled.audio.waveform, labeled.audio.num_samples, **masks)
        # Without labels the loss of an infeasible row is finite, so that a factor of 0 leaves no trace in gradients.
        lengths = torch.where(batch.feasible, labeled.target_lengths, 0)
        blank = self.model.vocabulary.blank
        nll = ctc_nll(output.logits, output.num_frames, labeled.targets, lengths, blank=blank) * batch.feasible
        num_labels = lengths.sum()
        return ObjectiveOutput(
            loss=nll.sum() / num_labels.clamp(min=1),
            num_targets=num_labels,
            metrics={
                "blank_fraction": _blank_fraction(output.logits.detach(), output.num_frames, blank),
                "infeasible_utterances": (~batch.feasible).sum().float(),
                "infeasible_share": (~batch.feasible).float().mean(),
                "padding_share": batch.padding_share,
            },
        )

    def _masks(self, num_frames: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Frame mask bool `[B, T]` and channel mask bool `[B, D]` on the model's device, as far as configured."""
        mask, dim = self._config.mask, self.model.encoder.config.model_dim
        masks = {}
        if mask.time_probability > 0:
            masks["frame_mask"] = sample_span_mask(
                num_frames,
                int(num_frames.max()),
                probability=mask.time_probability,
                span=mask.time_span,
                generator=generator,
            )
        if mask.channel_probability > 0:
            masks["channel_mask"] = sample_span_mask(
                torch.full_like(num_frames, dim),
                dim,
                probability=mask.channel_probability,
                span=mask.channel_span,
                generator=generator,
            )
        return {name: value.to(self.model.device, non_blocking=True) for name, value in masks.items()}

    def compile(self) -> None:
        """Compile what profits with lengths that change from batch to batch."""
        self.model.encoder.context_encoder.compile_feed_forward()

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of the encoder's layers for the backward pass."""
        self.model.encoder.context_encoder.checkpoint_activations()

    def after_update(self, step: int) -> None:
        """Move the average of the weights, where there is one."""
        self.weights.after_update(step)

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Loss per label, WER and CER of greedy decoding over the whole validation manifest.

        An utterance whose audio cannot be read counts with an empty hypothesis. The loss is that of the utterances
        whose labels fit their frames.
        """
        data = self._valid_data
        row_of = {name: row for row, name in enumerate(data.manifest.column("id").to_pylist())}
        references = {utterance.id: utterance.text or "" for utterance in data.manifest}
        hypotheses = dict.fromkeys(references, "")
        sums = torch.zeros(4, dtype=torch.float64)
        model = self.weights.evaluated
        was_training = model.training
        model.eval()
        for batch in iterate_once(
            data.manifest,
            batch_seconds=self._config.data.batch_seconds,
            sample_rate=self._rate,
            min_num_samples=receptive_field(self._layers),
            on_error=self._note_unreadable,
            num_workers=self._config.data.num_workers,
        ):
            texts, measured = self._measure(model, batch, [data.labels[row_of[name]] for name in batch.utterance_ids])
            hypotheses.update(zip(batch.utterance_ids, texts, strict=True))
            sums += measured
        model.train(was_training)
        wer, cer = error_rates(count_errors(references, hypotheses, normalizer=self._config.normalizer))
        nll, num_labels, num_blanks, num_frames = sums.tolist()
        return {
            "valid_loss": nll / max(num_labels, 1),
            "valid_wer": wer,
            "valid_cer": cer,
            "valid_blank_fraction": num_blanks / max(num_frames, 1),
            **{f"valid_layer_weight_{layer}": weight for layer, weight in enumerate(layer_weights(model))},
        }

    def _measure(self, model: CtcModel, batch: AudioBatch, labels: Sequence[Sequence[int]]) -> tuple[list[str], Tensor]:
        """Hypotheses, and the sums f64 `[4]` of nll, labels, blank frames and frames over a batch."""
        device = model.device
        targets = nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in labels], batch_first=True)
        lengths = torch.tensor([len(row) for row in labels])
        num_frames = output_length(batch.num_samples, self._layers)
        feasible = num_frames >= required_frames_batch(targets, lengths)
        lengths = torch.where(feasible, lengths, 0)
        output = model(batch.waveform.to(device), batch.num_samples.to(device))
        blank = model.vocabulary.blank
        nll = (
            ctc_nll(output.logits, output.num_frames, targets.to(device), lengths.to(device), blank=blank)
            .cpu()
            .double()
        )
        blanks = float(_blank_fraction(output.logits, output.num_frames, blank)) * int(num_frames.sum())
        sums = [float((nll * feasible).sum()), float(lengths.sum()), blanks, float(num_frames.sum())]
        hypotheses = greedy_decode(output.logits, output.num_frames, model.vocabulary)
        return [hypothesis.text for hypothesis in hypotheses], torch.tensor(sums, dtype=torch.float64)

    def _note_unreadable(self, utterance: Utterance, error: AudioError) -> None:
        if utterance.id not in self._unreadable:
            self._unreadable.add(utterance.id)
            logger.warning("validation utterance %s counts as not recognised: %s", utterance.id, error)

    def save_model(self, directory: Path) -> None:
        """Write `config.json`, `model.safetensors` and `vocab.json`, and adapters by themselves."""
        self.weights.save(directory, pretrained_checksum=self.pretrained_checksum)


def layer_weights(model: CtcModel) -> list[float]:
    """The learnt weight of the transformer's input and of each layer; empty where the head reads the context."""
    return [] if model.layer_mix is None else model.layer_mix.weights.tolist()


def _blank_fraction(logits: Tensor, num_frames: Tensor, blank: int) -> Tensor:
    """Share of the frames in which the blank is the best label; `[B, T, N]` -> f32 scalar."""
    valid = ~padding_mask(num_frames, logits.shape[1])
    return ((logits.argmax(dim=-1) == blank) & valid).sum().float() / num_frames.sum()
