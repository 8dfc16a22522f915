"""The options of a serving engine, under vLLM's names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from experiments.custom_config import Custom
from experiments.section import Section, by_kind, refuse
from sim.kv.spec import KV_DTYPES, resolve_kv_dtype
from sim.scheduling.versions import VERSIONS

Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0, le=10**9)]
"""Of tokens, or of seats."""
Bytes = Annotated[int, Field(ge=0, le=10**15)]
MOST_BLOCKS = 10**7
"""That one replica can have; a block costs the simulator some 65 bytes."""


def _as_text(value: Any) -> Any:
    """YAML reads `version: 0.33` as a number."""
    return str(value) if isinstance(value, float) else value


def _resolve_kv_dtype(value: Any) -> Any:
    try:
        return resolve_kv_dtype(value)
    except (TypeError, ValueError):
        refuse(f"found {value!r}; allowed: {', '.join(KV_DTYPES)}")


class Scheduler(Section):
    """What every scheduler kind has."""

    version: Annotated[Literal["0.33", "0.32", "0.19"], BeforeValidator(_as_text)] = "0.33"
    """The vLLM release whose decisions and defaults are matched."""


class VllmScheduler(Scheduler):
    """vLLM V1's scheduler, as of one version."""

    kind: Literal["vllm"] = "vllm"


class StaticBatching(Scheduler):
    """Nobody joins a batch that has begun; everything else as in vLLM's scheduler."""

    kind: Literal["static"]


class CustomScheduler(Scheduler, Custom):
    """A scheduler of your own, made with kv=, limits= and its options; and with order=, rules= and
    max_model_len= where it names them. docs/guides/write-a-scheduler.md says what it has to do."""


class PagedCache(Section):
    """vLLM's block pool; with enable_prefix_caching its full blocks are found by content."""

    kind: Literal["paged"] = "paged"
    free_order: Literal["unkeyed_first", "all_last"] | None = None
    """Where released blocks queue; null: as the scheduler's version does it."""


class ContiguousCache(Section):
    """One piece of memory for each sequence, set aside when it is admitted."""

    kind: Literal["contiguous"]
    reserve: Literal["max_model_len", "oracle_pow2", "oracle_exact", "prompt"] = "max_model_len"
    """Room for a sequence: max_model_len tokens, its prompt and a power of two that holds the
    answer, its prompt and its answer, or its prompt alone, so that an answer has to grow in
    place. The oracles know how long the answer will be."""
    fit: Literal["first_fit", "best_fit", "buddy"] = "first_fit"
    """Where in memory: the lowest hole that is large enough, the smallest one, or powers of
    two."""


class CustomCache(Custom):
    """A cache of your own, made with the number of blocks, block_size= and its options.
    docs/guides/write-a-cache-or-a-router.md says what it has to do."""


class Recompute(Section):
    """A preempted sequence loses its blocks and is computed anew."""

    kind: Literal["recompute"] = "recompute"


class Swap(Section):
    """A preempted sequence's blocks are copied to host memory, and back when it resumes, as vLLM V0
    did it; where the host has no room for them, it is computed anew."""

    kind: Literal["swap"]
    swap_space: Annotated[float, Field(ge=0, le=10**6)] = 4.0
    """GiB of host memory for each GPU."""
    num_cpu_blocks_override: Annotated[int, Field(ge=0, le=MOST_BLOCKS)] | None = None
    """Blocks of host memory, whatever swap_space holds."""
    link_efficiency: Fraction = 1.0
    """Share of the host link's bytes/s that copies reach, where no table has measured them: 1 for
    blocks in one piece each, less for vLLM V0's, which were copied layer by layer."""


class Memory(Section):
    """Terms of GPU memory in bytes per GPU, to replace what pagesim estimates."""

    total_bytes: Annotated[Bytes, Field(gt=0)] | None = None
    """As CUDA reports it, less than the nameplate says."""
    weights_bytes: Bytes | None = None
    rotary_bytes: Bytes | None = None
    activation_bytes: Bytes | None = None
    """The peak of a step of max_num_batched_tokens."""
    non_torch_bytes: Bytes | None = None
    cuda_graph_bytes: Bytes | None = None


class Engine(Section):
    """One replica. Null means what vLLM would choose; the resolved config says what that is."""

    max_num_seqs: Count | None = None
    """Most sequences that run at once; null: vLLM's default for the device."""
    max_num_batched_tokens: Count | None = None
    """Most tokens computed in a step; null: vLLM's default for the device."""
    max_num_active_seqs: Count | None = None
    """If given, the scheduler admits up to so many instead of max_num_seqs."""
    max_num_scheduled_tokens: Count | None = None
    """If given, a step computes up to so many tokens instead of max_num_batched_tokens."""
    max_model_len: Count | None = None
    """Most tokens of prompt and answer; null: the model's maximum, or what the cache holds."""
    block_size: Annotated[int, Field(gt=0, le=65_536)] = 16
    """Tokens per KV block."""
    gpu_memory_utilization: Fraction | None = None
    """Share of GPU memory vLLM may use; null: 0.92, before version 0.20 0.9."""
    num_gpu_blocks_override: Annotated[int, Field(ge=2, le=MOST_BLOCKS)] | None = None
    """KV blocks, the null block included, whatever would fit."""
    kv_cache_memory_bytes: Annotated[Bytes, Field(gt=0)] | None = None
    """Bytes of KV cache per GPU, instead of what the other terms leave."""
    enable_prefix_caching: bool | None = None
    """Null: true for a paged cache, false for a contiguous one, which shares nothing; a custom one
    decides by itself."""
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Most prompt tokens of one sequence per step; 0: no such limit."""
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    scheduler_reserve_full_isl: bool = True
    """Admit a sequence only if all its known tokens would fit."""
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the blocks that an admission must leave free while others run."""
    kv_cache_dtype: Annotated[str, BeforeValidator(_resolve_kv_dtype)] = "auto"
    """Element type of the KV cache; auto: the model's."""
    dtype: Literal["auto", "bfloat16"] = "auto"
    """Type of weights and activations."""
    tensor_parallel_size: Annotated[int, Field(gt=0, le=1024)] = 1
    pipeline_parallel_size: Annotated[int, Field(gt=0, le=64)] = 1
    """Stages of equal length that a batch passes through; so many batches are in flight."""
    async_scheduling: bool = False
    """Plan the next batch while one runs (vLLM's default today): one more batch in flight."""
    scheduler: Annotated[
        VllmScheduler | StaticBatching | CustomScheduler,
        BeforeValidator(by_kind("vllm")),
        Field(discriminator="kind"),
    ] = VllmScheduler()
    kv_cache: Annotated[
        PagedCache | ContiguousCache | CustomCache,
        BeforeValidator(by_kind("paged", naive="contiguous")),
        Field(discriminator="kind"),
    ] = PagedCache()
    preemption: Annotated[
        Recompute | Swap, BeforeValidator(by_kind("recompute")), Field(discriminator="kind")
    ] = Recompute()
    parallel_sampling: Literal["requests", "fork"] = "requests"
    """A request for n > 1 answers: n requests that arrive together and share through the prefix
    cache, as in vLLM V1, or one that forks with its first token and shares all blocks, copied on
    write; beam search forks in any case, and is refused with the former."""
    beam_spread: Annotated[float, Field(ge=0, le=50)] = 1.0
    """Standard deviation of the logits that beams draw for their candidates; the larger it is,
    the more a beam's best one stands out, and the less beams replace each other."""
    loop: Literal["plain", "fast"] | None = None
    """How the simulator steps, with equal results: one event per step, or one per stretch of
    equal decisions (with batches in flight, each stands alone). Null: fast."""
    memory: Memory = Memory()

    @model_validator(mode="after")
    def _check_switches(self) -> Engine:
        if self.batches_in_flight > 1:
            self._check_batches_in_flight()
        if self.num_gpu_blocks_override and self.kv_cache_memory_bytes:
            refuse(
                "contradicts num_gpu_blocks_override: each alone says how many blocks there are",
                at="kv_cache_memory_bytes",
            )
        if self.enable_prefix_caching is not None and self.kv_cache.kind == "custom":
            refuse(
                f"found {str(self.enable_prefix_caching).lower()}; allowed with kv_cache.kind"
                " custom: null, since the class decides what it shares",
                at="enable_prefix_caching",
            )
        if self.enable_prefix_caching and self.kv_cache.kind == "contiguous":
            refuse(
                "found true; allowed with kv_cache.kind contiguous: false, since pieces of memory"
                " are not shared",
                at="enable_prefix_caching",
            )
        if self.parallel_sampling == "fork" and self.kv_cache.kind == "contiguous":
            refuse(
                "found 'fork'; allowed with kv_cache.kind contiguous: 'requests', since pieces of"
                " memory are not shared",
                at="parallel_sampling",
            )
        if self.preemption.kind == "swap":
            self._check_swap()
        version = self.scheduler.version
        if self.watermark and not VERSIONS[version].has_watermark:
            refuse(f"vLLM {version} has no such option (since 0.24)", at="watermark")
        if self.max_num_active_seqs and version == "0.19":
            refuse(f"vLLM {version} has no such option (since 0.31)", at="max_num_active_seqs")
        return self

    def _check_swap(self) -> None:
        """Swapped are blocks of one sequence each, with all that it has computed in them."""
        for option, value, allowed, why in (
            ("kv_cache.kind", self.kv_cache.kind, "paged", "others have no blocks to swap"),
            ("parallel_sampling", self.parallel_sampling, "requests", "branches share blocks"),
        ):
            if value != allowed:
                refuse(
                    f"found swap; allowed with {option} {value}: recompute ({why})",
                    at="preemption.kind",
                )

    def _check_batches_in_flight(self) -> None:
        """Batches in flight are vLLM's, and those of 0.33."""
        found = "async_scheduling" if self.async_scheduling else "pipeline_parallel_size"
        for option, value, allowed, why in (
            ("scheduler.kind", self.scheduler.kind, "vllm", "others have none"),
            ("kv_cache.kind", self.kv_cache.kind, "paged", "others have none"),
            ("parallel_sampling", self.parallel_sampling, "requests", "branches part too late"),
            ("preemption.kind", self.preemption.kind, "recompute", "victims are still computing"),
        ):
            if value != allowed:
                refuse(
                    f"leaves several batches in flight; allowed with {option} {value}: one ({why})",
                    at=found,
                )

    @property
    def batches_in_flight(self) -> int:
        """Batches that may be under way at once: vLLM's `batch_queue_depth`."""
        return self.pipeline_parallel_size + self.async_scheduling
