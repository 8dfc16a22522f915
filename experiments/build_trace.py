"""From what a config says of its trace to the requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from experiments.config import Config
from experiments.lengths_config import Sessions
from experiments.transform_config import AnyTransform
from experiments.workload_config import (
    AnyTrace,
    ChatTrace,
    ClientsTrace,
    IndependentLengths,
    MergedTrace,
    ReplayedArrivals,
    SyntheticTrace,
    Traffic,
)
from traces.reader import open_trace
from traces.schema import Trace
from traces.synthetic import arrivals, clients, lengths, sessions, traffic
from traces.synthetic.draws import seed_at
from traces.synthetic.empirical import Joint
from traces.synthetic.workload import SyntheticWorkload
from traces.transforms.merge import Merge


def build_trace(config: Config) -> Trace:
    """The requests. Raises TraceError for a file that fits no format."""
    return _Built(config.seed).transformed(config.trace, config.transforms)


class _Built:
    """Traces from their sections, with a seed for each place in the config.

    Two equal sections in different places draw different requests; the trace of the run
    itself has the run's seed.
    """

    def __init__(self, seed: int, place: str = "") -> None:
        self._seed = seed
        self._place = place

    def transformed(self, section: AnyTrace, transforms: Sequence[AnyTransform]) -> Trace:
        trace = self._trace(section)
        for index, transform in enumerate(transforms):
            seed = seed_at(self._seed, f"{self._place}/transforms/{index}")
            trace = transform.apply(trace, seed=seed)
        return trace

    def _within(self, place: str) -> _Built:
        return _Built(self._seed, f"{self._place}/{place}")

    def _trace(self, section: AnyTrace) -> Trace:
        seed = seed_at(self._seed, self._place)
        if isinstance(section, ChatTrace):
            return section.workload(seed=seed)
        if isinstance(section, MergedTrace):
            return Merge(
                {
                    part.name: self._within(part.name).transformed(part.trace, part.transforms)
                    for part in section.traces
                }
            )
        if isinstance(section, SyntheticTrace):
            return SyntheticWorkload(
                self._traffic(section),
                seed=seed,
                requests=section.requests,
                duration_s=section.duration_s,
            )
        if isinstance(section, ClientsTrace):
            return SyntheticWorkload(
                self._clients(section, seed=seed),
                seed=seed,
                requests=section.requests,
                duration_s=section.duration_s,
                name="clients",
            )
        options = section.model_dump(exclude={"kind", "path"})
        return open_trace(section.path, kind=section.kind, seed=seed, **options)

    def _clients(self, section: ClientsTrace, *, seed: int) -> clients.ClientTraffic:
        each = {
            client.name: self._within(client.name)._traffic(client) for client in section.clients
        }
        if section.population is not None:
            population = clients.Population(**section.population.model_dump())
            each |= population.clients(seed=seed)
        return clients.ClientTraffic(each)

    def _traffic(self, section: Traffic) -> traffic.Traffic:
        sharing = section.sharing
        make: Callable[..., traffic.Traffic] = traffic.Traffic
        if isinstance(sharing, Sessions):
            options = sharing.model_dump(exclude={"kind", "opening"})
            sharing, make = sharing.opening, partial(sessions.SessionTraffic, **options)
        return make(
            arrivals=self._arrivals(section),
            lengths=self._lengths(section),
            sharing=sharing.build(),
            tenants=section.tenants,
            priorities=section.priorities,
            n=section.n,
        )

    def _arrivals(self, section: Traffic) -> arrivals.Arrivals:
        if isinstance(section.arrivals, ReplayedArrivals):
            source = section.arrivals
            within = self._within("arrivals")
            return arrivals.Replayed(within.transformed(source.trace, source.transforms))
        return section.arrivals.build()

    def _lengths(self, section: Traffic) -> lengths.Pairs:
        source = section.lengths
        if isinstance(source, IndependentLengths):
            return lengths.Independent(source.prompt.build(), source.output.build())
        return Joint(self._within("lengths").transformed(source.trace, source.transforms))
