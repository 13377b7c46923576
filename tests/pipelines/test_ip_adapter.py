"""A picture as a prompt: an IP-Adapter on tiny real pipelines, made as its files are."""

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection
from torch import Tensor

from pipelines import APG, CFG, guided
from tests.families import CASES
from tests.families.case import denoisers
from tests.pipelines.stepwise import RULE, Sampler, far

NAMES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
WIDTH = 16  # of a picture's embedding


def weights(unet) -> dict[str, dict[str, Tensor]]:
    """An adapter's file: keys and values for each cross-attention, and the projection of a picture's embedding."""
    torch.manual_seed(1)
    text, attention = unet.config.cross_attention_dim, {}
    layers = [unet.get_submodule(name.removesuffix(".processor")) for name in unet.attn_processors]
    for i, layer in enumerate(layer for layer in layers if layer.is_cross_attention):
        own = IPAdapterAttnProcessor2_0(layer.inner_dim, text, num_tokens=(4,)).state_dict()
        attention |= {f"{2 * i + 1}.to_{part}_ip.weight": own[f"to_{part}_ip.0.weight"] for part in "kv"}
    projection = ImageProjection(WIDTH, text, num_image_text_embeds=4).state_dict()
    renamed = {name.replace("image_embeds", "proj"): value for name, value in projection.items()}
    return {"image_proj": renamed, "ip_adapter": attention}


def with_adapter(case, cls, number=1):
    pipe = case.pipeline(cls)
    names = {"subfolder": "", "weight_name": "", "image_encoder_folder": None}
    if number > 1:
        names |= {"subfolder": [""] * number, "weight_name": [""] * number}
    files = [weights(pipe.unet) for _ in range(number)]
    pipe.load_ip_adapter(files if number > 1 else files[0], **names)
    pipe.set_ip_adapter_scale([0.8] * number if number > 1 else 0.8)
    return pipe


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return next(case for case in CASES if case.stock == request.param)


@pytest.fixture(scope="module")
def pipe(case):
    return with_adapter(case, guided(case.stock_class))


NEGATIVE, POSITIVE = torch.randn(2, 1, 1, WIDTH, generator=torch.Generator().manual_seed(2))
BOTH = {"ip_adapter_image_embeds": [torch.cat([NEGATIVE, POSITIVE])]}


def test_plain_guidance_is_the_stock_result(case, pipe):
    stock = with_adapter(case, case.stock_class)
    assert torch.equal(case.draw(pipe, guidance=CFG(), **BOTH), case.draw(stock, **BOTH))
    other = {"ip_adapter_image_embeds": [torch.cat([NEGATIVE, -POSITIVE])]}
    assert far(case.draw(stock, **other), case.draw(stock, **BOTH)) > 1e-3  # the picture is seen


def test_the_rule_equals_the_formulas_in_float64(case, pipe):
    stock = with_adapter(case, case.stock_class)
    with Sampler(stock, case.w, **RULE).at_work(denoisers(stock)):
        want = case.draw(stock, (0, 1), **BOTH)
    assert far(case.draw(pipe, (0, 1), guidance=APG(**RULE), **BOTH), want) < 1e-4


def test_outside_its_interval_a_step_sees_the_picture_alone(case, pipe):
    never = case.draw(pipe, guidance=APG(interval=(0.99, 1.0)), **BOTH)
    unguided = case.draw(pipe, guidance_scale=1.0, ip_adapter_image_embeds=[POSITIVE])
    assert far(never, unguided) < 1e-4


def test_masks_are_those_of_adapters_and_not_of_samples(case):
    """Two adapters' masks have two rows, as have the two branches of one sample: they are not cut in half."""
    pipe = with_adapter(case, guided(case.stock_class), number=2)
    masks = torch.zeros(2, 1, 32, 32)
    masks[0, :, :16], masks[1, :, 16:] = 1, 1
    masked = {"cross_attention_kwargs": {"ip_adapter_masks": masks}}
    both = BOTH["ip_adapter_image_embeds"] * 2
    never = case.draw(pipe, guidance=APG(interval=(0.99, 1.0)), ip_adapter_image_embeds=both, **masked)
    unguided = case.draw(pipe, guidance_scale=1.0, ip_adapter_image_embeds=[POSITIVE] * 2, **masked)
    assert far(never, unguided) < 1e-4
    everywhere = {"cross_attention_kwargs": {"ip_adapter_masks": torch.ones(2, 1, 32, 32)}}
    other = case.draw(pipe, guidance_scale=1.0, ip_adapter_image_embeds=[POSITIVE] * 2, **everywhere)
    assert far(unguided, other) > 1e-4
