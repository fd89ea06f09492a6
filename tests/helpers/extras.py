"""What tests of PyTorch modules need beside torch."""

import importlib.util

import pytest


def need_torchax() -> None:
    """Skip the module, or the test, where torchax is missing; the bridge imports it, older ones with stand-ins."""
    if importlib.util.find_spec("torchax") is None:
        pytest.skip("torchax is an extra; install scaling-exponents[torch]", allow_module_level=True)
