"""The choice of attention kernels."""

import logging
from unittest.mock import PropertyMock

import pytest
import torch

import pipelines.attention as attention
from pipelines import APGStableDiffusionPipeline, UserError, set_attention
from tests.tiny import tiny_pipeline


@pytest.fixture
def pipe(monkeypatch):
    pipe = tiny_pipeline(APGStableDiffusionPipeline)
    pipe.switched = []
    monkeypatch.setattr(pipe, "enable_xformers_memory_efficient_attention", lambda: pipe.switched.append(True))
    return pipe


def test_without_a_gpu_pytorch_s_own_attention_is_used_and_said(pipe, caplog):
    with caplog.at_level(logging.INFO, "joinery"):
        assert set_attention(pipe, "auto") == "pytorch"
    assert not pipe.switched
    assert "Attention by pytorch (no NVIDIA GPU)" in caplog.text


@pytest.mark.parametrize("trouble, expected", [("", "xformers"), ("xformers: NotImplementedError", "pytorch")])
def test_on_a_gpu_the_trial_decides_also_while_the_pipeline_is_offloaded(pipe, monkeypatch, caplog, trouble, expected):
    assert pipe.device.type == "cpu"
    monkeypatch.setattr(type(pipe), "_execution_device", PropertyMock(return_value=torch.device("cuda")))
    monkeypatch.setattr(attention, "_why_not_xformers", lambda: trouble)
    with caplog.at_level(logging.INFO, "joinery"):
        assert set_attention(pipe, "auto") == expected
    assert bool(pipe.switched) == (expected == "xformers")
    assert trouble in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="where a GPU is, the trial may well succeed")
def test_a_trial_that_cannot_run_gives_its_reason():
    assert attention._why_not_xformers().startswith("xformers: ")


def test_what_is_asked_for_and_cannot_run_is_refused(pipe):
    with pytest.raises(UserError, match="xformers was asked for"):
        set_attention(pipe, "xformers")
    assert set_attention(pipe, "pytorch") == "pytorch"
