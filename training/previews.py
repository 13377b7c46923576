"""What a run shows while it trains and at its end: equal seeds of the base, each concept alone, and both joined."""

from collections.abc import Callable, Set
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image

from pipelines import CFG, GuidanceRule
from training.adapters import Adapter
from training.config import Customization
from training.model import encoders_at_hand
from training.plan import SCALES, prompt_of
from training.run import Run
from training.sheet import compose, draw, save, stack
from training.stages import BOTH, Stage

SEEDS = (0, 1, 2, 3)
GUIDANCE_SCALES = (2.0, 4.0, 8.0, 12.0)  # at which the final sheet shows CFG above APG


def _needs(column: str) -> set[str]:
    """The concepts that a column shows."""
    return {concept for concept, scale in zip(BOTH, SCALES[column], strict=True) if scale}


class Previews:
    """The sheets of one run: strips while it trains, and one of what it has learned.

    `should_stop` is asked after every step of a drawing; a stopped one raises `Stopped`.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        adapter: Adapter,
        config: Customization,
        run: Run,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        self.pipe, self.adapter, self.config, self.run, self.should_stop = pipe, adapter, config, run, should_stop
        self.columns: dict[str, list[Image.Image]] = {}  # the newest pictures of each column

    def draw(self, stage: Stage, step: int, done: dict[str, dict]) -> None:
        """Write `samples/step-000100.png` with every column that exists by now.

        Args:
            done: the learned factors with which earlier stages ended; the adapter itself is left as it was.
        """
        with self.adapter.put_back() as now:
            shown = done | {concept: now[concept] for concept in stage.teaches}
            for column in SCALES:
                changed = not _needs(column).isdisjoint(stage.teaches)
                if _needs(column) <= shown.keys() and (changed or column not in self.columns):
                    for concept in now:
                        self.adapter.load(concept, shown.get(concept))
                    self.columns[column] = self._pictures(column)
        title = f"{stage.name}, step {step}: {self.config.sample_prompt}"
        save(self._compose(title), self.strip(step))

    def strip(self, step: int) -> Path:
        return self.run.samples / f"step-{step:06d}.png"

    def finish(self, learned: Set[str]) -> None:
        """Write `samples/sheet.png` of what was learned: each column's seeds, then one of them with CFG above APG.

        Below them are the project's other prompts, whose pictures are kept in full size too.
        """
        self.columns = {column: self._pictures(column) for column in SCALES if _needs(column) <= learned}
        prompt, rules = self.config.sample_prompt, {}
        for rule in (CFG(), self.pipe.guidance):
            pictures = [self._draw(prompt, SEEDS[:1], scale, rule)[0] for scale in GUIDANCE_SCALES]
            rules[type(rule).__name__] = pictures
        below = compose(rules, "", [f"guidance scale {scale:g}" for scale in GUIDANCE_SCALES])
        sheets = [self._compose(prompt), below]
        for number, prompt in enumerate(self.config.samples.prompts, 1):
            pictures = self._draw(prompt, SEEDS, self.config.samples.guidance_scale)
            for seed, picture in zip(SEEDS, pictures, strict=True):
                save(picture, self.run.samples / f"prompt-{number}-seed-{seed}.png")
            sheets.append(compose({"joined": pictures}, prompt))
        save(stack(sheets), self.run.sheet)

    def _pictures(self, column: str) -> list[Image.Image]:
        content, style = SCALES[column]
        self.adapter.set_scales(content, style)
        try:
            prompt = prompt_of(column, self.config.sample_prompt, self.config.concepts)
            return self._draw(prompt, SEEDS, self.config.samples.guidance_scale)
        finally:
            self.adapter.set_scales()

    def _draw(
        self, prompt: str, seeds: tuple[int, ...], scale: float, rule: GuidanceRule | None = None
    ) -> list[Image.Image]:
        resolution, steps = self.config.resolution, self.config.samples.inference_steps
        with encoders_at_hand(self.pipe):
            return draw(self.pipe, prompt, seeds, resolution, scale, steps, rule, should_stop=self.should_stop)

    def _compose(self, title: str) -> Image.Image:
        columns = [column for column in SCALES if column in self.columns]
        rows = zip(*(self.columns[column] for column in columns), strict=True)
        return compose({f"seed {seed}": list(row) for seed, row in zip(SEEDS, rows, strict=True)}, title, columns)
