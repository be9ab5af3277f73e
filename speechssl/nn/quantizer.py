"""Product quantization with a Gumbel softmax (wav2vec 2.0, section 2, equation 1).

Shapes: B utterances, M masked frames, C latent dim, G codebooks, V entries, Q quantized dim.
"""

import torch
from torch import Tensor, nn

from speechssl.types import QuantizerOutput


def sample_gumbel(shape: torch.Size | tuple[int, ...], *, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise -log(-log(u)) in fp32 on the device of `like`."""
    exponential = torch.empty(shape, dtype=torch.float32, device=like.device).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(torch.float32).tiny).log()


def perplexity(probabilities: Tensor) -> Tensor:
    """exp(entropy) over the last dimension, between 1 and its size: `[G, V]` -> `[G]`."""
    return torch.exp(-(probabilities * torch.log(probabilities + 1e-7)).sum(dim=-1))


class GumbelQuantizer(nn.Module):
    """Latents -> G logits of V entries -> one entry a codebook -> their concatenation.

    In training an entry is drawn by adding Gumbel noise to the logits and taking the largest; the gradient is that of
    the softmax at `temperature` (straight through, equation 1). In evaluation the largest logit wins.

    `logit_std` is the initial standard deviation of the logits for inputs of unit variance. The drawn entry depends
    on the logits only against the noise (whose standard deviation is 1.28), not on the temperature, so this scale
    decides how noisy the targets are at first. None keeps the reference's unit normal weights, which is sqrt(C).
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        num_codebooks: int,
        num_entries: int,
        quantized_dim: int,
        logit_std: float | None = None,
    ) -> None:
        super().__init__()
        if quantized_dim % num_codebooks:
            raise ValueError(
                f"quantized_dim must be divisible by num_codebooks={num_codebooks}, but is {quantized_dim}"
            )
        self.num_codebooks = num_codebooks
        self.num_entries = num_entries
        self.logits = nn.Linear(latent_dim, num_codebooks * num_entries)
        nn.init.normal_(self.logits.weight, std=1.0 if logit_std is None else logit_std / latent_dim**0.5)
        nn.init.zeros_(self.logits.bias)
        self.codebooks = nn.Parameter(torch.empty(num_codebooks, num_entries, quantized_dim // num_codebooks))
        nn.init.uniform_(self.codebooks)

    def forward(
        self,
        latents: Tensor,
        valid: Tensor,
        *,
        temperature: float,
        gumbel: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> QuantizerOutput:
        """Quantize masked frames.

        Args:
            latents: `[B, M, C]`.
            valid: bool `[B, M]`; other places are quantized too but count in no statistic.
            temperature: of the softmax, > 0.
            gumbel: the noise to add, `[B, M, G, V]`; drawn from `generator` when None. Ignored in evaluation.

        The perplexities are of the noise-free distribution, averaged over valid places (appendix B): that of the
        softmax carries the diversity loss' gradient, that of the arg max is for watching.
        """
        batch, places, _ = latents.shape
        shape = (batch, places, self.num_codebooks, self.num_entries)
        logits = self.logits(latents).float().view(shape)
        with torch.autocast(latents.device.type, enabled=False):
            if self.training:
                noise = sample_gumbel(shape, like=logits, generator=generator) if gumbel is None else gumbel
                soft = torch.softmax((logits + noise) / temperature, dim=-1)
                codes = soft.argmax(dim=-1)
                hard = torch.zeros_like(soft).scatter_(-1, codes[..., None], 1.0)
                choice = hard - soft.detach() + soft  # value of hard, gradient of soft
            else:
                codes = logits.argmax(dim=-1)
                choice = torch.zeros_like(logits).scatter_(-1, codes[..., None], 1.0)
            # [G, B M, V] @ [G, V, Q / G] -> [B, M, Q]
            by_codebook = choice.reshape(batch * places, self.num_codebooks, self.num_entries).transpose(0, 1)
            entries = torch.bmm(by_codebook, self.codebooks.float()).transpose(0, 1)  # [B M, G, Q / G]
            quantized = entries.reshape(batch, places, entries.shape[1] * entries.shape[2])

            weight = valid.float() / valid.sum().clamp(min=1)
            mean_probabilities = torch.einsum("bm,bmgv->gv", weight, torch.softmax(logits, dim=-1))
            usage = torch.zeros_like(mean_probabilities)
            best = logits.detach().argmax(dim=-1)  # [B, M, G]
            usage.scatter_add_(
                1,
                best.permute(2, 0, 1).reshape(self.num_codebooks, -1),
                weight.reshape(1, -1).expand(self.num_codebooks, -1),
            )
        return QuantizerOutput(
            quantized=quantized,
            codes=codes,
            code_perplexity=perplexity(usage),
            prob_perplexity=perplexity(mean_probabilities),
        )
