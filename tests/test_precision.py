"""The pretraining's number format follows what the processor computes in hardware."""

import pytest
import torch

from foodseg.kitchen.pretraining.precision import autocast_dtype


@pytest.mark.parametrize("hardware, dtype", [(True, torch.bfloat16), (False, None)])
def test_a_cpu_gets_bfloat16_only_if_it_has_it(monkeypatch, hardware, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: hardware)
    assert autocast_dtype(torch.device("cpu")) is dtype
