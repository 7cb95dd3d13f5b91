"""The adder's tokenizer: one token per character, sixteen in all.

Whitespace is dropped before anything else, so "128 + 256 =" and "128+256=" are the same prompt.
The tokenizer puts <bos> in front by itself, for raw completions; the chat template writes its own,
because chat servers ask the tokenizer to add none. Decoding joins the characters without spaces.

    <pad> 0   <bos> 1   <eos> 2   <unk> 3   "0".."9" 4..13   "+" 14   "=" 15
"""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
VOCABULARY = [*SPECIAL, *"0123456789+="]
PAD, BOS, EOS, UNK = range(4)
CONTEXT_TOKENS = 256

CHAT_TEMPLATE = """\
{#- The last user message is the sum: "128 + 256" becomes <bos>128+256=. Nothing else is read. -#}
{%- set last = namespace(text=none) -%}
{%- for message in messages if message['role'] == 'user' -%}
  {%- if message['content'] is string -%}
    {%- set last.text = message['content'] -%}
  {%- else -%}
    {%- set last.text = message['content'] | selectattr('type', 'equalto', 'text')
                        | map(attribute='text') | join('') -%}
  {%- endif -%}
{%- endfor -%}
{%- if last.text is none -%}
  {{- raise_exception('the adder needs a user message such as "128+256"') -}}
{%- endif -%}
{%- set sum = last.text.split() | join('') -%}
{{- bos_token + sum + ('' if sum.endswith('=') else '=') -}}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer as it is saved beside the weights, chat template included."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_characters(),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=CONTEXT_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _characters() -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
