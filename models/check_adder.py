"""Check the adder: the share of held-out sums it answers exactly, by greedy decoding.

Exact means the whole answer: every digit, then the end token. The sums are those of
`sums.held_out_sums`, which training never shows in either order: the rate is that of unseen sums.

    python -m models.check_adder                     # 1,000 held-out sums
    python -m models.check_adder --every             # all 1,000,000 sums, about 7 minutes
    python -m models.check_adder --dtype bfloat16    # as an engine answers that rounds the weights
"""

import argparse
import itertools
import sys
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from models.sums import MAX_DIGITS, Sum, answer, held_out_sums, prompt

ADDER = Path(__file__).parent / "adder"
REQUIRED_RATE = 0.99
HELD_OUT_SUMS = 1_000
SUMS_PER_BATCH = 5_000


def main() -> None:
    """Print the rate, and exit 1 if it is below `REQUIRED_RATE`."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.model)
    model = LlamaForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    pairs = every_sum() if args.every else held_out_sums(HELD_OUT_SUMS)
    sys.exit(0 if report(model, tokenizer, pairs) >= REQUIRED_RATE else 1)


def report(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[Sum]) -> float:
    """Print how many sums are exact and the first ten that are not; return the rate."""
    wrong = wrong_sums(model, tokenizer, pairs)
    for pair, text in wrong[:10]:
        print(f"  {prompt(pair)}{answer(pair)}, the model says {text!r}")
    exact = len(pairs) - len(wrong)
    print(f"exact: {exact:,} of {len(pairs):,} ({exact / len(pairs):.4%})")
    return exact / len(pairs)


def wrong_sums(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[Sum]
) -> list[tuple[Sum, str]]:
    """Return the sums answered wrongly, each with the text generated instead."""
    wrong = []
    for start in range(0, len(pairs), SUMS_PER_BATCH):
        batch = pairs[start : start + SUMS_PER_BATCH]
        texts = complete(model, tokenizer, [prompt(pair) for pair in batch])
        wrong += [
            (pair, text)
            for pair, text in zip(batch, texts, strict=True)
            if text != answer(pair) + tokenizer.eos_token
        ]
    return wrong


def complete(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str]
) -> list[str]:
    """Complete each prompt greedily; the end token stays in the text, the padding after it goes."""
    model.train(False)
    inputs = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    longest = MAX_DIGITS + 1 + len("=")  # the digits of 999+999, and the end token
    tokens = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
    texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
    return [text.replace(tokenizer.pad_token, "") for text in texts]


def every_sum() -> list[Sum]:
    """Return all pairs, seen and unseen."""
    numbers = range(10**MAX_DIGITS)
    return list(itertools.product(numbers, numbers))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.check_adder", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", type=Path, default=ADDER, help="folder of the weights")
    parser.add_argument("--every", action="store_true", help="all 1,000,000 sums")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
