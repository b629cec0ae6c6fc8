"""The worst images of a run that are still right in more than --left of the draws, in one small file.

A run's folder is large, and a later pass can start from what an earlier one found:

    python -m benchmarks.kept_images --run runs/strong-0/defended [--to kept.safetensors]

The file holds their numbers in the sample (n,) and the images (n, C, H, W) as the attacks left them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from art_advtransform.plan import WORST
from art_advtransform.records import Evaluation
from art_advtransform.store import read_attacked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished evaluation of one model")
    parser.add_argument("--to", type=Path, default=None, help="the file; kept.safetensors in the run's folder")
    parser.add_argument("--left", type=float, default=0.02, help="share of right draws that an image must exceed")
    arguments = parser.parse_args()
    path = arguments.run / "kept.safetensors" if arguments.to is None else arguments.to
    tensors = kept(arguments.run, arguments.left)
    scratch = path.with_suffix(".partial")  # whole or not at all
    save_file(tensors, scratch)
    scratch.replace(path)
    print(f"{len(tensors['numbers'])} images written to {path}")


def kept(run: Path, left: float) -> dict[str, Tensor]:
    """Numbers and images of those that are right in more than ``left`` of the draws.

    Raises:
        FileNotFoundError: if ``run`` is not the folder of a finished evaluation.
        ValueError: if its images are not a row of the sample's, as those of a second pass.
    """
    record = Evaluation.load(run / "evaluation.json")
    if "numbers" in record.settings:
        raise ValueError(f"expected a run on images that follow one another, got some of their own in {run}")
    skip, chunk_size = int(record.settings.get("skip", 0)), int(record.settings["chunk_size"])
    rows = [i for i, share in enumerate(record.worst.per_image) if share > left]
    images = [read_attacked(run, WORST, chunk_size, i) for i in rows]
    return {
        "numbers": torch.tensor([skip + i for i in rows], dtype=torch.int64),
        "images": torch.stack(images) if images else torch.empty(0),
    }


if __name__ == "__main__":
    main()
