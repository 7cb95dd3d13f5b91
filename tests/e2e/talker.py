"""A model that talks nonsense: random weights, every byte a token, and a template with tools.

The adder knows digits only. What a grammar makes of this one has a form, though no meaning.
"""

from pathlib import Path

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
)
SPACES = "ĠĊĉč"
"""Space, newline, tab and return, as byte-level BPE writes them."""
END, THINK, THOUGHT = "<end>", "<think>", "</think>"
FLAGS = (
    "--dtype float32 --enforce-eager --max-num-seqs 8 --enable-auto-tool-choice "
    "--tool-call-parser hermes --reasoning-parser deepseek_v3"
)


def make(directory: Path) -> None:
    """Write the model into `directory`; the same weights every time."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [END, THINK, THOUGHT, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    known = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, []))
    known.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=known, eos_token=END, pad_token=END)
    tokenizer.add_tokens([THINK, THOUGHT], special_tokens=False)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # no spaces where a grammar allows any number of them
        model.get_input_embeddings().weight[:, 0] = 1.0
        model.lm_head.weight[[words.index(word) for word in SPACES], 0] = -10.0
    model.save_pretrained(directory)
