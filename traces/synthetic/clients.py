"""A mix of clients, each with traffic of its own.

After ServeGen (Xiang et al., arXiv:2505.09999) as its repository describes it; not read in
the paper: a workload is the sum of many clients whose rates are very unequal, whose gaps are
burstier than Poisson, and whose lengths differ. A sum of equal clients loses that: its bursts
cancel, and its lengths do not follow who is awake.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from traces.ranges import check_least, check_positive
from traces.several import adopt
from traces.synthetic.arrivals import Gamma
from traces.synthetic.draws import Draws, by_rank
from traces.synthetic.lengths import Exponential, Independent, Lognormal
from traces.synthetic.traffic import Drawn, Traffic


@dataclass(frozen=True, slots=True)
class ClientTraffic:
    """The traffic of all clients by arrival; at equal arrivals in the order given.

    A client's name is the tenant of its requests and begins their ids. Its draws follow from
    the seed and its name: adding a client changes no other.
    """

    clients: Mapping[str, Traffic]

    @property
    def finite(self) -> bool:
        return all(client.finite for client in self.clients.values())

    @property
    def timeless(self) -> bool:
        return any(client.timeless for client in self.clients.values())

    def requests(self, draws: Draws) -> Iterator[Drawn]:
        each = (
            self._requests(name, place, draws.within(f"client {name}"))
            for place, name in enumerate(self.clients)
        )
        return heapq.merge(*each, key=lambda drawn: drawn.request.arrival_ns)

    def notes(self) -> Counter[str]:
        notes: Counter[str] = Counter()
        for name, client in self.clients.items():
            notes.update({f"{name}: {what}": n for what, n in client.notes().items()})
        return notes

    def _requests(self, name: str, place: int, draws: Draws) -> Iterator[Drawn]:
        for drawn in self.clients[name].requests(draws, tenant=name):
            request = adopt(drawn.request, name=name, place=place, places=len(self.clients))
            yield drawn._replace(request=request)


@dataclass(frozen=True, kw_only=True)
class Population:
    """Clients that differ at random, to be drawn from a seed.

    Client k (from 1) has the share 1 / k**rate_skew of all requests; with the default skew
    a tenth of 1,000 clients sends 69 %. CVs of gaps, and the medians of prompt
    lengths and means of answers, are lognormal over the clients; within a client gaps are
    gamma, prompts lognormal, answers exponential: after ServeGen as its repository describes
    it (there prompts also have a Pareto tail); not read in the paper. The defaults are
    assumptions, around the lengths of Azure's conversation trace of 2023.
    """

    count: int
    rate: float
    """Of all clients together."""
    rate_skew: float = 1.0
    cv_median: float = 1.5
    cv_sigma: float = 0.5
    prompt_median: float = 1020
    prompt_spread: float = 0.8
    """Shape (sigma) of the lognormal of the clients' medians."""
    prompt_sigma: float = 0.5
    """Shape of the lengths of one client."""
    output_mean: float = 211
    output_spread: float = 0.5
    longest: int = 131_072
    """Of any question and any answer; what is longer is clipped, and counted."""

    def __post_init__(self) -> None:
        check_least(1, count=self.count, longest=self.longest)
        check_positive(rate=self.rate, cv_median=self.cv_median)
        check_positive(prompt_median=self.prompt_median, output_mean=self.output_mean)
        check_least(0, rate_skew=self.rate_skew, cv_sigma=self.cv_sigma)
        check_least(0, prompt_spread=self.prompt_spread, prompt_sigma=self.prompt_sigma)
        check_least(0, output_spread=self.output_spread)

    def clients(self, *, seed: int) -> Mapping[str, Traffic]:
        """By rank; more of them begin with the same ones, apart from their share of the rate."""
        draws = Draws(seed, "population")
        rates = by_rank(self.count, self.rate_skew)
        rates *= self.rate / rates.sum()
        cvs, prompts, outputs = (
            median * np.exp(sigma * draws.generator(what).standard_normal(self.count))
            for what, median, sigma in (
                ("cv", self.cv_median, self.cv_sigma),
                ("prompt", self.prompt_median, self.prompt_spread),
                ("output", self.output_mean, self.output_spread),
            )
        )
        drawn = zip(rates.tolist(), cvs.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
        return {
            f"c{index:04d}": Traffic(
                arrivals=Gamma(rate, cv),
                lengths=Independent(
                    Lognormal(prompt, self.prompt_sigma, self.longest),
                    Exponential(output, self.longest),
                ),
            )
            for index, (rate, cv, prompt, output) in enumerate(drawn)
        }
