"""Quantized weights, by those of diffusers' backends that are installed and compute without a GPU."""

import diffusers
import pytest
import torch

from pipelines import APG, CFG, guided
from tests.families import CASES
from tests.families.case import lively
from tests.pipelines.stepwise import RULE, Sampler, far

CASE = next(case for case in CASES if case.stock == "StableDiffusion3Pipeline")
WIDER = {"attention_head_dim": 32, "caption_projection_dim": 64}  # some take blocks of 32 weights


def torchao():
    quantization = pytest.importorskip("torchao.quantization")
    return diffusers.TorchAoConfig(quantization.Int8WeightOnlyConfig())


def quanto():
    pytest.importorskip("optimum.quanto")
    return diffusers.QuantoConfig(weights_dtype="int8")


def sdnq():
    return pytest.importorskip("sdnq").SDNQConfig(weights_dtype="int8")


@pytest.mark.parametrize("backend", [torchao, quanto, sdnq])
def test_quantized_weights_carry_a_rule(backend, tmp_path):
    settings = backend()
    stock, pipe = (CASE.pipeline(cls) for cls in (CASE.stock_class, guided(CASE.stock_class)))
    cls = type(stock.transformer)
    whole = lively(cls.from_config({**stock.transformer.config, **WIDER}))
    whole.save_pretrained(tmp_path)
    stock.transformer = pipe.transformer = whole
    exact = CASE.draw(pipe, guidance=APG(**RULE))
    stock.transformer = pipe.transformer = cls.from_pretrained(
        tmp_path, quantization_config=settings, dtype=torch.float32
    )
    assert torch.equal(CASE.draw(pipe, guidance=CFG()), CASE.draw(stock))
    got = CASE.draw(pipe, guidance=APG(**RULE))
    with Sampler(stock, CASE.w, **RULE).at_work([stock.transformer]):
        assert far(got, CASE.draw(stock)) < 1e-4
    assert 1e-4 < far(got, exact) < 0.1
    shared = guided(CASE.stock_class).from_pipe(stock)
    shared.set_progress_bar_config(disable=True)
    assert torch.equal(CASE.draw(shared, guidance=APG(**RULE)), got)
