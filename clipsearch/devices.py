"""What this machine computes with, found out without torch, which takes seconds to import."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from pathlib import Path

# NVIDIA's driver, the same within WSL, AMD's.
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def processors() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16); asked of Linux, False elsewhere."""
    # torch answers "yes" from AVX512 on, where bfloat16 is emulated and slower than float32.
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and "avx512_bf16" in flags[1].split()


def may_have_gpu() -> bool:
    """Whether torch is worth asking for a GPU: on Linux the driver tells, on a Mac there always is one."""
    return sys.platform != "linux" or any(Path(driver).exists() for driver in _GPU_DRIVERS)
