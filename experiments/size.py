"""`python -m experiments.size` and `pagesim size`: what fits on a device, without a run."""

from __future__ import annotations

from typing import Annotated

import typer

from experiments.exits import exits, make_app

DOES_NOT_FIT = 1


def size(
    model: Annotated[
        str, typer.Option(help="A shipped model's name, or the path of a Hugging Face config.json.")
    ],
    device: Annotated[str, typer.Option(help="A shipped GPU's name.")],
    context: Annotated[
        int, typer.Option(min=1, help="Tokens of prompt and answer of one sequence.")
    ] = 8192,
    users: Annotated[
        int | None, typer.Option(min=1, help="Sequences that must fit at once.")
    ] = None,
    shared_prefix: Annotated[
        int, typer.Option(min=0, help="Tokens that all prompts begin with, a system prompt.")
    ] = 0,
    kv_cache_dtype: Annotated[
        str, typer.Option(help="Element type of the cache: auto, fp8, int8, ...")
    ] = "auto",
    tensor_parallel_size: Annotated[int, typer.Option(help="GPUs that share the model.")] = 1,
    pipeline_parallel_size: Annotated[
        int, typer.Option(help="Stages that share its layers, each of so many GPUs.")
    ] = 1,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="Share of GPU memory to use; else vLLM's default.")
    ] = None,
    block_size: Annotated[int, typer.Option(help="Tokens per KV block.")] = 16,
    max_num_seqs: Annotated[
        int | None, typer.Option(help="Most sequences that run at once; else vLLM's default.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="Most tokens computed in a step; else vLLM's default.")
    ] = None,
    weights_bytes: Annotated[
        int | None, typer.Option(help="Weights on one GPU, where your engine's log says them.")
    ] = None,
    activation_bytes: Annotated[
        int | None, typer.Option(help="Peak of activations on one GPU, likewise.")
    ] = None,
    vllm_version: Annotated[str, typer.Option(help="Whose defaults and memory plan.")] = "0.33",
) -> None:
    """Show how many sequences of which context fit on a GPU, with every term of the sum.

    Exit code 1: the model, or --users of --context tokens, does not fit.
    """
    with exits():
        from experiments.size_screen import show_sizing
        from experiments.sizing import size_deployment
        from experiments.terminal import open_screen

        engine: dict[str, object] = {
            "kv_cache_dtype": kv_cache_dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "pipeline_parallel_size": pipeline_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "block_size": block_size,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "memory": {"weights_bytes": weights_bytes, "activation_bytes": activation_bytes},
            "scheduler": {"kind": "vllm", "version": vllm_version},
        }
        sizing = size_deployment(
            model=model,
            device=device,
            engine=engine,
            context=context,
            prefix_tokens=shared_prefix,
        )
        show_sizing(
            sizing, open_screen(), context=context, users=users, prefix_tokens=shared_prefix
        )
    if not sizing.fits(context=context, users=users or 1):
        raise typer.Exit(DOES_NOT_FIT)


main = make_app(size)

if __name__ == "__main__":
    main()
