"""One step of the optimiser: the gradient of a batch, its length, the update of all that learns."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from clipsearch.errors import TrainingError
from clipsearch.model import Clip
from clipsearch_train.batches import Batch
from clipsearch_train.checkpoint import State
from clipsearch_train.gradients import Gradients
from clipsearch_train.interrupts import held_back
from clipsearch_train.optimiser import set_rates
from clipsearch_train.recipe import Optim
from clipsearch_train.towers import buffers_restored


class Diverged(TrainingError):
    """A loss or gradient that is not a number: from these weights the step would fail again."""


class Step:
    """Takes one step after another; `state` is at every moment that of the last step that was done."""

    def __init__(self, model: Clip, gradients: Gradients, state: State, optim: Optim) -> None:
        self._model, self._gradients, self._state, self._optim = model, gradients, state, optim

    def take(self, batch: Batch, note: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """Learn from a batch; `note` is given what the log says of it, which is also returned.

        The loss and its terms are those of the whole batch before the update, on all processes. A signal
        comes before the step or when it is noted, not between. Raises Diverged for a loss or gradient that
        is not a number, with the weights untouched.
        """
        state = self._state
        rate = set_rates(state.optimiser, state.step, self._optim)
        with buffers_restored(self._model):
            terms = self._gradients.fill(batch, state.step)
            loss = sum(terms.values())
            self._require_finite(loss, "loss")
            norm = self._clip()
        row = {"loss": loss, **terms, **self._temperature(), "lr": rate, "gradient_norm": norm}
        with held_back():
            state.scaler.step(state.optimiser)
            state.scaler.update()
            self._model.clamp_logit_scale()
            if state.average is not None:
                state.average.update(self._model, state.step)
            state.step += 1
            row = {"step": state.step, **row}
            note(row)
        return row

    def _clip(self) -> float:
        """Shorten a gradient that is too long; returns how long it was."""
        self._state.scaler.unscale_(self._state.optimiser)
        learning = [parameter for parameter in self._model.parameters() if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(learning, self._optim.clip_norm or math.inf).item()
        # With fp16 an infinite gradient now and then is the way to find the scaler's factor: such a step
        # changes no weight and the factor is halved. Under 1 there is nothing left to find.
        scaler = self._state.scaler
        if not scaler.is_enabled() or scaler.get_scale() < 1:
            self._require_finite(norm, "norm of the gradient")
        return norm

    def _temperature(self) -> dict[str, float]:
        told = {"logit_scale": self._model.logit_scale.detach().exp().item()}
        bias = getattr(self._model, "logit_bias", None)
        if isinstance(bias, torch.Tensor):
            told["logit_bias"] = bias.item()
        return told

    def _require_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"The {what} is {value} at step {self._state.step}. Change the recipe (a lower learning rate "
                "usually helps) and run the same command again: it goes on from the last checkpoint, or anew "
                "where there is none yet."
            )
