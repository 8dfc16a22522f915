"""The books of a block pool: what is where, and does it balance? For tests, for who looks inside,
and for a run every so often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from itertools import chain
from typing import TYPE_CHECKING

from sim.kv.node import Name, Node
from sim.kv.tangled import GONE, Lot, Tangle

if TYPE_CHECKING:
    from sim.kv.cached import Cached
    from sim.kv.pool import Pool


def list_names(cached: Cached) -> dict[int, Name]:
    """The name of every block that has one. O(blocks)."""
    named: dict[int, Name] = {}
    for node in cached.nodes:
        for offset, block in enumerate(node.blocks):
            named[block] = node, offset
        if node.tangle is not None:
            for offset, others in node.tangle.copies.items():
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
    assert GONE not in holders, "the null block is held"
    assert len(holders) + pool.free == pool.num_blocks - 1, "a block was lost"
    shared = {block: n - 1 for block, n in holders.items() if n > 1}
    assert shared == pool.more_holders, "holders"
    _check_cached(pool.cached, holders.keys(), queued)


def _check_cached(cached: Cached, held: Set[int], queued: set[int]) -> None:
    nodes = cached.nodes
    copies = [node.tangle.copies.values() for node in nodes if node.tangle is not None]
    named = list(chain.from_iterable([node.blocks for node in nodes]))
    named += chain.from_iterable(chain.from_iterable(copies))
    known = set(named)
    assert len(known) == len(named), "a block has two names"
    assert cached.idle == len(known & queued), "idle count"
    assert not known.difference(held, queued), "a named block was lost"
    nameless = [lot for lot, node in cached.line.items() if node is None]
    assert known.isdisjoint(chain.from_iterable([lot.blocks for lot in nameless]))
    lots = nameless
    for node in nodes:
        assert node.blocks, "a node without blocks"
        if node.lots:
            _check_lots(node)
            lots += node.lots
        if node.tangle is not None:
            lots += _check_tangled(node, node.tangle)
    assert len(lots) == len(cached.line), "a lot is there twice, or was lost"
    assert cached.line.keys() == set(lots), "a lot of nobody"


def _check_lots(node: Node) -> None:
    end = len(node.blocks)
    for lot in node.lots:
        assert lot.blocks, "an empty lot"
        assert lot.blocks == node.blocks[lot.start : end], "offsets"
        end = lot.start


def _check_tangled(node: Node, tangle: Tangle) -> Set[Lot]:
    lots = set(tangle.waiting.values())
    there = {
        block: (lot, offset)
        for lot in lots
        for offset, block in enumerate(lot.blocks, lot.start)
        if block != GONE
    }
    assert {block: lot for block, (lot, _) in there.items()} == tangle.waiting, "waiting"
    for block, (_, offset) in there.items():
        copies = (node.blocks[offset], *tangle.copies.get(offset, ()))
        assert block in copies, "a lot of another node"
    for lot in lots:
        assert GONE not in (lot.blocks[0], lot.blocks[-1]), "a lot is longer than what it has"
    assert not node.lots, "a tangled node has no lots of its own"
    return lots
