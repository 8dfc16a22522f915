"""Several runs side by side: one after the other, then what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments.config import Config
from experiments.deployment import resolve
from experiments.identity import name_by, read_versions
from experiments.results import FIGURES, STUDY, Draft, RunResult
from experiments.simulate import Outcome, Survey, Watcher, simulate
from experiments.variants import of_variant
from experiments.waste import expect_waste, measure_middle

COMPARISON = "comparison.parquet"
_COMPARED = ("counts", "latency_ms", "throughput", "ttft", "limits", "memory", "prefix_cache")
"""Parts of a summary whose numbers are in the comparison."""

Watch = Callable[[Survey], Watcher]


class Variant(NamedTuple):
    """A finished run of a study."""

    result: RunResult
    middle: dict[str, Any]
    """`measure_middle` of it, and `waste_expected`."""
    reused: bool


class Study(NamedTuple):
    path: Path
    variants: dict[str, Variant]


def run_study(
    name: str,
    configs: Mapping[str, Config],
    *,
    out: Path,
    force: bool = False,
    watch: Callable[[str], Watch | None] | None = None,
) -> Study:
    """Run every variant that `out` does not have yet, and leave the comparison in
    `out/<name>-<hash of the run ids>`: study.json, comparison.parquet, figures.

    All are settled before the first one runs, so that a mistake in the last costs no time.
    Raises what `simulate` raises as ConfigErrors with the variant's name, and ResultError.
    """
    for variant, config in configs.items():
        with of_variant(variant):
            resolve(config)
    variants = {}
    for variant, config in configs.items():
        with of_variant(variant):
            outcome = simulate(config, out=out, force=force, watch=watch and watch(variant))
        variants[variant] = _finish(outcome)
    with Draft(out, run_id=_name(name, variants)) as draft:
        content = _describe(variants)
        content["study"] = {"id": draft.final.name, "versions": read_versions()}
        draft.write_json(STUDY, content)
        compare(content["variants"]).to_parquet(draft.path / COMPARISON, index=False)
        from experiments.study_figures import draw_study  # seaborn is slow to import

        figures = draft.path / FIGURES
        figures.mkdir()
        draw_study(variants, figures, name=name)
        draft.publish()
    return Study(draft.final, variants)


def compare(variants: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each variant and number of study.json: variant, metric (its keys, dotted), value
    (NaN where there is none)."""
    rows = [
        (variant, metric, value)
        for variant, content in variants.items()
        for metric, value in _flatten(
            {part: content["summary"][part] for part in _COMPARED} | {"middle": content["middle"]}
        )
    ]
    return pd.DataFrame(rows, columns=["variant", "metric", "value"]).astype({"value": "float64"})


def _finish(outcome: Outcome) -> Variant:
    result = outcome.result
    frames = result.frames
    middle = measure_middle(frames, pool_slots=result.summary["memory"]["pool_slots"])
    expected = expect_waste(frames["requests"], result.config["engine"])
    return Variant(result, middle | {"waste_expected": expected}, outcome.reused)


def _describe(variants: Mapping[str, Variant]) -> dict[str, Any]:
    return {
        "variants": {
            name: {
                "run": variant.result.path.name,
                "middle": variant.middle,
                "summary": variant.result.summary,
            }
            for name, variant in variants.items()
        }
    }


def _name(name: str, variants: Mapping[str, Variant]) -> str:
    """Of equal names and runs, equal; run ids cover whatever the runs depend on."""
    runs = [[variant, run.result.path.name] for variant, run in variants.items()]
    return name_by(name, runs)


def _flatten(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float | None]]:
    """Numbers by their dotted keys; texts and lists are no numbers."""
    for key, value in content.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _flatten(value, here)
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield here, value
