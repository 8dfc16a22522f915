"""What fits on a device, on a terminal: every term, then the answers."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from calibrate.memory import say_bytes
from calibrate.model import Model
from experiments.screen import make_table
from experiments.sizing import Pool, Size, Sizing, list_contexts
from experiments.words import say_share
from sim.kv.spec import KVSpec

_GIB, _KIB = 2**30, 2**10


def show_sizing(
    sizing: Sizing, console: Console, *, context: int, users: int | None, prefix_tokens: int
) -> None:
    """Print a sizing, made for 100 columns."""
    parts: list[RenderableType] = [_say_headline(sizing)]
    if sizing.asked.plan is not None:
        parts += ["", _tabulate_plan(sizing.asked)]
    parts += ["", _tabulate_token(sizing), *_say_token(sizing), ""]
    if sizing.asked.plan is None:
        parts += [_tabulate_sequences(sizing, context), *_say_uncounted(sizing)]
    elif sizing.asked.too_large:
        parts += [_say_refusal(sizing)]
    else:
        parts += [
            _tabulate_fits(sizing, context),
            *_say_prefix(sizing.asked, prefix_tokens),
            *_say_seats(sizing, context),
            "",
            *_say_users(sizing, context=context, users=users),
        ]
    console.print(Group(*parts))


def _say_headline(sizing: Sizing) -> Text:
    engine, device = sizing.engine, sizing.device
    text = Text.assemble((sizing.model.name, "bold cyan"), f" on {device.name}")
    gpus = engine.tensor_parallel_size * engine.pipeline_parallel_size
    if gpus > 1:
        stages = f", {stages} stages" if (stages := engine.pipeline_parallel_size) > 1 else ""
        text.append(f" x {gpus}{stages} (all numbers per GPU)")
    text.append(
        f"\nas vLLM {engine.scheduler.version} would divide its memory, KV cache in"
        f" {sizing.asked.kv_cache_dtype}",
        style="dim",
    )
    return text


def _tabulate_plan(size: Size) -> Table:
    assert size.plan is not None
    table = make_table("memory")
    table.add_column("GiB", justify="right")
    table.add_column("how")
    for term, count, derivation in size.plan.rows():
        shown = say_bytes(count) if term == "one block" else f"{count / _GIB:.2f}"
        table.add_row(term, shown, derivation, style="red" if count < 0 else "")
    if size.pool is not None and not size.too_large:
        tokens = size.pool.blocks * size.pool.block_size
        table.add_row("tokens", f"{tokens:,}", f"{size.pool.blocks:,} usable blocks")
    return table


def _tabulate_token(sizing: Sizing) -> Table:
    """The bytes of one token, factor by factor."""
    table = make_table("one token")
    table.add_column("KV cache on one GPU")
    for column in ("bytes", "KiB"):
        table.add_column(column, justify="right")
    for size in sizing.sizes:
        count = size.spec.bytes_per_token
        formula = explain_token(sizing.model, size.spec)
        table.add_row(size.kv_cache_dtype, formula, f"{count:,}", f"{count / _KIB:,.4g}")
    return table


def _say_token(sizing: Sizing) -> list[Text]:
    lines = [
        Text(f"{dtype} does not exist for a latent (MLA) cache", "dim") for dtype in sizing.missing
    ]
    grouped = explain_grouping(sizing.model)
    return lines if grouped is None else [*lines, Text(grouped, "dim")]


def explain_token(model: Model, spec: KVSpec) -> str:
    """The factors of `spec.bytes_per_token`, in words."""
    layers = f"{spec.layers} layer" + "s" * (spec.layers > 1)
    number = f"{spec.element_bits / 8:g} byte" + "s" * (spec.element_bits > 8)
    if model.latent_size is not None:
        numbers = f"({model.latent_size} latent + {model.rotary_size} rotary)"
        return f"{layers} x {numbers} x {number}"
    numbers = f"{model.key_size} x {number}"
    if spec.scale_bytes:
        head_bytes = model.key_size * spec.element_bits // 8
        numbers = f"({head_bytes} + {spec.scale_bytes} scale) bytes"
    heads = f"{spec.heads} KV head" + "s" * (spec.heads > 1)
    return f"{layers} x 2 (K, V) x {heads} x {numbers}"


def explain_grouping(model: Model) -> str | None:
    """What the cache would be with a K and V for every head; None where it is so."""
    full = 2 * model.layers * model.heads * (model.key_size + model.value_size)
    if model.latent_size is not None:
        kept = model.kv_spec("auto").bytes_per_token
        return (
            f"{model.heads} heads with K and V of their own would take {full / _KIB:,.4g} KiB in 16"
            f" bits, {full / kept:.3g}x as much: MLA keeps one compressed vector for all of them."
        )
    if model.kv_heads == model.heads:
        return None
    return (
        f"Sums over all {model.heads} heads say {full / _KIB:,.4g} KiB in 16 bits,"
        f" {model.heads / model.kv_heads:.3g}x too much: by grouped-query attention"
        f" {model.heads // model.kv_heads} query heads share one K and V."
    )


def _tabulate_fits(sizing: Sizing, context: int) -> Table:
    """How many sequences fit at once, by context and dtype."""
    table = make_table("sequences that fit, of")
    for size in sizing.sizes:
        table.add_column(size.kv_cache_dtype, justify="right")
    table.add_column("one takes", justify="right")
    for length in list_contexts(context, most=sizing.model.max_position_embeddings):
        fits = [None if size.pool is None else size.pool.sequences(length) for size in sizing.sizes]
        table.add_row(
            f"{length:,} tokens",
            *("-" if count is None else f"{count:,}" for count in fits),
            say_bytes(length * sizing.asked.spec.bytes_per_token),
            style="bold" if length == context else "",
        )
    return table


def _tabulate_sequences(sizing: Sizing, context: int) -> Table:
    """What one sequence takes, where it is not known what is left for it."""
    table = make_table("KV cache of one sequence of")
    for size in sizing.sizes:
        table.add_column(size.kv_cache_dtype, justify="right")
    for length in list_contexts(context, most=sizing.model.max_position_embeddings):
        table.add_row(
            f"{length:,} tokens",
            *(say_bytes(length * size.spec.bytes_per_token) for size in sizing.sizes),
            style="bold" if length == context else "",
        )
    return table


def _say_uncounted(sizing: Sizing) -> list[Text]:
    return [
        Text(
            f"{sizing.model.name} has quantised weights, which are not counted. To see what fits,"
            " give --weights-bytes and --activation-bytes, per GPU, from your engine's log.",
            style="yellow",
        )
    ]


def _say_refusal(sizing: Sizing) -> Text:
    """The terms stand above; what remains to be said is what to do."""
    size = sizing.asked
    assert size.plan is not None
    said = f"Does not fit: {say_bytes(size.plan.available.bytes)} are left for the KV cache."
    text = Text(said, style="bold red")
    if sizing.enough_gpus is None:
        advice = " Take a larger device or a smaller model."
    else:
        advice = f" With --tensor-parallel-size {sizing.enough_gpus} it fits."
    return text.append(advice, "not bold default")


def _say_prefix(size: Size, prefix_tokens: int) -> list[Text]:
    if not prefix_tokens or size.pool is None:
        return []
    pool = size.pool
    own = prefix_tokens - pool.shared_blocks * pool.block_size
    said = f"The first {prefix_tokens:,} tokens are the same for all: {pool.shared_blocks:,} blocks"
    said += " are counted once (prefix caching)"
    if own:
        said += f"; the {own} tokens in the last, partial block are everyone's own"
    return [Text(f"{said}.", "dim")]


def _say_seats(sizing: Sizing, context: int) -> list[Text]:
    """Where not memory but max_num_seqs is the limit."""
    pool, seats = sizing.asked.pool, sizing.asked.seats
    fits = None if pool is None else pool.sequences(context)
    if fits is None or seats is None or fits <= seats:
        return []
    return [Text(f"max_num_seqs lets {seats:,} of them run at once.", "yellow")]


def _say_users(sizing: Sizing, *, context: int, users: int | None) -> list[Text]:
    size = sizing.asked
    assert size.pool is not None
    lines = [_judge(size, size.pool, context=context, users=users or 1)]
    if users is not None:
        lines += _say_longest(sizing, users)
    return lines


def _judge(size: Size, pool: Pool, *, context: int, users: int) -> Text:
    needed = pool.blocks_of(users, context)
    who = "One user" if users == 1 else f"{users:,} users"
    said = f"{who} with {context:,} tokens of context: {needed:,} of {pool.blocks:,} blocks"
    block_bytes = size.spec.block_bytes(pool.block_size)
    if needed <= pool.blocks:
        left = pool.blocks - needed
        return Text(
            f"Fits. {said}, {say_share(left / pool.blocks)} left"
            f" ({say_bytes(left * block_bytes)}, {left * pool.block_size:,} tokens).",
            style="bold green",
        )
    lacking = say_bytes((needed - pool.blocks) * block_bytes)
    return Text(f"Does not fit. {said}: {lacking} are lacking.", style="bold red")


def _say_longest(sizing: Sizing, users: int) -> list[Text]:
    most = sizing.model.max_position_embeddings
    said = []
    for size in sizing.sizes:
        longest = 0 if size.pool is None else size.pool.longest_context(users)
        what = f"{min(longest, most):,}" + " (the model's maximum)" * (longest >= most)
        said.append(
            f"{what} in {size.kv_cache_dtype}" if longest else f"none in {size.kv_cache_dtype}"
        )
    return [Text(f"{users:,} users may have up to so many tokens each: {', '.join(said)}.")]
