"""What vLLM's profiling run needs at its peak: PyTorch's memory beside the weights.

At start-up vLLM computes one batch of max_num_batched_tokens dummy tokens, then samples for
max_num_seqs dummy requests with temperature, top-k and top-p, and takes the highest point
that PyTorch's allocator reached. The two follow one another, so the higher one counts.
Read from vllm/v1/worker/gpu_model_runner.py and vllm/v1/sample of vLLM 0.16, 0.17, 0.19, 0.33.
"""

from __future__ import annotations

from calibrate import weights
from calibrate.device import Device
from calibrate.model import Model

Version = tuple[int, int]

_TRITON_SAMPLER_SINCE: Version = (0, 17)

_TRITON_LOGIT_BYTES = 2 + 4 + 4 + 4
"""Per logit: the model's own 16 bits, fp32, the softmax, exponential noise."""

_TRITON_SCRATCH_BYTES = 4
"""Per logit of a scratch row; each multiprocessor at work on a row has one."""

_SORT_LOGIT_BYTES = 2 + 4 + 4 + 8 + 8 + (4 + 8)
"""Per logit before 0.17: 16 bits, fp32, sorted values, int64 indices, the indices to sort, and
the radix sort's second buffers for both. UNCERTAIN: read from PyTorch's sort; a log of vLLM
0.6.5 with Llama-3-8B (pull request 10511) shows 1.26 GiB where this gives 1.18."""


def forward_bytes(model: Model, *, tokens: int, tensor_parallel_size: int = 1) -> int:
    """The widest point of a layer: residual, normed input, MLP inputs and activation.

    In a mixture each token has them once for every expert it is sent to, and vLLM puts the
    experts' outputs where their inputs were (fused_moe: one buffer for both).
    """
    if model.moe:
        size = model.experts.expert_size // tensor_parallel_size
        routed = max(2 * size, model.hidden_size) + size
        per_token = 2 * model.hidden_size + model.experts.experts_per_token * routed
        return tokens * per_token * weights.BYTES
    mlp = model.dense.mlp_size // tensor_parallel_size
    per_token = 2 * model.hidden_size + (model.dense.mlp_inputs + 1) * mlp
    return tokens * per_token * weights.BYTES


def sampler_bytes(model: Model, device: Device, *, tokens: int, rows: int, version: Version) -> int:
    """Logits of all `rows` and what is made of them, with the hidden states still held."""
    hidden = (tokens + 2 * rows) * model.hidden_size * weights.BYTES
    if version < _TRITON_SAMPLER_SINCE:
        return hidden + rows * model.vocab_size * _SORT_LOGIT_BYTES
    scratch_rows = min(_next_power_of_2(rows), device.multiprocessors)
    per_token_of_vocabulary = rows * _TRITON_LOGIT_BYTES + scratch_rows * _TRITON_SCRATCH_BYTES
    return hidden + model.vocab_size * per_token_of_vocabulary


def _next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
