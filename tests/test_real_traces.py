"""The full public traces, served to the last token; nothing lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config import load_config
from experiments.simulate import simulate
from tests.shared import SHARED, needs_shared

ROOT = Path(__file__).parents[1]
TRACES = {
    "azure-conv": ("azure-2023/AzureLLMInferenceTrace_conv.csv", 19_366),
    "mooncake-conversation": ("mooncake/conversation_trace.jsonl.gz", 12_031),
}


@needs_shared
@pytest.mark.parametrize("name", TRACES)
def test_everything_arrives_and_is_answered(name: str, tmp_path: Path) -> None:
    file, count = TRACES[name]
    path = f"trace.path={SHARED / 'traces' / file}"
    config = load_config(ROOT / "configs" / f"{name}.yaml", overrides=[path])
    # `simulate` checks conservation, in the records and against a recount of the pool.
    summary = simulate(config, out=tmp_path).result.summary
    assert summary["counts"]["arrived"] == count
    assert summary["counts"]["finished"] == count
    assert summary["counts"]["rejected"] == 0
