"""The machine: versions, memory, and the rates that bounds are told from."""

from __future__ import annotations

import os
import platform

import torch
import torch_geometric
import triton

from tests.gpu.tools import GPU, measure, record

torch.backends.cuda.matmul.allow_tf32 = False
properties = torch.cuda.get_device_properties(GPU)
record("GPU", properties.name)
record("memory", properties.total_memory / 2**30, "GiB")
record("multiprocessors", properties.multi_processor_count)
record("L2", properties.L2_cache_size / 2**20, "MiB")
record("host cores", len(os.sched_getaffinity(0)))
for name, version in {
    "Python": platform.python_version(),
    "PyTorch": torch.__version__,
    "CUDA": torch.version.cuda,
    "Triton": triton.__version__,
    "PyG": torch_geometric.__version__,
}.items():
    record(name, version)

x = torch.randn(2**28, device=GPU)
y = torch.empty_like(x)
record("copy on the device, read and written", 2 * x.nbytes / measure(lambda: y.copy_(x)) / 1e9, "TB/s")
host = torch.empty(2**26).pin_memory()
record("copy from pinned host memory", host.nbytes / measure(lambda: y[: 2**26].copy_(host)) / 1e6, "GB/s")
loose = torch.empty(2**26)
record("copy from pageable host memory", loose.nbytes / measure(lambda: y[: 2**26].copy_(loose)) / 1e6, "GB/s")
for kind, tf32 in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
    torch.backends.cuda.matmul.allow_tf32 = tf32
    a, b = (torch.randn(8192, 8192, device=GPU, dtype=kind) for _ in range(2))
    label = "tf32" if tf32 else str(kind).removeprefix("torch.")
    record(f"product of 8192 x 8192, {label}", 2 * 8192**3 / measure(lambda: a @ b) / 1e9, "TFLOP/s")  # noqa: B023
    a, b = torch.randn(2_000_000, 256, device=GPU, dtype=kind), torch.randn(256, 256, device=GPU, dtype=kind)
    rate = 2 * 2e6 * 256**2 / measure(lambda: a @ b.t()) / 1e9  # noqa: B023
    record(f"product of 2,000,000 x 256 with 256 x 256, {label}", rate, "TFLOP/s")
