"""The books of a block pool: what is where, and does it balance? For tests, for who looks inside,
and for a run every so often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from itertools import chain
from typing import TYPE_CHECKING

from sim.kv import tangled
from sim.kv.node import Name, Node

if TYPE_CHECKING:
    from sim.kv.cached import Cached
    from sim.kv.pool import Pool


def list_names(cached: Cached) -> dict[int, Name]:
    """The name of every block that has one. O(blocks)."""
    named: dict[int, Name] = {}
    for node in cached.nodes:
        for offset, block in enumerate(node.blocks):
            named[block] = node, offset
        for offset, others in (node.duplicates or {}).items():
            named.update(dict.fromkeys(others, (node, offset)))
    return named


def check_pool(pool: Pool, tables: Iterable[list[int]]) -> None:
    """Raise AssertionError where the pool disagrees with these block tables, which are all there
    are. O(blocks)."""
    holders = Counter(chain.from_iterable(tables))
    queue = list(pool.queue())
    queued = set(queue)
    assert len(queued) == len(queue) == pool.free, "free count"
    assert queued.isdisjoint(holders), "a held block is queued"
    assert 0 not in holders, "the null block is held"
    assert len(holders) + pool.free == pool.num_blocks - 1, "a block was lost"
    shared = {block: n - 1 for block, n in holders.items() if n > 1}
    assert shared == pool.more_holders, "holders"
    _check_cached(pool.cached, holders.keys())


def _check_cached(cached: Cached, held: Set[int]) -> None:
    nodes, line = cached.nodes, set(cached)
    copies = [node.duplicates.values() for node in nodes if node.duplicates]
    named = list(chain.from_iterable([node.blocks for node in nodes]))
    named += chain.from_iterable(chain.from_iterable(copies))
    known = set(named)
    assert len(known) == len(named), "a block has two names"
    assert cached.idle == len(known & line), "idle count"
    assert not known.difference(held, line), "a named block was lost"
    lots = {lot for node in nodes for lot in node.lots}
    nameless = [lot for lot in cached.line if lot.node is None]
    assert lots.union(nameless) == cached.line.keys(), "a lot was lost"
    assert known.isdisjoint(chain.from_iterable([lot.blocks for lot in nameless]))
    for node in nodes:
        assert node.blocks, "a node without blocks"
        if node.lots:
            _check_lots(node)


def _check_lots(node: Node) -> None:
    if node.duplicates is None:
        at = len(node.blocks)
        for lot in node.lots:
            assert lot.end == at, "offsets"
            at -= len(lot.blocks)
            assert lot.blocks == node.blocks[at : lot.end][::-1], "not the last one first"
        return
    for lot in node.lots:
        for offset, block in zip(range(lot.end - 1, -1, -1), lot.blocks, strict=False):
            copies = (tangled.GONE, node.blocks[offset], *node.duplicates.get(offset, ()))
            assert block in copies, "a lot of another node"
