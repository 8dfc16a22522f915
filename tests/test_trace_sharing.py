"""The endless cache: by hand, and against one that compares token by token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.request import Request, Run
from traces.sharing import SeenPrefixes, whole_blocks


def request(*prompt: Run, output_tokens: int = 1, output_stream: int = 99) -> Request:
    return Request("r", 0, prompt, output_tokens, output_stream)


def seen(*requests: Request) -> list[int]:
    tree = SeenPrefixes()
    return [tree.arrive(each) for each in requests]


def test_a_prefix_is_found_however_it_is_cut() -> None:
    whole = request((0, 0, 1000))
    in_blocks = request((0, 0, 512), (0, 512, 488), (1, 0, 7))
    assert seen(whole, in_blocks, whole) == [0, 1000, 1000]
    assert seen(in_blocks, whole, in_blocks) == [0, 1000, 1007]
    assert seen(whole, request((0, 0, 300), (2, 0, 9)), request((0, 0, 301))) == [0, 300, 301]


def test_content_counts_only_behind_the_same_content() -> None:
    assert seen(request((0, 0, 5), (1, 0, 5)), request((2, 0, 5), (1, 0, 5))) == [0, 0]
    assert seen(request((0, 0, 9)), request((0, 1, 8))) == [0, 0]


def test_a_later_turn_finds_the_answer_but_for_its_last_token() -> None:
    first = request((0, 0, 10), output_tokens=6, output_stream=1)
    second = request((0, 0, 10), (1, 0, 6), (2, 0, 4), output_stream=3)
    assert seen(first, second) == [0, 15]
    assert seen(first, request((0, 0, 10), output_stream=3)) == [0, 10]


def test_whole_blocks_leave_one_token() -> None:
    assert whole_blocks(48, 100, block_size=16) == 48
    assert whole_blocks(47, 100, block_size=16) == 32
    assert whole_blocks(48, 48, block_size=16) == 32
    assert whole_blocks(0, 1, block_size=16) == 0


RUNS = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 5))
REQUESTS = st.lists(
    st.tuples(st.lists(RUNS, min_size=1, max_size=4), st.integers(1, 4)), min_size=1, max_size=12
)


@given(REQUESTS)
def test_it_finds_the_longest_prefix_of_everything_before(
    drawn: list[tuple[list[Run], int]],
) -> None:
    tree, history = SeenPrefixes(), list[list[tuple[int, int]]]()
    for number, (runs, output_tokens) in enumerate(drawn):
        prompt = [(stream, start + k) for stream, start, length in runs for k in range(length)]
        longest = max((common(prompt, before) for before in history), default=0)
        stream = 1000 + number
        found = tree.arrive(request(*runs, output_tokens=output_tokens, output_stream=stream))
        assert found == longest
        history.append(prompt + [(stream, k) for k in range(output_tokens - 1)])


def common(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
