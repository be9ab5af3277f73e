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
from speechssl.encoder import EncoderConfig
from speechssl.errors import AudioError
from speechssl.finetune.config import FinetuneConfig
from speechssl.finetune.labels import LabeledData
from speechssl.lengths import output_length, padding_mask, receptive_field
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
        self, model: CtcModel, train_data: LabeledData, valid_data: LabeledData, config: FinetuneConfig
    ) -> None:
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
        frozen = config.freeze_feature_encoder
        self._freeze_features = config.pretrained is not None if frozen is None else frozen
        self.before_step(0)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The model alone."""
        return {"model": self.model}

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Training utterances whose recording could not be used so far: id -> reason."""
        return {**self._stream.problems, **self._short}

    @property
    def coverage(self) -> tuple[EpochCoverage, ...]:
        """What became of the training utterances, by epoch, as far as this process has seen."""
        return self._stream.coverage

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The linear layer and the encoder's parameters, each with its factor on the learning rate.

        Weight decay is for matrices and kernels only: not for biases, norms and the mask embedding.
        """
        config, encoder = self._config, self.model.encoder
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if name.startswith("head."):
                scale = config.head_lr_scale
            elif name.startswith("encoder.feature_encoder.") and self._freeze_features:
                continue
            else:
                above = _layers_above(name.removeprefix("encoder."), encoder.config)
                scale = config.encoder_lr_scale * config.layer_lr_decay**above
            groups.setdefault((scale, parameter.dim() > 1), []).append(parameter)
        return [
            {"params": parameters, "lr_scale": scale} | ({} if decays else {"weight_decay": 0.0})
            for (scale, decays), parameters in groups.items()
        ]

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
        trains_encoder = step >= self._config.freeze_steps
        encoder = self.model.encoder
        for parameter in encoder.parameters():
            parameter.requires_grad_(trains_encoder)
        if self._freeze_features:
            for parameter in encoder.feature_encoder.parameters():
                parameter.requires_grad_(False)

    def loss(self, batch: _Placed, *, step: int, generator: torch.Generator) -> ObjectiveOutput:
        """Negative log likelihood in nats per label, of the utterances whose labels fit their frames."""
        labeled = batch.batch
        output = self.model(
            labeled.audio.waveform, labeled.audio.num_samples, **self._masks(batch.num_frames, generator)
        )
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

    def after_update(self, step: int) -> None:
        """Nothing to do."""

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
        was_training = self.model.training
        self.model.eval()
        for batch in iterate_once(
            data.manifest,
            batch_seconds=self._config.data.batch_seconds,
            sample_rate=self._rate,
            min_num_samples=receptive_field(self._layers),
            on_error=self._note_unreadable,
            num_workers=self._config.data.num_workers,
        ):
            texts, measured = self._measure(batch, [data.labels[row_of[name]] for name in batch.utterance_ids])
            hypotheses.update(zip(batch.utterance_ids, texts, strict=True))
            sums += measured
        self.model.train(was_training)
        wer, cer = error_rates(count_errors(references, hypotheses, normalizer=self._config.normalizer))
        nll, num_labels, num_blanks, num_frames = sums.tolist()
        return {
            "valid_loss": nll / max(num_labels, 1),
            "valid_wer": wer,
            "valid_cer": cer,
            "valid_blank_fraction": num_blanks / max(num_frames, 1),
        }

    def _measure(self, batch: AudioBatch, labels: Sequence[Sequence[int]]) -> tuple[list[str], Tensor]:
        """Hypotheses, and the sums f64 `[4]` of nll, labels, blank frames and frames over a batch."""
        device = self.model.device
        targets = nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in labels], batch_first=True)
        lengths = torch.tensor([len(row) for row in labels])
        num_frames = output_length(batch.num_samples, self._layers)
        feasible = num_frames >= required_frames_batch(targets, lengths)
        lengths = torch.where(feasible, lengths, 0)
        output = self.model(batch.waveform.to(device), batch.num_samples.to(device))
        blank = self.model.vocabulary.blank
        nll = (
            ctc_nll(output.logits, output.num_frames, targets.to(device), lengths.to(device), blank=blank)
            .cpu()
            .double()
        )
        blanks = float(_blank_fraction(output.logits, output.num_frames, blank)) * int(num_frames.sum())
        sums = [float((nll * feasible).sum()), float(lengths.sum()), blanks, float(num_frames.sum())]
        hypotheses = greedy_decode(output.logits, output.num_frames, self.model.vocabulary)
        return [hypothesis.text for hypothesis in hypotheses], torch.tensor(sums, dtype=torch.float64)

    def _note_unreadable(self, utterance: Utterance, error: AudioError) -> None:
        if utterance.id not in self._unreadable:
            self._unreadable.add(utterance.id)
            logger.warning("validation utterance %s counts as not recognised: %s", utterance.id, error)

    def save_model(self, directory: Path) -> None:
        """Write `config.json`, `model.safetensors` and `vocab.json`."""
        self.model.save(directory)


def _layers_above(parameter: str, config: EncoderConfig) -> int:
    """How many transformer layers lie above an encoder's parameter."""
    parts = parameter.split(".")
    if parts[:2] == ["context_encoder", "layers"]:
        return config.num_layers - 1 - int(parts[2])
    is_final_norm = parts[:2] == ["context_encoder", "norm"] and config.norm_position == "pre"
    return 0 if is_final_norm else config.num_layers


def _blank_fraction(logits: Tensor, num_frames: Tensor, blank: int) -> Tensor:
    """Share of the frames in which the blank is the best label; `[B, T, N]` -> f32 scalar."""
    valid = ~padding_mask(num_frames, logits.shape[1])
    return ((logits.argmax(dim=-1) == blank) & valid).sum().float() / num_frames.sum()
