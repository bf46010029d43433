"""Train on the CPU for a fixed number of minutes (or steps), with a resumable checkpoint."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from .batches import Mixture, encode_streams
from .evaluate import score_languages
from .model import new_model
from .tokenizer import load_tokenizer

SEED = 1729
TOKENS_PER_STEP = 3072
ROW_LENGTHS = ((0.0, 256), (0.5, 512), (0.85, 1024))  # (from this share of the budget, tokens)
PEAK_LEARNING_RATE = 2e-3
FINAL_SHARE = 0.03
WARMUP_SHARE = 0.02
WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0
EVALUATE_EVERY = 200
CHECKPOINT_EVERY = 50
LOG_EVERY = 20


@dataclass
class Progress:
    """Where the run stands; saved in the checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps if given (repeatable), else wall-clock minutes."""

    minutes: float
    steps: int | None = None

    def share(self, progress: Progress) -> float:
        """How much of the budget is spent, from 0 to 1."""
        spent = progress.step / self.steps if self.steps else progress.seconds / self.minutes / 60
        return min(1.0, spent)


def learning_rate(share: float) -> float:
    """Linear warm-up, then a cosine down to a small share of the peak."""
    if share < WARMUP_SHARE:
        return PEAK_LEARNING_RATE * max(share / WARMUP_SHARE, 0.01)
    cosine = (1 + math.cos(math.pi * (share - WARMUP_SHARE) / (1 - WARMUP_SHARE))) / 2
    return PEAK_LEARNING_RATE * (FINAL_SHARE + (1 - FINAL_SHARE) * cosine)


def row_length(share: float) -> int:
    """Short rows are cheaper, so they come first; the last ones fill the model's context."""
    return max(length for start, length in ROW_LENGTHS if share >= start)


def make_optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves norm weights alone."""
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), fused=True)


def train(work: Path, budget: Budget) -> None:
    """Train until the budget is spent, resuming from `checkpoint.pt` when there is one."""
    tokenizer = load_tokenizer(work)
    model = new_model(SEED)
    optimizer = make_optimizer(model)
    progress = _resume(work, model, optimizer)
    mixture = Mixture(encode_streams(work, tokenizer), SEED + progress.step)
    before = progress.seconds
    started = time.monotonic()
    while (share := budget.share(progress)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(share)
        length = row_length(share)
        loss = _step(model, optimizer, mixture.batch(TOKENS_PER_STEP // length, length))
        progress.step += 1
        progress.tokens += TOKENS_PER_STEP
        progress.seconds = before + time.monotonic() - started
        done = budget.share(progress) >= 1
        if progress.step % LOG_EVERY == 0:
            _log(work, progress, train_loss=round(loss, 4))
        if done or progress.step % CHECKPOINT_EVERY == 0:
            _save(work, model, optimizer, progress)
        if done or progress.step % EVALUATE_EVERY == 0:
            scores = score_languages(model, tokenizer, work)
            _log(work, progress, **{k: round(s.loss, 4) for k, s in scores.items()})


def load_trained(work: Path) -> LlamaForCausalLM:
    """The model in the latest checkpoint."""
    model = new_model(SEED)
    checkpoint = torch.load(work / "checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    return model.eval()


def _step(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, batch: torch.Tensor) -> float:
    model.train()
    logits = model(batch[:, :-1], use_cache=False).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    return loss.item()


def _resume(work: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW) -> Progress:
    path = work / "checkpoint.pt"
    if not path.exists():
        return Progress()
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return Progress(**checkpoint["progress"])


def _save(
    work: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, progress: Progress
) -> None:
    """Write beside the checkpoint, then rename, so that a reader never sees half a file."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
    }
    torch.save(state, work / "checkpoint.pt.part")
    (work / "checkpoint.pt.part").rename(work / "checkpoint.pt")


def _log(work: Path, progress: Progress, **values: float) -> None:
    record = {**asdict(progress), "seconds": round(progress.seconds, 1), **values}
    line = json.dumps(record)
    print(line, flush=True)
    with (work / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(line + "\n")
