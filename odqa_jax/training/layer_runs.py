"""How the layers of a network are run: in a loop or not, and what is kept.

`scan` and `remat` of `config.model` and `config.reader` may be "auto". What is
best depends on the device. On a GPU a loop copies what its layers keep for
their gradients; they are written out one after another, and compute nothing
again where there is room for it, as `training.fitting` finds out. Elsewhere a
loop compiles faster, and what a layer keeps is decided here: of the retriever
the dense products, of the reader, whose inputs are many times longer, nothing;
of neither anything, where that alone fits.
"""

from typing import Any

import jax

from odqa_jax.runtime.settings import AUTO, ModelSettings, ReaderSettings

# From nothing computed again to everything, as `layers.REMAT_POLICIES` has it.
LEVELS = ("none", "dots", "full")


def unrolled(platform: str) -> bool:
  """Whether `scan="auto"` writes layers out on a platform."""
  return platform in ("gpu", "cuda")


def layer_run(
  block: ModelSettings | ReaderSettings, platform: str = ""
) -> dict[str, Any]:
  """`scan` and `remat` of a network's config.

  Args:
    block: of the settings.
    platform: what the programs are for; "" means JAX's default backend.
  """
  platform = platform or jax.default_backend()
  kept = "dots" if isinstance(block, ModelSettings) else "full"
  return {
    "scan": not unrolled(platform) if block.scan == AUTO else block.scan,
    "remat": kept if block.remat == AUTO else block.remat,
  }
