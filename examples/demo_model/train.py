"""Train on the CPU for a fixed number of minutes (or steps), with a resumable checkpoint."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import distributed, multiprocessing
from torch.nn import functional
from transformers import LlamaForCausalLM

from .batches import Mixture, encode_streams
from .evaluate import score_languages
from .model import new_model
from .tokenizer import load_tokenizer

SEED = 1729
TOKENS_PER_STEP = 2048
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


def train(work: Path, budget: Budget, workers: int) -> None:
    """Train until the budget is spent, resuming from `checkpoint.pt` when there is one.

    Every worker is a process with one thread and its own rows; they meet once a step, to average
    gradients. On a busy machine that loses far less time than threads that meet in every operation.
    """
    rendezvous = work / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    multiprocessing.spawn(_work, (work, budget, workers, rendezvous), nprocs=workers)


def _work(rank: int, work: Path, budget: Budget, workers: int, rendezvous: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=workers
    )
    tokenizer = load_tokenizer(work)
    model = new_model(SEED)
    optimizer = make_optimizer(model)
    progress = _resume(work, model, optimizer)
    mixture = Mixture(encode_streams(work, tokenizer), SEED + progress.step * workers + rank)
    before = progress.seconds
    started = time.monotonic()
    while (share := _agree(budget.share(progress))) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(share)
        length = row_length(share)
        loss = _step(model, optimizer, mixture.batch(TOKENS_PER_STEP // length // workers, length))
        progress.step += 1
        progress.tokens += TOKENS_PER_STEP
        progress.seconds = before + time.monotonic() - started
        if rank == 0:
            _record(work, model, optimizer, progress, loss)
            if progress.step % EVALUATE_EVERY == 0:
                scores = score_languages(model, tokenizer, work)
                _log(work, progress, **{k: round(s.loss, 4) for k, s in scores.items()})
    if rank == 0:
        _save(work, model, optimizer, progress)
    distributed.barrier()
    distributed.destroy_process_group()


def _agree(share: float) -> float:
    """All workers follow the first worker's clock."""
    value = torch.tensor([share], dtype=torch.float64)
    distributed.broadcast(value, src=0)
    return value.item()


def load_trained(work: Path) -> LlamaForCausalLM:
    """The model in the latest checkpoint."""
    model = new_model(SEED)
    checkpoint = torch.load(work / "checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    return model.eval()


def _step(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, batch: torch.Tensor) -> float:
    """One optimizer step; returns this worker's own loss."""
    model.train()
    logits = model(batch[:, :-1], use_cache=False).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    _average_gradients(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    return loss.item()


def _average_gradients(model: LlamaForCausalLM) -> None:
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, averaged in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def _record(
    work: Path,
    model: LlamaForCausalLM,
    optimizer: torch.optim.AdamW,
    progress: Progress,
    loss: float,
) -> None:
    if progress.step % LOG_EVERY == 0:
        _log(work, progress, train_loss=round(loss, 4))
    if progress.step % CHECKPOINT_EVERY == 0:
        _save(work, model, optimizer, progress)


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
