"""The machine of a measurement: processor, cores, and its matmul rate, measured now."""

import os
import platform
import time

import torch


def matmul_gflops(dtype: torch.dtype, threads: int, seconds: float = 1.0) -> float:
    """Best of five measurements of a [1024, 576] x [576, 1536] product."""
    torch.set_num_threads(threads)
    left, right = torch.randn(1024, 576, dtype=dtype), torch.randn(576, 1536, dtype=dtype)
    rates = []
    for _ in range(5):
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds / 5:
            left @ right
            count += 1
        rates.append(2 * 1024 * 576 * 1536 * count / (time.perf_counter() - started) / 1e9)
    return max(rates)


def learning_ceiling(parameters: int, threads: int) -> float:
    """Tokens/s if learning were float32 matmuls alone, at the measured rate: 6 flops a weight."""
    return matmul_gflops(torch.float32, threads) * 1e9 / (6 * parameters)


def describe(threads: int) -> str:
    with open("/proc/cpuinfo") as file:
        model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    flags = "AVX-512" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "AVX2"
    return (
        f"{model} ({flags}), {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"torch {torch.__version__}; matmul on {threads} threads: "
        f"{matmul_gflops(torch.float32, threads):.0f} GFLOP/s float32, load average before "
        f"{os.getloadavg()[0]:.1f}"
    )
