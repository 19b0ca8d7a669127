"""How fast this machine computes matrix products and copies memory.

    python benchmarks/limit.py [--threads 2]

The products are those of a linear layer of the embedded backbone, [tokens x 576] times [576 x 1536], and a large square
one, in fp32 (without TF32) and bf16. The other benchmarks state their speed as a share of what `measure_peaks` returns.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import _common

PRECISIONS = ("fp32", "bf16")
_MIN_TIMED_S = 0.02  # in shorter times the clock's noise would be too large


def count_block_weights(model: Any) -> int:
    """Return the number of weights in a model's blocks, without the head and the embeddings of tokens and positions."""
    from torch.nn import Embedding

    head = model.get_output_embeddings()
    outside_weights = [module.weight for module in model.modules() if isinstance(module, Embedding)]
    outside_weights += [head.weight] * (head is not None)
    outside_ids = {id(weight) for weight in outside_weights}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in outside_ids)


def measure_product_flops(
    token_count: int, input_width: int, output_width: int, precision: str, repeats: int = 3
) -> list[float]:
    """Return the FLOP/s of the product [tokens x inputs] times [inputs x outputs], measured `repeats` times."""
    import torch

    from lopt.backbones import default_device, torch_dtype

    options = {"device": default_device(), "dtype": torch_dtype(precision)}
    input_rows = torch.randn(token_count, input_width, **options)
    weight_rows = torch.randn(output_width, input_width, **options)

    def multiply() -> Any:
        return torch.nn.functional.linear(input_rows, weight_rows)

    multiply()
    flops = 2 * token_count * input_width * output_width
    return [flops / seconds for seconds in _measure_call_seconds(multiply, repeats)]


def measure_copy_bytes_per_s(size_bytes: int, repeats: int = 3) -> list[float]:
    """Return the bytes read and written per second by a copy within the device's memory, measured `repeats` times."""
    import torch

    from lopt.backbones import default_device

    source = torch.ones(size_bytes, dtype=torch.uint8, device=default_device())
    target = torch.empty_like(source)
    target.copy_(source)
    return [2 * size_bytes / seconds for seconds in _measure_call_seconds(lambda: target.copy_(source), repeats)]


def _measure_call_seconds(function: Callable[[], Any], repeats: int) -> list[float]:
    """Return `repeats` measurements of the seconds of one call, each averaged over enough calls to be measured."""
    call_count = max(1, round(_MIN_TIMED_S / max(1e-7, min(_common.time_calls(function, 2)))))
    return [
        _common.time_calls(lambda: [function() for _ in range(call_count)], 1)[0] / call_count for _ in range(repeats)
    ]


def measure_peaks(shapes: Sequence[tuple[int, int, int]], repeats: int = 3) -> dict[str, float]:
    """Return, for each precision, the FLOP/s of the fastest shape: the highest of the shapes' medians."""
    return {
        precision: max(statistics.median(measure_product_flops(*shape, precision, repeats)) for shape in shapes)
        for precision in PRECISIONS
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, help="processor threads (default: torch's choice)")
    parser.add_argument("--width", type=int, default=576, help="inputs of the linear layer (default 576)")
    parser.add_argument("--inner", type=int, default=1536, help="outputs of the linear layer (default 1536)")
    parser.add_argument("--tokens", default="160,640,2560,5120", help="numbers of tokens in the linear layer's product")
    parser.add_argument("--square", type=int, help="size of the square product (default 4096, on a GPU 8192)")
    parser.add_argument("--copy-mb", type=int, default=512, help="megabytes that are copied (default 512)")
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each product and copy (default 9)")
    parser.add_argument("--quick", action="store_true", help="use small sizes, only to test that the benchmark runs")
    _common.add_out_option(parser)
    options = parser.parse_args(argv)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.quick:
        options.tokens, options.square, options.copy_mb, options.repeats = "16", 64, 1, 2
    square = options.square or (8192 if torch.cuda.is_available() else 4096)
    shapes = [(int(tokens), options.width, options.inner) for tokens in options.tokens.split(",")] + [(square,) * 3]
    context = _common.run_context()
    print(_common.hardware_line(context))

    contenders: dict[str, Any] = {}
    for shape in shapes:
        for precision in PRECISIONS:
            name = f"{shape[0]} x {shape[1]} x {shape[2]} {precision}"
            contenders[name] = lambda shape=shape, precision=precision: measure_product_flops(*shape, precision, 1)[0]
    contenders[f"copy of {options.copy_mb} MB"] = lambda: measure_copy_bytes_per_s(options.copy_mb * 2**20, 1)[0]
    speeds = _common.run_in_turns(contenders, options.repeats)

    def table_row(name: str) -> list[str]:
        scale, unit = (1e9, "GB/s") if name.startswith("copy") else (1e12, "TFLOP/s")
        values = [statistics.median(speeds[name]), min(speeds[name]), max(speeds[name])]
        return [name, *(f"{value / scale:.3g}" for value in values), unit]

    print(_common.format_table(["", "median", "least", "most", ""], map(table_row, speeds)))
    settings = {"shapes": shapes, "copy_mb": options.copy_mb, "repeats": options.repeats}
    _common.save_result(
        "limit", {**context, "settings": settings, "raw": speeds}, options.out, is_smoke_test=options.quick
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
