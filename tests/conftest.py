"""Strict settings for the whole suite, and the small corpus that tests share.

The environment is set before jax is imported: eight fake CPU devices, and
NPROC=16 because XLA sizes its thread pool by it; with fewer threads than fake
devices, queued steps wait for each other for ever.
"""

import os

os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("odqa_jax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
  """Real public data kept beside the checkout; absent on most machines."""
  if not SHARED_DATA.is_dir():
    pytest.skip(f"no development data at {SHARED_DATA}")
  return SHARED_DATA
