"""Runs an entry point of the user's checkout as upstream's scripts do, in a process of its own.

    python _sat_driver.py cpu|gpu ENTRY.py ARGUMENT...

On a CPU the CUDA calls that upstream hard-codes are answered; nothing else is replaced. Nothing is written into the
checkout: the working directory is elsewhere.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

sys.path.pop(0)  # the folder of this file


def without_cuda() -> None:
    """Answer the CUDA calls of upstream and of SAT with the CPU."""
    import torch

    def is_cuda(value: Any) -> bool:
        if isinstance(value, torch.device):
            return value.type == "cuda"
        return isinstance(value, str) and value.startswith("cuda")

    def on_cpu(values: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = {name: "cpu" if name == "device" and is_cuda(item) else item for name, item in named.items()}
        return tuple("cpu" if is_cuda(item) else item for item in values), named

    def wrapped(function: Any) -> Any:
        def call(*values: Any, **named: Any) -> Any:
            values, named = on_cpu(values, named)
            return function(*values, **named)

        return call

    def stay(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self

    state = torch.zeros(16, dtype=torch.uint8)
    torch.Tensor.cuda = torch.nn.Module.cuda = stay  # type: ignore[assignment,method-assign,unused-ignore]
    torch.Tensor.to = wrapped(torch.Tensor.to)  # type: ignore[method-assign,unused-ignore]
    torch.nn.Module.to = wrapped(torch.nn.Module.to)  # type: ignore[method-assign,unused-ignore]
    for name in ("zeros", "ones", "empty", "full", "tensor", "randn", "rand", "arange", "linspace", "zeros_like"):
        setattr(torch, name, wrapped(getattr(torch, name)))
    torch.cuda.synchronize = lambda *args, **kwargs: None
    torch.cuda.get_rng_state = lambda *args, **kwargs: state.clone()
    torch.cuda.set_rng_state = lambda *args, **kwargs: None
    torch.cuda.set_device = lambda *args, **kwargs: None

    import deepspeed

    initialize = deepspeed.initialize

    def with_a_number(*values: Any, **named: Any) -> Any:
        if getattr(named.get("args"), "local_rank", None) == "cpu":
            # upstream wants it equal to the device, DeepSpeed wants the number
            named["args"].local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        return initialize(*values, **named)

    deepspeed.initialize = with_a_number


def main() -> None:
    """Become the entry point."""
    device, entry, *arguments = sys.argv[1:]
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(Path(entry).parent))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        without_cuda()
    sys.argv = [entry, *arguments]
    runpy.run_path(entry, run_name="__main__")


if __name__ == "__main__":
    main()
