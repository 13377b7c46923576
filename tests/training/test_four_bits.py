"""A base whose linear layers rest in four bits, under an adapter that learns."""

import pytest
import torch

from pipelines import UserError
from pipelines.fingerprint import fingerprint, is_quantized
from tests.training.bases import made
from tests.training.test_loop import StopAfter, same
from training import Customization, customize, export, packages
from training.families import denoiser_of
from training.model import open_base, sampler
from training.optimizers.outlier import blocks_of, outlier_shares
from training.sampling import open_run


def in_four_bits(config: Customization, **tables: object) -> Customization:
    data = config.model_dump(by_alias=True)
    for table in ("adapter", "steps"):
        data[table] |= tables.pop(table, {})
    return Customization(**data | {"precision": "nf4"} | tables)


def test_a_package_that_is_missing_is_named_before_the_base_is_changed(base, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="precision is 'nf4', which needs the package bitsandbytes"):
        open_base(base, "nf4")


def test_weights_that_learn_are_not_put_into_four_bits(config):
    with pytest.raises(UserError, match="'nf4', in which weights cannot learn"):
        in_four_bits(config, adapter={"method": "full"}, optimizer={})


@pytest.fixture
def bitsandbytes():
    return pytest.importorskip("bitsandbytes")


def test_a_run_in_four_bits_goes_on_to_the_same_bits_and_its_file_is_for_the_whole_base(bitsandbytes, config, tmp_path):
    config = in_four_bits(config)
    run = customize(config, tmp_path / "run")
    customize(config, tmp_path / "stopped", should_stop=StopAfter(4))
    assert same(run, customize(config, tmp_path / "stopped"))
    whole = open_base(config.base)
    assert export.read(run.adapter)[1].base_hash == fingerprint(whole.unet)
    pipe, _ = open_run(run.folder)
    assert is_quantized(pipe.unet) and sampler(pipe) != sampler(whole)


@pytest.mark.parametrize("family", ["flux2-klein", "qwen-image"])
def test_blocks_of_a_transformer_rest_in_four_bits_and_say_nearly_the_same(bitsandbytes, tmp_path, family):
    made(family).save_pretrained(tmp_path / "base")
    whole, narrow = (denoiser_of(open_base(str(tmp_path / "base"), precision)) for precision in ("fp32", "nf4"))
    for name, block in blocks_of(narrow).items():
        for path, layer in block.named_modules():
            if isinstance(layer, torch.nn.Linear):
                was = whole.get_submodule(f"{name}.{path}")
                assert isinstance(layer, bitsandbytes.nn.Linear4bit)
                assert layer.weight.numel() == (was.weight.numel() + 1) // 2
                x = torch.randn(4, was.in_features, generator=torch.Generator().manual_seed(0))
                assert (layer(x) - was(x)).norm() < 0.15 * was(x).norm()


def test_outliers_are_looked_for_in_what_four_bits_stand_for(bitsandbytes, base):
    found = []
    for precision in ("fp32", "nf4"):
        unet = open_base(str(base), precision).unet
        x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        words = torch.randn(2, 7, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))
        shares = outlier_shares(blocks_of(unet), lambda unet=unet, x=x, words=words: unet(x, 500, words))
        found.append([share for threshold in shares.values() for share in threshold.values()])
    assert found[1] == pytest.approx(found[0], abs=0.02) and max(found[0]) > 0.02
