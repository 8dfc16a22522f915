"""Variants of a config: what they replace, where, and what is refused with whose name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config import Config, load_config, read_source
from experiments.deployment import resolve
from experiments.errors import ConfigError
from experiments.variants import read_variants

BASE = """\
engine:
  block_size: 32
  scheduler: {kind: vllm, version: "0.19"}
  kv_cache: {kind: paged, free_order: all_last}
trace: {kind: chat, requests: 5, turns_mean: 3}
"""


def variants_of(folder: Path, text: str, *overrides: str) -> dict[str, Config]:
    path = folder / "c.yaml"
    path.write_text(BASE + text, encoding="utf-8")
    return read_variants(read_source(path, overrides=overrides))


def one(folder: Path, overrides: dict[str, Any]) -> Config:
    text = yaml.safe_dump({"variants": {"it": overrides}})
    return variants_of(folder, text)["it"]


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        variants_of(folder, text)
    return str(caught.value).replace(str(folder), "DIR")


def test_no_variants_no_study(tmp_path: Path) -> None:
    assert variants_of(tmp_path, "") == {}
    assert variants_of(tmp_path, "variants: null\n") == {}


def test_nested_and_dotted_say_the_same(tmp_path: Path) -> None:
    nested = one(tmp_path, {"engine": {"max_num_seqs": 4, "kv_cache": {"free_order": None}}})
    dotted = one(tmp_path, {"engine.max_num_seqs": 4, "engine.kv_cache.free_order": None})
    assert nested == dotted
    assert (nested.engine.max_num_seqs, nested.engine.block_size) == (4, 32)
    assert nested.engine.kv_cache.kind == "paged"
    assert nested.engine.kv_cache.free_order is None
    assert nested.variants is None


def test_items_of_lists_count_from_0(tmp_path: Path) -> None:
    text = "transforms: [{kind: head, requests: 3}]\nvariants: {a: {transforms.0.requests: 2}}\n"
    (transform,) = variants_of(tmp_path, text)["a"].transforms
    assert transform.model_dump()["requests"] == 2


def test_a_section_of_the_same_kind_is_merged_and_of_another_kind_replaced(tmp_path: Path) -> None:
    merged = one(tmp_path, {"trace": {"kind": "chat", "requests": 9}})
    assert merged.trace.model_dump()["turns_mean"] == 3
    other = one(tmp_path, {"engine": {"kv_cache": {"kind": "contiguous", "fit": "buddy"}}})
    assert other.engine.kv_cache.model_dump() == {
        "kind": "contiguous",
        "reserve": "max_model_len",
        "fit": "buddy",
    }
    assert one(tmp_path, {"engine": {"kv_cache": "naive"}}).engine.kv_cache.kind == "contiguous"


def test_variants_do_not_touch_each_other_nor_the_config(tmp_path: Path) -> None:
    text = "variants:\n  a: {engine: {max_num_seqs: 1}, seed: 3}\n  b: {trace.requests: 6}\n"
    both = variants_of(tmp_path, text)
    assert list(both) == ["a", "b"]
    assert (both["a"].engine.max_num_seqs, both["a"].seed) == (1, 3)
    assert (both["b"].engine.max_num_seqs, both["b"].seed) == (None, 0)
    plain = load_config(tmp_path / "c.yaml")
    assert (plain.engine.max_num_seqs, plain.seed) == (None, 0)


def test_what_a_variant_says_comes_after_the_command_line(tmp_path: Path) -> None:
    text = "variants: {a: {engine: {block_size: 8}}, b: {seed: 1}}\n"
    both = variants_of(tmp_path, text, "engine.block_size=64", "variants.b.seed=2")
    assert [each.engine.block_size for each in both.values()] == [8, 64]
    assert both["b"].seed == 2


def test_a_variant_is_the_run_that_the_command_line_would_make(tmp_path: Path) -> None:
    """Also in its run id, into which `variants` does not go."""
    variant = one(tmp_path, {"seed": 5})
    alone = load_config(tmp_path / "c.yaml", overrides=["seed=5", "variants=null"])
    assert variant == alone
    assert "variants" not in load_config(tmp_path / "c.yaml").model_dump(mode="json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: {}\n", "DIR/c.yaml:6: variants: found {}; allowed: names and what they"),
        ("variants: [a]\n", "DIR/c.yaml:6: variants: found ['a']; allowed: keys and values"),
        ("variants: {a: 3}\n", "DIR/c.yaml:6: variants.a: found 3; allowed: keys and values"),
        (
            "variants:\n  a: {seed: 1}\n  b: {}\n",
            "variant 'b': DIR/c.yaml:8: found {}; allowed: what it replaces",
        ),
        (
            "variants: {a: {engine: {kv_cache: {}}}}\n",
            "variant 'a': DIR/c.yaml:6: found {'engine': {'kv_cache': {}}}; allowed: what it",
        ),
        (
            "variants:\n  a:\n    engine:\n      max_num_seq: 3\n",
            "variant 'a': DIR/c.yaml:9: engine.max_num_seq: unknown key; did you mean max_num_seqs",
        ),
        (
            "variants:\n  a: {seed: 1}\n  b:\n    engine.block_size: x\n    seed: -1\n",
            "variant 'b': DIR/c.yaml:9: engine.block_size: found 'x'; allowed: a whole number\n"
            "variant 'b': DIR/c.yaml:10: seed: found -1",
        ),
        (
            "variants: {a: {engine: {enable_prefix_caching: true, kv_cache: naive}}}\n",
            "variant 'a': DIR/c.yaml:6: engine.enable_prefix_caching: found true; allowed with",
        ),
        (
            "variants: {a: {seed.b: 1}, c: {seed: 1}}\n",
            "variant 'a': DIR/c.yaml: seed: found {'b': 1}",
        ),
        (
            "variants: {a: {trace.kind.b: 1}}\n",
            "variant 'a': DIR/c.yaml:6: trace.kind.b: trace.kind is 'chat', not a section",
        ),
        (
            "variants: {a: {engine: {block_size: 8}, engine.block_size: 9}}\n",
            "variant 'a': DIR/c.yaml:6: engine.block_size: given twice, also at DIR/c.yaml:6",
        ),
        (
            "variants:\n  a: {engine.kv_cache: naive}\n  b: {engine: {kv_cache: contiguous}}\n",
            "variant 'b': the same run as variant 'a'",
        ),
        (
            "variants: {a: {variants: {b: {seed: 1}}}}\n",
            "variant 'a': DIR/c.yaml:6: found variants of a variant; allowed: one level",
        ),
        (
            'variants: {"a\\nb": {seed: 1}}\n',
            "variant 'a\\nb': DIR/c.yaml:6: found the name 'a\\nb'; allowed: up to 40",
        ),
        ("variants: {8192: {seed: 1}}\n", "DIR/c.yaml:6: variants.8192"),
    ],
)
def test_a_mistake_is_named_with_its_variant_and_place(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_the_shipped_study_resolves() -> None:
    path = Path(__file__).parents[1] / "configs" / "fragmentation.yaml"
    variants = read_variants(read_source(path))
    resolved = {name: resolve(config) for name, config in variants.items()}
    assert {each.num_gpu_blocks for each in resolved.values()} == {10_241}
    assert {each.notes for each in resolved.values()} == {()}
