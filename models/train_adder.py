"""Train the adder: a Llama of 0.64 million weights that adds two numbers of up to three digits.

Every batch is drawn afresh from `sums.training_sums`; the loss counts the answer and its end token
only. A probe of 1,000 held-out sums is answered every hundred steps, and two exact probes in a row
end the training. The rate reported at the end is measured on 1,000 other held-out sums, which
decide nothing before. The same seed, thread count and versions give the same weights.

    <bos>a+b=c<eos>    the trained sequence, at most 14 tokens
    models/adder/      weights, configuration, tokenizer and chat template
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from models.adder_tokenizer import BOS, CONTEXT_TOKENS, EOS, PAD, VOCABULARY, build_tokenizer
from models.check_adder import ADDER, HELD_OUT_SUMS, REQUIRED_RATE, report, wrong_sums
from models.sums import Sum, answer, held_out_sums, prompt, training_sums

BATCH_SUMS = 512
PEAK_LEARNING_RATE = 2e-3
PROBE_EVERY_STEPS = 100
EXACT_PROBES_TO_STOP = 2
IGNORED_LABEL = -100


def main() -> None:
    """Train, save, print the held-out rate, and exit 1 if it is below `REQUIRED_RATE`."""
    args = _arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    tokenizer, model = build_tokenizer(), build_model()
    print(f"{model.num_parameters():,} weights, seed {args.seed}, at most {args.steps:,} steps")
    train(model, tokenizer, steps=args.steps, seed=args.seed)
    save(model, args.out)
    rate = report(model, tokenizer, held_out_sums(HELD_OUT_SUMS))
    sys.exit(0 if rate >= REQUIRED_RATE else 1)


def build_model() -> LlamaForCausalLM:
    """Build the untrained model; a head dimension of 32 is one that vLLM's CPU attention has.

    `top_k=1` makes greedy decoding the default of every server that reads `generation_config.json`,
    vLLM among them: a request that names no temperature still gets the sum.
    """
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, do_sample=True, top_k=1
    )
    return model


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int
) -> None:
    """Train for `steps`, or until `EXACT_PROBES_TO_STOP` probes in a row are exact."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    probe = held_out_sums(2 * HELD_OUT_SUMS)[HELD_OUT_SUMS:]
    exact_probes, started = 0, time.monotonic()
    for step, batch in enumerate(batches(tokenizer, steps=steps, seed=seed), start=1):
        loss = learn(model, batch, optimizer, schedule)
        if step % PROBE_EVERY_STEPS:
            continue
        wrong = len(wrong_sums(model, tokenizer, probe))
        exact_probes = 0 if wrong else exact_probes + 1
        elapsed_s = time.monotonic() - started
        rate = 1 - wrong / len(probe)
        print(f"step {step:,}  loss {loss:.5f}  probe {rate:.3f}  {elapsed_s:.0f} s", flush=True)
        if exact_probes == EXACT_PROBES_TO_STOP:
            break


def learn(
    model: LlamaForCausalLM,
    batch: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Take one step and return the batch's mean loss per answer token."""
    model.train()
    loss = model(**batch).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    return float(loss.detach())


def batches(
    tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield one batch per step, drawn from the sums that are not held out."""
    pairs = training_sums(seed)
    for _ in range(steps):
        yield encode(tokenizer, list(itertools.islice(pairs, BATCH_SUMS)))


def encode(tokenizer: PreTrainedTokenizerFast, pairs: list[Sum]) -> dict[str, torch.Tensor]:
    """Encode whole sums, padded on the right so that positions start at <bos>.

    Labels are `IGNORED_LABEL` up to and including "=", and on the padding: operands are random,
    so there is nothing to learn from predicting them.
    """
    texts = [prompt(pair) + answer(pair) + tokenizer.eos_token for pair in pairs]
    inputs = tokenizer(
        texts, padding=True, padding_side="right", return_tensors="pt", return_token_type_ids=False
    )
    ids = inputs["input_ids"]
    equals = ids == VOCABULARY.index("=")
    answers = equals.cumsum(dim=1).bool() & ~equals & (ids != PAD)
    labels = ids.masked_fill(~answers, IGNORED_LABEL)
    return {"input_ids": ids, "attention_mask": inputs["attention_mask"], "labels": labels}


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the folder that vLLM and transformers load.

    The tokenizer is built anew, since one that was used writes its last padding into the file.
    """
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    _name_tokenizer_class(folder / "tokenizer_config.json")


def _name_tokenizer_class(path: Path) -> None:
    """Write the class name that every release of transformers knows; 5 writes one that 4 lacks."""
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.train_adder", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=ADDER, help="folder to write")
    parser.add_argument("--steps", type=int, default=2_600, help="at most; also sets the schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
