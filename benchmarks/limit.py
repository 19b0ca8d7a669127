"""What the hardware can do, by this run: matrix products and memory copies.

    python benchmarks/limit.py [--threads 2]

Products are those of a linear layer, [tokens x 576] times [576 x 1536] (the embedded backbone's), and a large square,
in fp32 (without TF32) and bf16. `peaks` is what the other benchmarks state their share of.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import _common

PRECISIONS = ("fp32", "bf16")
_AT_LEAST_S = 0.02  # a single small product is as long as the clock's noise


def block_parameters(model: Any) -> int:
    """Weights of a model's blocks: neither embeddings, of tokens or positions, nor the head."""
    from torch.nn import Embedding

    head = model.get_output_embeddings()
    outside = [m.weight for m in model.modules() if isinstance(m, Embedding)] + [head.weight] * (head is not None)
    left_out = {id(weight) for weight in outside}
    return sum(p.numel() for p in model.parameters() if id(p) not in left_out)


def product(tokens: int, inputs: int, outputs: int, precision: str, repeats: int = 3) -> list[float]:
    """FLOP/s of [tokens x inputs] times [inputs x outputs], each time anew."""
    import torch

    from lopt.backbones import default_device, torch_dtype

    options = {"device": default_device(), "dtype": torch_dtype(precision)}
    left, right = torch.randn(tokens, inputs, **options), torch.randn(outputs, inputs, **options)

    def multiply() -> Any:
        return torch.nn.functional.linear(left, right)

    multiply()
    return [2 * tokens * inputs * outputs / seconds for seconds in _seconds(multiply, repeats)]


def copy(size_bytes: int, repeats: int = 3) -> list[float]:
    """Bytes read and written a second by a copy within the device's memory."""
    import torch

    from lopt.backbones import default_device

    source = torch.ones(size_bytes, dtype=torch.uint8, device=default_device())
    target = torch.empty_like(source)
    target.copy_(source)
    return [2 * size_bytes / seconds for seconds in _seconds(lambda: target.copy_(source), repeats)]


def _seconds(work: Any, repeats: int) -> list[float]:
    """Seconds of one call, over enough calls to be measured."""
    calls = max(1, round(_AT_LEAST_S / max(1e-7, min(_common.laps(work, 2)))))
    return [_common.laps(lambda: [work() for _ in range(calls)], 1)[0] / calls for _ in range(repeats)]


def peaks(shapes: Sequence[tuple[int, int, int]], repeats: int = 3) -> dict[str, float]:
    """FLOP/s of the fastest of the shapes in each precision, each by its median."""
    return {
        precision: max(statistics.median(product(*shape, precision, repeats)) for shape in shapes)
        for precision in PRECISIONS
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, help="default: as torch chooses")
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--inner", type=int, default=1536)
    parser.add_argument("--tokens", default="160,640,2560,5120", help="of the layer's product")
    parser.add_argument("--square", type=int, help="default 4096, on a GPU 8192")
    parser.add_argument("--copy-mb", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    _common.add_out(parser)
    given = parser.parse_args(argv)
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    if given.quick:
        given.tokens, given.square, given.copy_mb, given.repeats = "16", 64, 1, 2
    square = given.square or (8192 if torch.cuda.is_available() else 4096)
    shapes = [(int(tokens), given.width, given.inner) for tokens in given.tokens.split(",")] + [(square,) * 3]
    about = _common.context()
    print(_common.headline(about))

    contenders: dict[str, Any] = {}
    for shape in shapes:
        for precision in PRECISIONS:
            name = f"{shape[0]} x {shape[1]} x {shape[2]} {precision}"
            contenders[name] = lambda shape=shape, precision=precision: product(*shape, precision, 1)[0]
    contenders[f"copy of {given.copy_mb} MB"] = lambda: copy(given.copy_mb * 2**20, 1)[0]
    found = _common.in_turns(contenders, given.repeats)

    def cells(name: str) -> list[str]:
        scale, unit = (1e9, "GB/s") if name.startswith("copy") else (1e12, "TFLOP/s")
        values = [statistics.median(found[name]), min(found[name]), max(found[name])]
        return [name, *(f"{value / scale:.3g}" for value in values), unit]

    print(_common.table(["", "median", "least", "most", ""], map(cells, found)))
    result = {**about, "settings": {"shapes": shapes, "copy_mb": given.copy_mb, "repeats": given.repeats}, "raw": found}
    _common.keep("limit", result, given.out, smoke=given.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
