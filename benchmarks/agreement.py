"""Is g(x) the same through the toolkits' own PGD, to the last pixel?

128 images, the same f_b (Table 4 net), start, steps and labels. In float64 all agree; in float32 the order of a sum decides the
sign of a gradient that is nearly zero, and every later step starts from another point: even the plain net in float32 differs
from itself in float64 (last rows). ART computes in float32 only.

    python -m benchmarks.agreement [--f-b reference:vgg0_adv.pth]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from art_advtransform import LLPGDTransform
from art_advtransform.frozen import FrozenModel
from benchmarks.harness import named, print_table, table4_net, write_csv
from benchmarks.peers import by_name
from benchmarks.speed_transform import equal_share, problem

N, BATCH = 128, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--f-b", default=None, help="default: seeded weights, no download")
    f_b = parser.parse_args().f_b
    net = table4_net(f_b)
    x, y, start = problem(LLPGDTransform(net), N)
    made: dict[tuple[str, str], Tensor] = {}
    for dtype in (torch.float32, torch.float64):
        kind = str(dtype).removeprefix("torch.")
        net, x, start = net.to(dtype), x.to(dtype), start.to(dtype)
        made["ours", kind] = LLPGDTransform(net)(x, start)
        made["ours, plain copy of f_b", kind] = LLPGDTransform(FrozenModel(net, optimise=False))(x, start)
        for name, peer in by_name(net, BATCH).items():
            if (name, kind) != ("ART", "float64"):
                made[name, kind] = peer(x, start, y)
    pairs = [(one, ("ours", one[1])) for one in made if one[0] != "ours"]
    pairs += [((name, "float32"), (name, "float64")) for name in ("ours", "plain loop")]
    rows: list[dict[str, Any]] = []
    for one, other in pairs:
        pixels, images = equal_share(made[one].double(), made[other].double())
        compared = {"of": f"{one[0]} in {one[1]}", "and": f"{other[0]} in {other[1]}"}
        rows.append({**compared, "equal_pixels": pixels, "equal_images": images})
    print_table(rows)
    print(f"written to {write_csv(named('agreement', f_b), rows)}")


if __name__ == "__main__":
    main()
