"""From what a config says of its latency table to the clock."""

from __future__ import annotations

from calibrate.communication import settle_communication
from calibrate.device import Device
from calibrate.importers.aiconfigurator import GEMM_DTYPES, import_aiconfigurator
from calibrate.importers.llmservingsim import import_llmservingsim
from calibrate.importers.vidur import import_vidur
from calibrate.model import Model
from calibrate.steptime import StepTime
from calibrate.table import Table, read_table
from experiments.deployment import Deployment
from experiments.errors import ConfigError
from experiments.latency_config import ImportedLatency, TableLatency


def build_table_latency(
    deployment: Deployment, options: TableLatency | ImportedLatency
) -> StepTime:
    """The table's step times for the deployment's model, GPU count and KV dtype. Raises
    TableError where it has none or cannot price the GPUs' collectives, ModelError for a mixture
    of experts."""
    engine, model = deployment.config.engine, deployment.model
    if model is None:
        raise ConfigError(f"latency.kind: {options.kind} needs a model")
    tp = engine.tensor_parallel_size
    if isinstance(options, TableLatency):
        table = read_table(options.path)
    else:
        table = import_table(options, model, deployment.device, tensor_parallel_size=tp)
    chosen = table.select(
        model, tensor_parallel_size=tp, dtype=options.dtype, kv_dtype=engine.kv_cache_dtype
    )
    settled = settle_communication(
        chosen, model, deployment.device, gpus=tp, source=options.communication
    )
    return StepTime(
        settled,
        host_ns=options.host_ns,
        launch_ns=options.launch_ns,
        capture_sizes=options.capture_sizes or (),
        skew=options.skew,
    )


def import_table(
    options: ImportedLatency, model: Model, device: Device | None, *, tensor_parallel_size: int
) -> Table:
    """A profile as a table. Raises TableError, and ConfigError where the device is missing."""
    tp = tensor_parallel_size
    if options.source == "aiconfigurator":
        if device is None:
            raise ConfigError("latency.source: aiconfigurator needs a device")
        dtype = options.dtype or "bfloat16"
        if dtype not in GEMM_DTYPES:
            allowed = ", ".join(GEMM_DTYPES)
            raise ConfigError(f"latency.dtype: found {dtype}; allowed: {allowed}")
        return import_aiconfigurator(
            options.path,
            model,
            device,
            tensor_parallel_size=tp,
            gemm_dtype=dtype,
            version=options.version,
            modelled_attention=options.modelled_attention,
        )
    assert options.path is not None
    importer = import_vidur if options.source == "vidur" else import_llmservingsim
    return importer(options.path, model, tensor_parallel_size=tp)
