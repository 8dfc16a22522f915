"""Two blocks have one name exactly where they and everything before them hold the same tokens."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.kv.names import Chain, Names
from sim.kv.node import Node
from sim.kv.prefix import PrefixCached
from sim.request import Request, Run, Sequence
from tests.worlds import SmallWorld, serve, several_answers, small_world, swapping

# Few streams and positions, so that runs meet, go on, repeat, and all but agree.
RUNS = st.tuples(st.integers(0, 2), st.sampled_from([0, 0, 1]), st.integers(0, 6))
PROMPTS = st.lists(RUNS, min_size=2, max_size=4).map(tuple)
SEQUENCES = st.lists(st.tuples(PROMPTS, st.integers(0, 2)), min_size=10, max_size=20)
ANSWER_TOKENS = 12


@given(SEQUENCES, st.integers(1, 5))
def test_names_are_prefixes(sequences: list[tuple[tuple[Run, ...], int]], block_size: int) -> None:
    names = Names(block_size)
    prefix_of: dict[object, tuple[object, ...]] = {}
    name_of: dict[tuple[object, ...], object] = {}
    for prompt, answer in sequences:
        tokens = _tokens(*prompt, (answer, 0, ANSWER_TOKENS))
        chain = names.chain(prompt, answer)
        blocks = len(tokens) // block_size
        assert _walked(chain, blocks) == [chain.name(block) for block in range(blocks)]
        for block in range(blocks):
            name, prefix = chain.name(block), tuple(tokens[: (block + 1) * block_size])
            assert prefix_of.setdefault(name, prefix) == prefix
            assert name_of.setdefault(prefix, name) == name


@given(SEQUENCES, st.integers(1, 5), st.integers(0, 20))
def test_a_branch_keeps_the_names_of_what_it_shares(
    sequences: list[tuple[tuple[Run, ...], int]], block_size: int, shared: int
) -> None:
    names = Names(block_size)
    for prompt, answer in sequences:
        tokens = _tokens(*prompt, (answer, 0, ANSWER_TOKENS))[:shared]
        chain = names.chain(prompt, answer)
        branch = names.branch(chain, len(tokens), 7)
        again = names.chain((*((stream, at, 1) for stream, at in tokens),), 7)
        blocks = (len(tokens) + ANSWER_TOKENS) // block_size
        assert _walked(branch, blocks) == _walked(again, blocks)
        whole = len(tokens) // block_size
        assert branch.leading(whole) == chain.leading(whole)


def forking(rng: random.Random) -> SmallWorld:
    return several_answers(rng, forks=True)


@pytest.mark.parametrize("make", [small_world, swapping, forking])
def test_forgetting_changes_nothing(
    make: Callable[[random.Random], SmallWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds = [make(random.Random(seed)) for seed in range(80)]
    worlds = [world for world in worlds if world.prefix_caching]
    monkeypatch.setattr("sim.kv.names._MANY", 1)
    forgetful = [serve(world, check_every=50).content() for world in worlds]
    original, nodes = Names.node, []

    def node(self: Names, *key: int) -> Node:
        nodes.append(original(self, *key))
        return nodes[-1]

    monkeypatch.setattr(Names, "node", node)
    assert [serve(world, check_every=50).content() for world in worlds] == forgetful


def test_what_nobody_can_ask_for_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.kv.names._MANY", 20)
    kv = PrefixCached(num_blocks=41, block_size=4)
    for index in range(500):
        request = Request(f"r{index}", 0, ((2 * index, 0, 16), (1, 0, 8)), 4, 2 * index + 1)
        sequence = Sequence.of(request, index=index)
        kv.admit(sequence, kv.match(sequence))
        kv.grow(sequence, 24)
        sequence.computed = 24
        kv.release(sequence)
    del sequence  # whose chain has nodes, too
    cached, known = kv.pool.cached.nodes, kv._names._nodes
    assert {node for each in known.values() if (node := each()) is not None} == cached
    assert len(known) < len(cached) + 20


def _tokens(*runs: Run) -> list[tuple[int, int]]:
    return [(stream, start + k) for stream, start, length in runs for k in range(length)]


def _walked(chain: Chain, blocks: int) -> list[tuple[object, int]]:
    """The names of so many leading blocks, in two halves."""
    halves = chain.between(0, blocks // 2) + chain.between(blocks // 2, blocks)
    walked: list[tuple[object, int]] = [
        (node, offset + k) for node, offset, n in halves for k in range(n)
    ]
    parts = [(node, k) for node, n in chain.leading(blocks) for k in range(n)]
    assert walked == parts
    return walked
