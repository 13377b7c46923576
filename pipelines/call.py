"""What belongs to one call of a guided pipeline alone: its hook, its scheduler, its answers.

A denoiser may be shared by several pipelines, and a call may be made inside a callback of another. Each evaluation
therefore asks whether the hook is the one of the call that runs here.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from diffusers import SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import nn

from pipelines.errors import UserError

if TYPE_CHECKING:
    from pipelines.hook import Hook

# The hook of the call that runs here. A call in another thread finds this empty, or its own.
current: ContextVar = ContextVar("joinery_guidance", default=None)


@contextmanager
def running(hook: "Hook | None") -> Iterator[None]:
    """Within, that hook is the one at work; None: none is, whatever the call around this one does."""
    token = current.set(hook)
    try:
        yield
    finally:
        current.reset(token)


_lock = threading.Lock()
_calls: dict[int, list[tuple[int, bool]]] = {}  # scheduler -> thread of each call with it, and whether it has a rule


@contextmanager
def own_scheduler(scheduler: SchedulerMixin, has_rule: bool) -> Iterator[None]:
    """Hold a scheduler for one call: it keeps its place in the schedule, and another thread would move it.

    Raises:
        UserError: another thread has it, and one of the two calls has a rule. Without one, all is as in diffusers.
    """
    mine = threading.get_ident(), has_rule
    with _lock:
        calls = _calls.setdefault(id(scheduler), [])
        if any(thread != mine[0] and (has_rule or other) for thread, other in calls):
            raise UserError(
                f"This {type(scheduler).__name__} is at work in a call in another thread",
                "Wait for it, or give each thread a pipeline: from_pipe(pipe, scheduler=copy.deepcopy(pipe.scheduler))",
            )
        calls.append(mine)
    try:
        yield
    finally:
        with _lock:
            calls.remove(mine)
            if not calls:
                _calls.pop(id(scheduler), None)


class _Several(MultiPipelineCallbacks):
    """A callback of diffusers' own kind stays one: the pipeline asks it which tensors it takes."""

    def __init__(self, callback: PipelineCallback | MultiPipelineCallbacks, call: Callable):
        self.callback, self.call = callback, call

    @property
    def tensor_inputs(self) -> list[str]:
        return self.callback.tensor_inputs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


def outside(callback: Callable, changed: Callable) -> Callable:
    """A callback as it is, but outside its call: neither a network that it runs nor a pipeline has a part in that.

    Args:
        changed: is told the latents before and after, where it returns some.
    """

    @functools.wraps(callback, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = next((value for value in (*args, *kwargs.values()) if isinstance(value, dict)), {})
        before = tensors.get("latents")
        with running(None):
            result = callback(*args, **kwargs)
        if isinstance(result, dict) and result.get("latents") is not None:
            changed(before, result["latents"])
        return result

    own_kind = isinstance(callback, PipelineCallback | MultiPipelineCallbacks)
    return _Several(callback, call) if own_kind else call


class _Answer:
    """A denoiser's forward that may answer a second call with what the hook kept of the first one."""

    def __init__(self, module: nn.Module):
        self.own, self.forward, self.users = vars(module).get("forward"), module.forward, 0
        functools.update_wrapper(self, self.forward, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hook = current.get()
        kept = None if hook is None else hook.answer(kwargs)
        return self.forward(*args, **kwargs) if kept is None else kept


@contextmanager
def answering(module: nn.Module) -> Iterator[None]:
    """Let hooks answer a denoiser's calls. However many calls overlap, it is wrapped once."""
    with _lock:
        answer = vars(module).get("forward")
        if not isinstance(answer, _Answer):  # above all others: what is answered is no call for their hooks
            answer = module.forward = _Answer(module)
        answer.users += 1
    try:
        yield
    finally:
        with _lock:
            answer.users -= 1
            own = answer.own
            # Offloading and diffusers' hooks may have wrapped it since. It stays below them until they are taken off.
            if not answer.users and vars(module).get("forward") is answer:
                if own is None:
                    del module.forward
                else:
                    module.forward = own
