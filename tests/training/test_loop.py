import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from pipelines import UserError
from tests.tiny import TEXT_WIDTH, tiny_pipeline
from training import Customization, Run, checkpoint, customize, export, loop, sheet
from training.adapters import PartlyLearnable
from training.concepts import read_all_pictures
from training.draws import choose, keyed, stratified_timesteps
from training.loop import learning_rate_factor
from training.model import denoising_loss
from training.optimizers.settings import OPTIMIZERS
from training.plan import plan
from training.stages import BOTH, SHORT, Part, Stage
from training.state import State

TOTAL = 9  # steps of the project in conftest


def tensors(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.adapter)


def same(first: Run, second: Run) -> bool:
    a, b = tensors(first), tensors(second)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class StopAfter:
    """`should_stop` that lets so many steps pass."""

    def __init__(self, steps: int):
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_the_run_folder_holds_what_the_contract_says(finished):
    state = finished.read_state()
    assert (state["status"], state["stage"], state["step"], state["steps"]) == ("done", "export", TOTAL, TOTAL)
    assert state["pid"] == os.getpid()
    assert state["device"].endswith(("attention by pytorch", "attention by xformers"))
    entries = finished.read_metrics()
    assert [entry["step"] for entry in entries] == list(range(1, TOTAL + 1))
    assert [entry["stage"] for entry in entries] == ["content"] * 3 + ["style"] * 3 + ["make"] * 3
    assert {"steps", "loss", "seconds_per_step", "time_left"} <= entries[0].keys()
    assert entries[0]["losses"].keys() == {"content", "other styles"}
    assert finished.sheet.exists() and finished.config.exists() and finished.adapter.exists()
    assert len(list(finished.checkpoints.iterdir())) == checkpoint.KEEP


def test_nearly_all_halves_are_projected_and_the_run_says_so(finished):
    """In eight bits and by a share of the shorter side, where nothing else is said."""
    saved = checkpoint.read_last(finished.checkpoints)
    bases = sum(name.endswith(".basis") for name in checkpoint.under(saved.tensors, "optimizer."))
    halves = sum(len(checkpoint.under(saved.tensors, f"half.{concept}.")) for concept in ("content", "style"))
    assert saved.numbers["optimizer"]["groups"][0]["bits"] == 8 and bases >= 0.9 * halves > 0
    assert finished.read_state()["matrices"] == f"{halves} projected"


def test_both_halves_have_learned(finished):
    for key, value in tensors(finished).items():
        if key.endswith("lora_up.weight"):
            assert value[value.shape[0] // 2 :].any()
        if key.endswith("lora_down.weight"):
            assert value[:, value.shape[1] // 2 :].any()


@pytest.mark.parametrize("stop", [5, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (0, 1, 3, 8))])
def test_a_cancelled_run_goes_on_to_the_same_bits(config, tmp_path, finished, stop):
    run = customize(config, tmp_path / "run", should_stop=StopAfter(stop))
    assert run.status == "cancelled" and not run.adapter.exists()
    assert run.read_state()["pid"] == os.getpid()
    run = customize(config, tmp_path / "run")
    assert run.status == "done" and same(run, finished)
    assert [entry["step"] for entry in run.read_metrics()] == list(range(1, TOTAL + 1))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(config, project, tmp_path, finished):
    script = (
        "import os, signal, sys; from training import Customization, customize\n"
        "import torch; torch.set_num_threads(1)\n"
        "def kill(entry):\n"
        "    if entry['step'] == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "customize(Customization.load(sys.argv[1]), sys.argv[2], progress=kill)"
    )
    run = Run(tmp_path / "run")
    done = subprocess.run([sys.executable, "-c", script, project, run.folder], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert run.status == "running" and checkpoint.read_last(run.checkpoints).step == 4
    assert same(customize(config, run.folder), finished)


@pytest.mark.slow
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on(config, tmp_path, finished, monkeypatch):
    write = checkpoint.write_bytes

    def killed(path, data, lasting=True):
        if path.name == "manifest.json" and "000006" in str(path):
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        customize(config, tmp_path / "run")
    assert Run(tmp_path / "run").status == "cancelled"
    monkeypatch.undo()
    assert same(customize(config, tmp_path / "run"), finished)


def test_a_broken_checkpoint_costs_steps_and_nothing_else(config, tmp_path, finished, caplog):
    caplog.set_level("INFO", "joinery")
    run = customize(config, tmp_path / "run", should_stop=StopAfter(5))
    newest = max(run.checkpoints.iterdir())
    (newest / "state.safetensors").write_bytes(b"broken")
    assert same(customize(config, run.folder), finished)
    assert "step-000005 is broken" in caplog.text and "Going on after step 4" in caplog.text


def test_a_done_run_is_done_again_at_once(config, tmp_path, finished):
    shutil.copytree(finished.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.config.unlink()  # its paths are those of the other project
    run.adapter.unlink()
    steps = []
    customize(config, run.folder, progress=steps.append)
    assert steps == [] and same(run, finished)


def test_make_may_be_left_out(config, tmp_path):
    config.steps.make = 0
    run = customize(config, tmp_path / "run")
    assert run.status == "done" and run.read_metrics()[-1]["stage"] == "style"
    learned = tensors(run)
    for key, up in learned.items():
        if key.endswith("lora_up.weight"):
            B, D = up[up.shape[0] // 2 :], learned[key.replace("lora_up", "lora_down")]
            assert B.any() and not (B.flatten(1) @ D[:, D.shape[1] // 2 :].flatten(1)).any()  # they meet in make only


@pytest.mark.slow
def test_make_preconditions_unless_told_not_to(config, tmp_path, finished):
    config.make.precondition = False
    plain = customize(config, tmp_path / "run")
    ends = [[entry["losses"] for entry in run.read_metrics()] for run in (finished, plain)]
    assert ends[0][:6] == ends[1][:6] and not same(plain, finished)


@pytest.mark.slow
def test_strips_grow_while_it_trains_and_change_nothing(config, tmp_path, finished):
    config.samples.every = 2
    run = customize(config, tmp_path / "run")
    assert sorted(path.name for path in run.samples.iterdir()) == [
        "sheet.png",
        *(f"step-{step:06d}.png" for step in (2, 4, 6, 8)),
    ]
    assert same(run, finished)


def test_samples_are_drawn_when_asked_for_and_change_nothing(config, tmp_path, finished):
    run, doing = Run(tmp_path / "run"), []

    def ask(entry: dict) -> None:
        doing.append(run.read_state()["doing"])
        if entry["step"] == 3:
            run.ask_for_sample()

    config.samples.every = 0
    customize(config, run.folder, progress=ask)
    assert [path.name for path in run.samples.glob("step-*")] == ["step-000003.png"]
    assert same(run, finished) and set(doing) == {""} and not run.take_sample_asked()


def test_another_customization_is_refused_in_the_same_folder(config, tmp_path):
    run = customize(config, tmp_path / "run", should_stop=StopAfter(1))
    config.seed += 1
    with pytest.raises(UserError, match="holds another customization"):
        customize(config, run.folder)


def test_changed_pictures_are_noticed(config, tmp_path):
    run = customize(config, tmp_path / "run", should_stop=StopAfter(1))
    (tmp_path / "style" / "picture-0.txt").write_text("another caption")
    with pytest.raises(UserError, match="have changed since"):
        customize(config, run.folder)
    assert run.status == "failed" and "have changed" in run.read_state()["message"]


HOLD = (
    "import sys, time; from training import Run; from pathlib import Path\n"
    "with Run(Path(sys.argv[1])).writing(): print('held', flush=True); time.sleep(60)"
)


def test_two_processes_do_not_train_one_run(config, tmp_path):
    """Whatever the clock, pids or the state say: the lock is the kernel's, and is there before the folder."""
    run = Run(tmp_path / "runs/run")
    other = subprocess.Popen([sys.executable, "-c", HOLD, run.folder], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n" and run.written and not run.folder.exists()
        with pytest.raises(UserError, match="is being trained by another process"):
            customize(config, run.folder)
        assert not run.folder.exists()
    finally:
        other.kill()
        other.wait()
    assert not run.written
    with run.writing(), pytest.raises(UserError, match="by another process"), Run(run.folder).writing():
        pass


def test_a_look_at_a_run_does_not_keep_it_from_starting(config, tmp_path):
    run, ended = Run(tmp_path / "run"), threading.Event()

    def look() -> None:
        while not ended.is_set():
            run.written  # noqa: B018

    with ThreadPoolExecutor() as threads:
        looks = [threads.submit(look) for _ in range(3)]
        for _ in range(20):
            with run.writing():
                pass
        ended.set()
        assert all(one.result() is None for one in looks)


@pytest.mark.slow
def test_a_request_in_the_folder_stops_a_run_as_one_in_the_process_does(config, tmp_path, finished):
    run = Run(tmp_path / "run")

    def ask(entry: dict) -> None:
        if entry["step"] == 4:
            run.ask_to_stop()

    customize(config, run.folder, progress=ask)
    assert (run.status, run.read_state()["step"]) == ("cancelled", 4) and not run.stop_asked
    assert same(customize(config, run.folder), finished)


@pytest.mark.slow
def test_a_run_that_is_stopped_while_it_draws_goes_on_to_the_same_bits(config, tmp_path, finished):
    """In the strip after a step, and in the sheet at the end."""
    config.samples.every = 2
    stopped = {"strip": lambda run: run.read_state()["step"] == 2, "sheet": lambda run: run.adapter.exists()}
    for name, reached in stopped.items():
        run = Run(tmp_path / name)
        customize(config, run.folder, should_stop=lambda reached=reached, run=run: reached(run))
        assert run.status == "cancelled" and not run.sheet.exists()
        assert not list(run.samples.glob("step-000002.png")) or name == "sheet"
        assert same(customize(config, run.folder), finished) and run.sheet.exists()
        assert [path.name for path in sorted(run.samples.glob("step-*"))] == [
            f"step-00000{i}.png" for i in (2, 4, 6, 8)
        ]


@pytest.mark.slow
def test_a_configuration_that_a_kill_cut_off_does_not_lock_the_run_out(config, tmp_path, finished):
    run = customize(config, tmp_path / "run", should_stop=StopAfter(5))
    for left in (b"", b"\0" * 100):
        run.config.write_bytes(left)
        run = customize(config, tmp_path / "run", should_stop=StopAfter(1))
        assert run.status == "cancelled" and run.read_state()["step"] > 5
    assert same(customize(config, tmp_path / "run"), finished)


def test_the_configuration_is_whole_at_every_moment(config, tmp_path, monkeypatch):
    run = customize(config, tmp_path / "run", should_stop=StopAfter(0))
    before = run.config.read_bytes()
    config.steps.checkpoint_every = 3

    def killed(source: str, target: str) -> None:
        raise KeyboardInterrupt if Path(target) == run.config else AssertionError(target)

    monkeypatch.setattr(checkpoint.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        customize(config, run.folder)
    assert run.config.read_bytes() == before


def test_what_killed_writers_left_is_removed(config, tmp_path):
    run = customize(config, tmp_path / "run", should_stop=StopAfter(1))
    left = [run.folder / ".state.json.99.tmp", run.samples / ".sheet.png.7.tmp", run.checkpoints / ".step-000004.tmp/x"]
    left[-1].parent.mkdir()
    for path in left:
        path.write_text("half")
    customize(config, run.folder, should_stop=StopAfter(1))
    assert not list(run.folder.rglob(".*.tmp"))


@pytest.mark.parametrize(
    "writes", ["state.json", *(pytest.param(one, marks=pytest.mark.slow) for one in ("metrics.jsonl", "config.toml"))]
)
def test_a_disk_without_a_byte_left_is_a_sentence_and_loses_nothing(config, tmp_path, finished, monkeypatch, writes):
    def full(path: Path, mode: str = "r", *args: object, **kwargs: object) -> IO:
        if writes in Path(path).name and mode != "rb" and active:
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(path, mode, *args, **kwargs)

    active = False
    run = customize(config, tmp_path / "run", should_stop=StopAfter(3))
    monkeypatch.setattr(checkpoint, "open", full, raising=False)
    active = True
    with pytest.raises(UserError, match=rf"{writes} could not be written \(No space left on device\)"):
        customize(config, run.folder)
    active = False
    assert same(customize(config, run.folder), finished)


def test_a_full_disk_is_refused_before_the_start(config, tmp_path, monkeypatch):
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    with pytest.raises(UserError, match="MB are free"):
        customize(config, tmp_path / "run")
    assert Run(tmp_path / "run").status == "new" and not list(tmp_path.glob("run/*.*"))


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing(config, tmp_path, finished, monkeypatch):
    def fill(entry):
        if entry["step"] == 5:
            usage = namedtuple("Usage", "total used free")
            monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage(1, 1, 1000))

    with pytest.raises(UserError, match="MB are free"):
        customize(config, tmp_path / "run", progress=fill)
    monkeypatch.undo()
    assert same(customize(config, tmp_path / "run"), finished)


@pytest.mark.slow
def test_a_write_that_fails_half_way_loses_nothing(config, project, tmp_path, finished):
    """Files may not grow beyond a limit that the next checkpoint passes: the same as a disk that fills up meanwhile."""
    script = (
        "import resource, signal, sys; from training import Customization, UserError, customize\n"
        "import torch; torch.set_num_threads(1)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def limit(entry):\n"
        "    if entry['step'] == 5: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "try: customize(Customization.load(sys.argv[1]), sys.argv[2], progress=limit)\n"
        "except UserError as error: print(error); sys.exit(2)"
    )
    run = Run(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", script, project, run.folder], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "could not be written (File too large)" in done.stdout, done.stderr
    assert run.status == "failed" and checkpoint.read_last(run.checkpoints).step == 4
    assert not list(run.folder.rglob("*.tmp/*.tmp"))
    assert same(customize(config, run.folder), finished)


@pytest.mark.parametrize("what", ["loss", pytest.param("gradient", marks=pytest.mark.slow)])
def test_what_is_no_number_is_named_and_never_saved(config, tmp_path, monkeypatch, finished, what):
    loop, begun = sys.modules["training.loop"], []
    loss = loop.denoising_loss

    def spoilt(*arguments) -> torch.Tensor:
        value = loss(*arguments)
        begun.append(1)
        if len(begun) > 2 * 4:  # two losses a step
            if what == "loss":
                return value * float("nan")
            value.register_hook(lambda gradient: gradient * float("nan"))
        return value

    monkeypatch.setattr(loop, "denoising_loss", spoilt)
    with pytest.raises(
        UserError, match=rf"The {what} at step 5 is not a finite number \(it learned from picture-\d.png"
    ):
        customize(config, tmp_path / "run")
    monkeypatch.undo()
    assert checkpoint.read_last(Run(tmp_path / "run").checkpoints).step == 4
    assert same(customize(config, tmp_path / "run"), finished)


def test_a_learned_number_that_is_none_is_neither_saved_nor_exported(config, tmp_path, monkeypatch):
    loop = sys.modules["training.loop"]
    step = loop.train_step

    def spoilt(work, state, stage) -> dict[str, float]:
        found = step(work, state, stage)
        if state.step == 3:
            with torch.no_grad():
                work.adapter.parameters("style")[0][0, 0] = float("inf")
        return found

    monkeypatch.setattr(loop, "train_step", spoilt)
    with pytest.raises(UserError, match=r"What the style has learned in \S+ is not finite at step 4"):
        customize(config, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert checkpoint.read_last(run.checkpoints).step == 3 and not run.adapter.exists()


@pytest.mark.parametrize("name", ["nowhere/at-all/or-so", "missing.safetensors"])
def test_a_missing_base_is_told(config, tmp_path, name):
    config.base = name
    with pytest.raises(UserError, match="neither a folder, nor a file, nor a hub model"):
        customize(config, tmp_path / "run")


@pytest.mark.parametrize("method", ["plp", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "own, prompt", [("content", "sks koala"), pytest.param("style", "dog face, zwx style", marks=pytest.mark.slow)]
)
def test_one_concept_alone_can_be_learned(config, tmp_path, own, prompt, method):
    setattr(config, "style" if own == "content" else "content", None)
    config.adapter.method = method
    config.samples.every = 2
    run = customize(config, tmp_path / "run", should_stop=StopAfter(2))
    assert run.status == "cancelled"
    run = customize(config, tmp_path / "run")
    assert {entry["stage"] for entry in run.read_metrics()} == {own} and run.status == "done"
    assert config.sample_prompt == prompt and Customization.load(run.config).concepts.keys() == {own}
    factors, card = export.read(run.adapter)
    assert card.placeholders.keys() == {own}
    up, down = next(iter(factors.values()))
    learned = {"content": down[:, down.shape[1] // 2 :], "style": up[up.shape[0] // 2 :]}
    if method == "plp":
        assert [concept for concept, half in learned.items() if half.any()] == [own]
    strip = Image.open(run.samples / "step-000002.png")
    assert strip.width == sheet.LABEL + 2 * sheet.CELL  # base, and what was learned


def test_the_plan_is_break_for_make(config):
    content, style, make = plan(config)
    assert content.parts == (Part("content", 2, ("content",), SHORT), Part("other styles", 1, ("style",)))
    assert style.parts == (Part("style", 2, ("style",)), Part("other contents", 1, ("content",)))
    assert content.rates == {"content": config.optimizer.lr, "style": config.optimizer.lr * config.optimizer.weak}
    assert {part.concept: part.moves for part in make.parts} == dict.fromkeys(
        ("content", "style"), ("content", "style")
    )
    assert [stage.first for stage in (content, style, make)] == [0, 3, 6]


def test_pictures_are_mirrored_and_captions_shortened_where_asked(config):
    config.content.caption = "{placeholder} {class_word}, red style"
    found = read_all_pictures(config)
    assert (len(found["content"]), len(found["style"]), len(found["other styles"])) == (3, 6, 3)
    pictures, mirrored = found["style"][:3], found["style"][3:]
    for one, other in zip(pictures, mirrored, strict=True):
        assert other.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) == one.image != other.image
    assert Counter(p.caption for p in found[SHORT]) == {"sks koala, red style": 3, "sks koala": 3}
    config.content.variants = {"sepia style": "sepia", "in grey": "grey"}
    varied = read_all_pictures(config)
    drawn = Counter(p.caption for p in varied["content"])
    assert drawn == {"sks koala, red style": 3, "sks koala, sepia style": 3, "sks koala, in grey": 3}
    assert Counter(p.caption for p in varied[SHORT]) == drawn + Counter({"sks koala": 3})
    config.content.variants = {}
    assert plan(config)[2].parts[0].pictures == ""  # make reads the full captions
    config.content.short_captions, config.style.mirror = False, False
    found = read_all_pictures(config)
    assert len(found["style"]) == 3 and SHORT not in found and plan(config)[0].parts[0].pictures == ""


@pytest.mark.parametrize("count, size", [(1, 1), (2, 3), (4, 3), (7, 3), (3, 10)])
def test_every_picture_comes_once_before_one_comes_again(count, size):
    steps = [choose(0, "content", "content", k, count, size) for k in range(2 * size)]
    assert all(torch.equal(steps[k], choose(0, "content", "content", k, count, size)) for k in range(2 * size))
    flat = torch.cat(steps).tolist()
    for epoch in range(len(flat) // size):
        assert Counter(flat[epoch * size : (epoch + 1) * size]) == Counter(range(size))


def test_keys_make_different_generators():
    keys = [(0, "content", 1), (1, "content", 1), (0, "style", 1), (0, "content", 2)]
    assert len({torch.rand(1, generator=keyed(*key)).item() for key in keys}) == len(keys)


def test_timesteps_come_one_from_each_stretch():
    timesteps = stratified_timesteps(8, 1000, keyed(0))
    assert sorted((timesteps // 125).tolist()) == list(range(8))
    some = stratified_timesteps(8, 1000, keyed(0), (0.2, 0.6))
    assert sorted(((some - 200) // 50).tolist()) == list(range(8))


def test_learning_rate_warms_up_and_falls_to_nothing():
    factors = [learning_rate_factor(k, 100) for k in range(100)]
    assert factors[0] == pytest.approx(0.1) and max(factors) > 0.95 and 0 < factors[-1] < 1e-3


@pytest.mark.parametrize("steps", [1, 3, 8, 20, 39])
def test_a_short_stage_is_not_spent_on_warming_up(steps):
    assert max(learning_rate_factor(k, steps) for k in range(steps)) > 0.8


def test_each_stage_draws_its_own_blocks_and_says_which_have_no_turn(config, tmp_path, caplog):
    config.optimizer = OPTIMIZERS["owlore"](lr=1e-2, active=1, every=2)
    caplog.set_level("WARNING", "joinery")
    drawn: dict[str, list] = {}

    def look(work: object, state: State, stage: Stage) -> dict[str, float]:
        found = step(work, state, stage)
        drawn[stage.name] = [state.sampler.draw(number) for number in range(8)]
        return found

    loop = sys.modules["training.loop"]
    step = loop.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", look)
        customize(config, tmp_path / "run")
    assert len({str(blocks) for blocks in drawn.values()}) == len(drawn) == 3
    assert "have no turn in the content stage's 3 steps" in caplog.text


@pytest.mark.slow
def test_in_fp16_the_loss_is_scaled_and_the_steps_are_those_of_fp32(config, tmp_path, monkeypatch):
    def learned(name: str, precision: str) -> torch.Tensor:
        """Of the content, in two steps."""
        config.precision = precision
        run = customize(config, tmp_path / name, should_stop=StopAfter(2))
        halves = checkpoint.under(checkpoint.read_last(run.checkpoints).tensors, "half.content.")
        return torch.cat([halves[key].flatten() for key in sorted(halves)])

    exact, half = learned("a", "fp32"), learned("b", "fp16")
    assert torch.cosine_similarity(half, exact, 0) > 0.99 and not torch.equal(half, exact)
    monkeypatch.setattr(loop, "LOSS_SCALE", 2.0**-20)  # then they vanish
    assert torch.cosine_similarity(learned("c", "fp16"), exact, 0) < 0.9


def test_accumulated_batches_make_the_step_of_one_large_batch(config, tmp_path):
    config.steps.make = 0
    config.steps.batch_size, config.steps.others_batch_size = 4, 2
    whole = customize(config, tmp_path / "whole")
    config.steps.batch_size, config.steps.others_batch_size, config.steps.accumulation = 2, 1, 2
    parts = customize(config, tmp_path / "parts")
    for one, other in zip(whole.read_metrics(), parts.read_metrics(), strict=True):
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-4)


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_bits_and_may_be_switched_on_the_way(config, tmp_path, finished):
    assert customize(config, tmp_path / "run", should_stop=StopAfter(2)).status == "cancelled"
    config.steps.gradient_checkpointing = True
    assert same(customize(config, tmp_path / "run"), finished)


def test_gradient_checkpointing_keeps_less_for_the_backward_pass():
    def kept(checkpointing: bool) -> int:
        unet, sizes = tiny_pipeline().unet, []
        if checkpointing:
            unet.enable_gradient_checkpointing()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            unet(torch.randn(1, 4, 16, 16), torch.tensor([3]), torch.randn(1, 77, TEXT_WIDTH))
        return sum(sizes)

    assert kept(True) < kept(False) / 2


def test_the_loss_falls(config, tmp_path):
    config.steps = config.steps.model_copy(update={"break_": 40, "make": 0, "batch_size": 4, "checkpoint_every": 100})
    config.optimizer.lr = 2e-2
    config.optimizer.weak = 0
    run = customize(config, tmp_path / "run", should_stop=StopAfter(40))
    losses = [entry["loss"] for entry in run.read_metrics()]
    assert sum(losses[-8:]) < sum(losses[:8])


@pytest.mark.parametrize(
    "adapter",
    [{}, {"content_half": "up"}, {"split": "rank"}, {"layers": "all", "content_in": "words", "style_in": "not words"}],
)
def test_lora_plus_gives_the_up_factors_a_higher_rate(config, adapter):
    config.optimizer = {"name": "lora-plus", "lr": 1e-2, "ratio": 8}
    config.adapter = adapter | {"rank": 4}
    unet = tiny_pipeline().unet
    on = PartlyLearnable.attach(unet, config.adapter)
    higher = {p for name, p in unet.named_parameters() if "lora_B" in name and p.requires_grad}
    for concept in BOTH:
        learned = on.parameters(concept)
        groups = config.optimizer.groups(learned, on.in_up_factors(concept), 1e-2)
        rates = {p: group["lr"] for group in groups for p in group["params"]}
        assert rates == {p: 8e-2 if p in higher else 1e-2 for p in learned}
        one_factor = adapter.get("split") != "rank" and "layers" not in adapter
        assert len(groups) == (1 if one_factor else 2)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_every_family_is_customized_in_every_precision(config, tmp_path, family, precision):
    tiny_pipeline(family).save_pretrained(tmp_path / "base")
    config.base, config.precision = str(tmp_path / "base"), precision
    config.steps = config.steps.model_copy(update={"break_": 1, "make": 1})
    run = customize(config, tmp_path / "run")
    assert run.status == "done" and {value.dtype for value in tensors(run).values()} == {torch.float32}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_the_prediction_type(prediction):
    pipe = tiny_pipeline(prediction_type=prediction)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    timesteps = torch.tensor([20, 900])
    prompt = {"encoder_hidden_states": torch.randn(2, 5, pipe.unet.config.cross_attention_dim, generator=generator)}
    a = pipe.scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    s = (1 - a**2).sqrt()
    target = {"epsilon": noise, "v_prediction": a * noise - s * latents, "sample": latents}[prediction]
    output = pipe.unet(a * latents + s * noise, timesteps, **prompt).sample
    loss = denoising_loss(pipe, latents, prompt, noise, timesteps)
    torch.testing.assert_close(loss, (output - target).square().mean())
