"""Small "published" sets in place of the authors', and pyconv-eval that knows them.

``python tests/published_sets.py DATA --published`` is the command with these; every process that it
starts imports this file, and knows them too.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from pyconv import Published, ResNet, WeightsEnum, register_model
from pyconv.architectures import ARCHITECTURES
from pyconv.data import Preprocess
from pyconv.evaluate.__main__ import main

ROW = replace(ARCHITECTURES["pyconvresnet_tiny"], title="Small", in_channels=3, num_classes=1000)
PIXELS = Preprocess(28, 32)


def published(file_id: str, *claims: tuple[int, float]) -> Published:
    return Published(
        "small", file_id, 0, 0, 0.0, claims, "none", PIXELS, network=lambda: ResNet(ROW)
    )


class Small_Weights(WeightsEnum):
    """Two crops are claimed for the first; the others are there or not, as a test likes."""

    IMAGENET1K_V1 = published("1ImitationOfOne", (28, 90.0), (36, 40.0))
    IMAGENET1K_V2 = published("1ImitationOfTwo", (28, 50.0))
    IMAGENET1K_V3 = published("1ImitationOfThree", (28, 60.0))
    DEFAULT = IMAGENET1K_V2


def register() -> None:
    register_model("small", ROW, weights=Small_Weights)


if __name__ in ("__main__", "__mp_main__"):
    register()
if __name__ == "__main__":
    sys.exit(main())
