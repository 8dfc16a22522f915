"""Address spaces against a map of every address, and what each of them promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.kv.space import Buddies, Holes
from tests.worlds import SPACES

STEPS = st.lists(st.tuples(st.sampled_from("tttge"), st.integers(1, 40)), max_size=60)


def holes_of(taken: list[bool]) -> list[range]:
    """The holes of a map, in order."""
    edges = [at for at in range(1, len(taken)) if taken[at] != taken[at - 1]]
    pieces = [range(*ends) for ends in zip([0, *edges], [*edges, len(taken)], strict=True)]
    return [piece for piece in pieces if not taken[piece.start]]


@pytest.mark.parametrize("kind", SPACES)
@given(size=st.integers(1, 150), steps=STEPS)
def test_nothing_is_given_twice_or_lost(kind: str, size: int, steps: list[tuple[str, int]]) -> None:
    space, taken, pieces = SPACES[kind](size), [False] * size, list[range]()
    for action, n in steps:
        if action == "t":
            fitting = [hole for hole in holes_of(taken) if len(hole) >= n]
            fits = space.fits(n)
            piece = space.take(n)
            assert fits == (piece is not None)
            if kind != "buddy":
                assert fits == bool(fitting)
            if piece is None:
                continue
            assert not any(taken[at] for at in piece)
            match kind:
                case "first_fit":
                    assert piece == fitting[0][:n]
                case "best_fit":
                    assert piece == min(fitting, key=len)[:n]
                case _:
                    assert len(piece) == 1 << (n - 1).bit_length()
            pieces.append(piece)
        elif pieces and action == "g":
            piece = pieces.pop(n % len(pieces))
            space.give_back(piece)
        elif pieces and action == "e":
            piece = pieces.pop(n % len(pieces))
            hole = next((hole for hole in holes_of(taken) if hole.start == piece.stop), range(0))
            assert space.above(piece) == (0 if kind == "buddy" else len(hole))
            grown = space.extend(piece, n)
            room = range(piece.stop, piece.stop + n)
            if kind != "buddy":
                there = room.stop <= size and not any(taken[at] for at in room)
                assert (grown is not None) == there
            pieces.append(piece if grown is None else grown)
        taken = [any(at in piece for piece in pieces) for at in range(size)]
        assert space.free == taken.count(False)
        space.check(pieces)


def test_buddies_join_again() -> None:
    space = Buddies(16)
    pieces = [space.take(4) for _ in range(4)]
    assert not space.fits(1)
    for piece in (pieces[0], pieces[2], pieces[1], pieces[3]):
        assert piece is not None
        space.give_back(piece)
    assert space.take(16) == range(16)


def test_a_row_of_buddies_does_not_join_across_its_pieces() -> None:
    space = Buddies(12)  # 8 and 4
    assert space.fits(8)
    assert not space.fits(9)
    small = space.take(4)
    assert small == range(8, 12)
    space.give_back(small)
    space.check([])


def test_first_fit_fragments_where_best_fit_does_not() -> None:
    """Holes of 6 and 3, then pieces of 3 and 6: best fit leaves the large hole alone."""
    placed = {}
    for best in (False, True):
        space = Holes(12, best=best)
        large, _, small = space.take(6), space.take(3), space.take(3)
        assert large is not None
        assert small is not None
        space.give_back(large)
        space.give_back(small)
        assert space.take(3) is not None
        placed[best] = space.take(6)
    assert placed == {False: None, True: range(6)}
