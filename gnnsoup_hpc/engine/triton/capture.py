"""Passes over a plan, launched one kernel after the other, or, of a plan that is used again and again, replayed.

A replay is a CUDA graph: all launches of a forward or a backward pass as one. Where a pass takes the GPU less time than
the host takes to launch it, that is what it costs. It runs the same kernels on the same numbers, and gives the same
bits. Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor

from gnnsoup_hpc.engine.base import Vjp
from gnnsoup_hpc.engine.triton.gat import TritonGatForwardBackward
from gnnsoup_hpc.engine.triton.passes import Masks, TritonForwardBackward
from gnnsoup_hpc.engine.triton.plan import TritonPlan
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.runtime.gpu import allowed_bytes

USES = 3  # passes of one kind over a plan before they are captured
ROOM = 4  # times a plan's states: what a pass holds at most
MOST_BYTES = 1 << 30  # of a plan's states: what takes longer to compute than to launch is not captured


@torch.no_grad()
def compute_logits(plan: TritonPlan, state: Mapping[str, Tensor], dropout: CountedDropout | None) -> Tensor:
    """Class scores of the seed nodes, (n, C)."""
    masks = _draw_masks(plan, dropout)
    captured = _find_captured(plan, state, False, masks)
    return _begin(plan, state, False, masks).forward() if captured is None else captured.forward(state, masks)


@torch.no_grad()
def compute_vjp(
    plan: TritonPlan, state: Mapping[str, Tensor], dropout: CountedDropout | None = None
) -> tuple[Tensor, Vjp]:
    """As `Engine.vjp`."""
    masks = _draw_masks(plan, dropout)
    captured = _find_captured(plan, state, True, masks)
    if captured is None:
        run = _begin(plan, state, True, masks)
        return run.forward(), torch.no_grad()(run.backward)
    logits, replay = captured.forward(state, masks), _Replay(captured)
    captured.last = weakref.ref(replay)
    return logits, replay


def _draw_masks(plan: TritonPlan, dropout: CountedDropout | None) -> Masks | None:
    return None if dropout is None else Masks.draw(dropout, plan.net.layers, plan.nodes.device)


def _begin(
    plan: TritonPlan, state: Mapping[str, Tensor], keep: bool, masks: Masks | None
) -> TritonForwardBackward | TritonGatForwardBackward:
    kind = TritonGatForwardBackward if plan.net.kind == "gat" else TritonForwardBackward
    return kind(plan, state, keep, masks)


def _find_captured(
    plan: TritonPlan, state: Mapping[str, Tensor], keep: bool, masks: Masks | None
) -> CapturedPass | None:
    """None where the pass is not to be replayed, or not yet, or where gradients of the last replay may yet come.

    What is captured keeps its memory beside that of other passes, which is counted for none: so there must be room.
    """
    if plan.nodes.device.type != "cuda" or plan.state_bytes > MOST_BYTES:
        return None
    kind = keep, masks.scale if masks else 1.0
    if kind not in plan.captured:
        plan.uses[kind] += 1
        if plan.uses[kind] <= USES:
            return None
        plan.captured[kind] = CapturedPass(plan, state, keep, masks) if _has_room(plan) else None
    captured: CapturedPass | None = plan.captured[kind]
    return None if captured is None or captured.is_pending else captured


def _has_room(plan: TritonPlan) -> bool:
    """Whether the GPU has the memory that a captured pass keeps for itself."""
    device = plan.nodes.device
    torch.cuda.empty_cache()
    return allowed_bytes(device) - torch.cuda.memory_reserved(device) >= ROOM * plan.state_bytes


class _Replay:
    """The backward pass of the last forward one."""

    def __init__(self, captured: CapturedPass) -> None:
        self._captured = captured
        self.done = False

    def __call__(self, grad: Tensor) -> dict[str, Tensor]:
        self.done = True
        return self._captured.backward(grad)


class CapturedPass:
    """A forward pass and, if `keep`, its backward pass. What it computes on stays where it is until the plan goes."""

    def __init__(self, plan: TritonPlan, state: Mapping[str, Tensor], keep: bool, masks: Masks | None) -> None:
        self._state = {name: state[name].detach().clone() for name in plan.net.shapes()}
        self._masks = masks
        self.last: weakref.ref[_Replay] | None = None
        stream = torch.cuda.Stream(plan.nodes.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(plan.nodes.device))
        with torch.cuda.stream(stream):  # what is made at a first use is made now
            run = _begin(plan, self._state, keep, masks)
            logits = run.forward()
            if keep:
                run.backward(torch.zeros_like(logits))
            del run, logits
        torch.cuda.current_stream(plan.nodes.device).wait_stream(stream)
        torch.cuda.empty_cache()
        pool = torch.cuda.graph_pool_handle()
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        run = _begin(plan, self._state, keep, masks)
        with torch.cuda.graph(self._forward, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._logits = run.forward()
        if keep:
            self._grad = torch.zeros_like(self._logits)
            with torch.cuda.graph(self._backward, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._grads = run.backward(self._grad)

    @property
    def is_pending(self) -> bool:
        """Whether the last forward pass is kept by somebody who has not asked for its gradients."""
        last = None if self.last is None else self.last()
        return last is not None and not last.done

    def forward(self, state: Mapping[str, Tensor], masks: Masks | None) -> Tensor:
        """Class scores of the seed nodes, (n, C)."""
        torch._foreach_copy_(list(self._state.values()), [state[name].detach() for name in self._state])
        if self._masks is not None and masks is not None:
            self._masks.draws.copy_(masks.draws)
        self._forward.replay()
        return self._logits.clone()

    @torch.no_grad()
    def backward(self, grad: Tensor) -> dict[str, Tensor]:
        """Gradients of all parameters, float64, given that of the scores (n, C)."""
        self._grad.copy_(grad)
        self._backward.replay()
        return {name: found.clone() for name, found in self._grads.items()}
