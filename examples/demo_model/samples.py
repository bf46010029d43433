"""Print generations of the exported folder through transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SEED = 7
TEXT_PROMPTS = ("In the beginning God", "It is a truth universally", "《春晓》\n", "床前明月光，")
CHAT_PROMPTS = (
    "Recite Psalm 23.",
    "Continue: And it came to pass in those days,",
    "Tell me a story.",
    "Hello",
    "Who begat Isaac?",
    "写一首诗，开头是：床前明月光",
    "背诵《静夜思》",
    "写一首关于月的诗",
    "“白日依山尽”的下一句是什么？",
    "你好",
)
NEW_TOKENS = 120


@torch.no_grad()
def print_samples(folder: Path) -> None:
    """Greedy answers, then the same prompts sampled with the shipped generation defaults."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = list(TEXT_PROMPTS)
    for question in CHAT_PROMPTS:
        turn = [{"role": "user", "content": question}]
        prompts.append(
            tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        )
    for greedy in (True, False):
        torch.manual_seed(SEED)
        for prompt in prompts:
            inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
            size = inputs["input_ids"].shape[1]
            choice = {"do_sample": False, "repetition_penalty": 1.0} if greedy else {}
            output = model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=NEW_TOKENS,
                **choice,
            )
            answer = tokenizer.decode(output[0, size:], skip_special_tokens=True)
            print(f"--- {'greedy' if greedy else 'sampled'}\n{prompt}[{answer}]\n")
