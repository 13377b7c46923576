"""Guided classes by name, and the thin files for diffusers' own door."""

import importlib.util
import inspect
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

import pipelines
from pipelines import CFG, UserError, guided
from pipelines.guided_pipeline import GuidedMixin, stock_class
from tests.families import CASES
from tests.families.case import denoisers
from tests.pipelines.stepwise import RULE, far

FILES = sorted((Path(pipelines.__file__).parent / "custom").glob("*.py"))
FIRST = {case.stock: case for case in reversed(CASES)}


@pytest.mark.parametrize("case", FIRST.values(), ids=FIRST)
def test_every_class_has_a_name(case):
    if case.needs:
        pytest.importorskip(case.needs)
    named = getattr(pipelines, f"APG{case.stock}")
    assert named is guided(case.stock_class) and named.__name__ == f"APG{case.stock}"


def test_a_name_of_no_class_is_no_attribute():
    assert not hasattr(pipelines, "APGNothing") and not hasattr(pipelines, "nothing")
    with pytest.raises(UserError, match="distilled"):
        pipelines.APGFluxFillPipeline  # noqa: B018


def loaded(file: Path) -> type[DiffusionPipeline]:
    """The one pipeline class of a file, as diffusers looks for it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (cls,) = (
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, DiffusionPipeline) and not cls.__module__.startswith("diffusers.")
    )
    return cls


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_thin_file_holds_one_guided_class(file):
    cls = loaded(file)
    assert issubclass(cls, GuidedMixin)
    case = FIRST[stock_class(cls).__name__]
    if case.slow:
        return
    rule = pipelines.APG(**RULE)
    expected = case.draw(case.pipeline(guided(case.stock_class)), guidance=rule)
    assert torch.equal(case.draw(case.pipeline(cls), guidance=rule), expected)


@pytest.mark.parametrize("name", ["stable_diffusion_xl", "stable_diffusion_3", "flux", "wan"])
def test_a_saved_folder_opens_as_stock_as_ours_and_by_the_thin_file(name, tmp_path):
    file = next(file for file in FILES if file.stem == f"apg_{name}")
    case = FIRST[stock_class(loaded(file)).__name__]
    ours = case.pipeline(guided(case.stock_class))
    ours.save_pretrained(tmp_path)
    absent = {name: None for name, part in ours.components.items() if part is None}
    plain, drawn = case.draw(ours, guidance=CFG()), case.draw(ours)
    doors = [
        (DiffusionPipeline, {}, plain),
        (guided(case.stock_class), {}, drawn),
        (DiffusionPipeline, {"custom_pipeline": str(file), "trust_remote_code": True}, drawn),
    ]
    for cls, arguments, want in doors:
        pipe = cls.from_pretrained(tmp_path, **absent, **arguments)
        pipe.set_progress_bar_config(disable=True)
        assert far(case.draw(pipe), want) < 1e-5  # read from a file, weights lie otherwise in memory
    stock = case.stock_class.from_pipe(ours)
    back = guided(case.stock_class).from_pipe(stock)
    assert denoisers(stock)[0] is denoisers(back)[0] is denoisers(ours)[0]
    assert torch.equal(case.draw(stock), plain) and torch.equal(case.draw(back), drawn)
