"""Lengths of synthetic prompts and answers."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tests.trace_files import azure, refusal
from traces.schema import TraceError
from traces.synthetic.arrivals import Poisson
from traces.synthetic.draws import Draws
from traces.synthetic.empirical import Empirical, Joint
from traces.synthetic.lengths import (
    Constant,
    Exponential,
    Independent,
    Lengths,
    Lognormal,
    Uniform,
    Zipf,
    median_of,
    sigma_of,
)
from traces.synthetic.traffic import Clip, Traffic
from traces.synthetic.workload import SyntheticWorkload


def draw(lengths: Lengths, count: int = 50_000, *, seed: int = 1) -> NDArray[np.int64]:
    return np.fromiter(islice(lengths.lengths(Draws(seed)), count), dtype=np.int64)


def test_constant() -> None:
    assert set(draw(Constant(7)).tolist()) == {7}


def test_uniform_includes_both_ends() -> None:
    counts = np.bincount(draw(Uniform(3, 7)))
    assert counts[:3].sum() == 0
    assert stats.chisquare(counts[3:]).pvalue > 0.01
    assert set(draw(Uniform(5, 5)).tolist()) == {5}


def test_lognormal_is_rounded_up() -> None:
    drawn = draw(Lognormal(1000, 0.8))
    # Rounding up shifts by half a token, of a thousand.
    assert stats.kstest(drawn - 0.5, "lognorm", args=(0.8, 0, 1000)).pvalue > 0.01
    assert draw(Lognormal(1, 3)).min() == 1


def test_a_mean_and_a_median_give_sigma() -> None:
    sigma = sigma_of(mean=211.1, median=129)
    assert sigma == pytest.approx(0.992, abs=5e-4)
    assert median_of(mean=211.1, sigma=sigma) == pytest.approx(129)
    drawn = draw(Lognormal(129, sigma))
    assert drawn.mean() == pytest.approx(211.6, abs=3 * drawn.std() / 50_000**0.5)


def test_exponential() -> None:
    drawn = draw(Exponential(500))
    assert stats.kstest(drawn - 0.5, "expon", args=(0, 500)).pvalue > 0.01


def test_zipf_is_a_power_law() -> None:
    drawn = draw(Zipf(1.3, 2, 50))
    values = np.arange(2, 51)
    expected = values**-1.3
    counts = np.bincount(drawn, minlength=51)[2:]
    assert stats.chisquare(counts, expected / expected.sum() * len(drawn)).pvalue > 0.01


def test_another_scale_is_the_same_draws() -> None:
    """Common random numbers: the what-if differs by the factor alone."""
    assert (draw(Exponential(2000)) >= draw(Exponential(1000))).all()


def csv_file(folder: Path, text: str, name: str = "lengths.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_empirical_lengths_come_from_a_column(tmp_path: Path) -> None:
    path = csv_file(tmp_path, 'a,"tokens, all"\n5,10\n\n6,20\n7,20\n8,0\n')
    lengths = Empirical(path, column="tokens, all")
    counts = Counter(draw(lengths, 30_000).tolist())
    assert counts.keys() == {10, 20}
    assert counts[20] / 30_000 == pytest.approx(2 / 3, abs=0.01)
    assert lengths.notes == {"rows with 0 dropped": 1}


def test_empirical_lengths_come_from_a_trace(tmp_path: Path) -> None:
    path = azure(tmp_path, "2023-11-16 18:00:00,7,3", "2023-11-16 18:00:01,9,4")
    trace_file = tmp_path / "azure.csv"
    assert path.name == trace_file.name
    assert set(draw(Empirical(trace_file, column="prompt_tokens")).tolist()) == {7, 9}
    assert set(draw(Empirical(trace_file, column="output_tokens")).tolist()) == {3, 4}
    assert set(draw(Empirical(trace_file, column="GeneratedTokens")).tolist()) == {3, 4}
    zipped = tmp_path / "azure.csv.gz"
    zipped.write_bytes(gzip.compress(trace_file.read_bytes()))
    same, other = (Empirical(path, column="prompt_tokens") for path in (trace_file, zipped))
    assert same.fingerprint() == other.fingerprint()
    assert same.fingerprint() != Empirical(trace_file, column="output_tokens").fingerprint()


def test_what_a_trace_leaves_out_of_its_lengths_is_counted(tmp_path: Path) -> None:
    azure(tmp_path, "XXX,7,3", "XXX,9,0")
    lengths = Empirical(tmp_path / "azure.csv", column="prompt_tokens")
    synthetic = workload(Independent(lengths, Constant(1)), requests=5)
    assert {request.prompt_tokens for request in synthetic} == {7}
    dropped = {"prompt lengths: requests with zero output tokens dropped": 1}
    assert synthetic.notes == dropped
    list(synthetic)
    assert synthetic.notes == dropped


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a,b\n1,2\n", ":1: found no column 'tokens'; allowed: one of 'a', 'b', or prompt_tokens"),
        ("tokens\n5\n-3\n", ":3: found tokens = '-3'; allowed: a whole number from 0"),
        ("x,tokens\n5,\n", ":2: found tokens = ''; allowed: a whole number from 0"),
        ("x,tokens\n5\n", ":2: found 1 columns ('5'); allowed: 2 columns (x,tokens)"),
        ("tokens\n900000000\n", ":2: found tokens = '900000000'; allowed: a whole number from 0"),
        ("x" * 200_000 + ",tokens\n1,2\n", ":1: found no column 'tokens'; allowed: prompt_tokens"),
        ("", ":1: found no column 'tokens'; allowed: prompt_tokens"),
        ("tokens\n0\n", ": found no lengths above 0; allowed: at least one"),
    ],
)
def test_a_file_without_lengths_is_refused(tmp_path: Path, text: str, error: str) -> None:
    path = csv_file(tmp_path, text)
    with pytest.raises(TraceError) as refused:
        draw(Empirical(path, column="tokens"))
    assert str(refused.value).startswith(f"{path}{error}")


def workload(lengths: Independent | Joint, requests: int = 2000) -> SyntheticWorkload:
    return SyntheticWorkload(Traffic(arrivals=Poisson(1.0), lengths=lengths), requests=requests)


def test_joint_lengths_stay_together(tmp_path: Path) -> None:
    trace = azure(
        tmp_path,
        "2023-11-16 18:00:00,1000,1",
        "2023-11-16 18:00:00,1,1000",
        "2023-11-16 18:00:00,1,0",
    )
    synthetic = workload(Joint(trace))
    pairs = Counter((request.prompt_tokens, request.output_tokens) for request in synthetic)
    assert pairs.keys() == {(1000, 1), (1, 1000)}
    assert pairs[1, 1000] == pytest.approx(1000, abs=3 * 500**0.5)
    assert synthetic.notes == {"lengths: requests with zero output tokens dropped": 1}


def test_clipped_lengths_are_counted() -> None:
    clipped = workload(Independent(Lognormal(100, 1, 150), Exponential(50, 60)))
    whole = workload(Independent(Lognormal(100, 1), Exponential(50)))
    requests, originals = list(clipped), list(whole)
    assert max(request.prompt_tokens for request in requests) == 150
    assert max(request.output_tokens for request in requests) == 60
    assert clipped.notes == {
        "prompt lengths clipped to 150 tokens": sum(r.prompt_tokens > 150 for r in originals),
        "answers clipped to 60 tokens": sum(r.output_tokens > 60 for r in originals),
    }
    assert not whole.notes


def test_a_length_of_exactly_the_limit_is_not_clipped() -> None:
    """Of a pair, only the side that is longer than its limit is counted."""
    clip = Clip((100, 60))
    answer, question = "answers clipped to 60 tokens", "prompt lengths clipped to 100 tokens"
    assert clip((100, 60)) == ((100, 60), ())
    assert clip((100, 61)) == ((100, 60), (answer,))
    assert clip((101, 60)) == ((100, 60), (question,))
    assert clip((101, 61)) == ((100, 60), (question, answer))
    synthetic = workload(Independent(Uniform(100, 100), Exponential(50, 60)), requests=200)
    assert {request.prompt_tokens for request in synthetic} == {100}
    assert synthetic.notes.keys() == {answer}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Lognormal(0, 1), "median = 0: allowed a number above 0"),
        (lambda: Lognormal(5, -1), "sigma = -1: allowed 0 or more"),
        (lambda: Exponential(float("nan")), "mean = nan: allowed a number above 0"),
        (lambda: Constant(0), "tokens = 0: allowed 1 or more"),
        (lambda: Uniform(5, 4), "high = 4: allowed 5 or more"),
        (lambda: Zipf(-1, 1, 5), "exponent = -1: allowed 0 or more"),
        (lambda: Zipf(1, 0, 5), "low = 0: allowed 1 or more"),
    ],
)
def test_parameters_out_of_range_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        make()


def test_a_joint_source_without_rows_says_so(tmp_path: Path) -> None:
    empty = azure(tmp_path)
    assert "found no requests" in refusal(workload(Joint(empty)))
