"""Length arithmetic agrees with what convolutions do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from speechssl.encoder import EncoderConfig, encoder_config
from speechssl.lengths import (
    frame_stride,
    frame_to_seconds,
    input_length,
    output_length,
    padding_mask,
    receptive_field,
    samples_to_seconds,
    seconds_to_samples,
)

WAVEFORM = EncoderConfig().strided_layers
LOG_MEL = encoder_config("tiny").strided_layers
LAYERS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=5)


def test_wav2vec2_sees_25_ms_every_20_ms() -> None:
    assert receptive_field(WAVEFORM) == 400
    assert frame_stride(WAVEFORM) == 320
    assert [output_length(n, WAVEFORM) for n in (0, 399, 400, 719, 720, 16_000, 160_000)] == [0, 0, 1, 1, 2, 49, 499]


def test_log_mel_frames_have_the_same_pace() -> None:
    assert frame_stride(LOG_MEL) == 320
    assert receptive_field(LOG_MEL) == 560  # two windows of 400, 160 apart
    assert [output_length(n, LOG_MEL) for n in (559, 560, 879, 880)] == [0, 1, 1, 2]


@given(layers=LAYERS, num_samples=st.integers(0, 400))
def test_output_length_is_that_of_convolutions(layers: list[tuple[int, int]], num_samples: int) -> None:
    x = torch.zeros(1, 1, num_samples)
    for kernel, stride in layers:
        if x.shape[2] < kernel:
            x = x[:, :, :0]
            break
        x = nn.functional.conv1d(x, torch.zeros(1, 1, kernel), stride=stride)
    assert output_length(num_samples, layers) == x.shape[2]


@given(layers=LAYERS, num_frames=st.integers(1, 50))
def test_input_length_is_the_shortest_that_gives_the_frames(layers: list[tuple[int, int]], num_frames: int) -> None:
    shortest = input_length(num_frames, layers)
    assert output_length(shortest, layers) == num_frames
    assert output_length(shortest - 1, layers) == num_frames - 1


@given(lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=6))
def test_tensors_and_integers_agree(lengths: list[int]) -> None:
    assert output_length(torch.tensor(lengths), WAVEFORM).tolist() == [output_length(n, WAVEFORM) for n in lengths]


@given(num_samples=st.integers(0, 10**8), sample_rate=st.sampled_from([8000, 16_000, 22_050, 44_100, 48_000]))
def test_seconds_and_samples_are_inverse(num_samples: int, sample_rate: int) -> None:
    assert seconds_to_samples(samples_to_seconds(num_samples, sample_rate), sample_rate) == num_samples


def test_seconds_are_rounded_to_the_nearest_sample() -> None:
    assert [seconds_to_samples(x, 10) for x in (0.0, 0.14, 0.16, 0.25)] == [0, 1, 2, 3]


def test_time_of_a_frame_is_its_centre() -> None:
    assert frame_to_seconds(0, WAVEFORM, 16_000) == pytest.approx(0.0125)
    assert frame_to_seconds(50, WAVEFORM, 16_000) == pytest.approx(1.0125)


def test_padding_mask_is_true_beyond_the_length() -> None:
    assert padding_mask(torch.tensor([0, 2, 3]), 3).tolist() == [[True] * 3, [False, False, True], [False] * 3]
