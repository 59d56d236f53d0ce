"""What the dtype of a case means for torch, and who computes in it."""

import torch

from harness.plan.case import Case
from harness.plan.catalogue import MIXED_DTYPES, PLAIN_DTYPES, label

# The tensor cores of NVIDIA's Ampere are the first that multiply in TF32 or bfloat16.
_FIRST_CAPABILITY = (8, 0)


def of(dtype: str) -> tuple[torch.dtype, str]:
    """Return the dtype of parameters and data, and what products are made in where that is less (else empty)."""
    if dtype in MIXED_DTYPES:
        return torch.float32, dtype
    parameters: torch.dtype = getattr(torch, dtype)
    return parameters, ""


def missing(case: Case, engine: object, device: torch.device) -> str | None:
    """Return, in one line, why this device or engine does not compute in the case's dtype, or None."""
    if case.dtype == "tf32" and device.type != "cuda":
        return "tf32 is what NVIDIA's GPUs multiply in; use --device cuda, or --dtype float32 on a CPU"
    if case.dtype in MIXED_DTYPES and device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < _FIRST_CAPABILITY:
            has = f"{found[0]}.{found[1]}"
            return f"this GPU, of compute capability {has}, does not multiply in {case.dtype}; 8.0 and newer do"
    if case.dtype not in getattr(engine, "dtypes", PLAIN_DTYPES):
        return f"engine {label(case.engine)} is not written for {case.dtype}; autograd, compile and compile_step are"
    return None
