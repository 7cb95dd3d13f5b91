"""Text across a cut: a run that goes on from tokens says what one that was never cut would say."""

from types import SimpleNamespace

import pytest

from gpu_worker.vllm_runs import Run, _detokenizer
from scheduler.so_far import SoFar

pytestmark = pytest.mark.vllm

TEXT = "Übung: 数 🐍‍🐍 naïve\n\ttab é"


@pytest.mark.parametrize("cut", range(1, len(TEXT.encode())))
def test_characters_of_many_tokens_survive_a_cut_inside_them(cut: int) -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    alphabet = sorted(byte_letters().items())
    vocabulary = {letter: byte for byte, letter in alphabet}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    ids = list(TEXT.encode())
    params = SamplingParams(max_tokens=len(ids) + 1)
    request = SimpleNamespace(request_id="r", prompt_token_ids=[65, 66], sampling_params=params)
    llm = SimpleNamespace(
        model_config=SimpleNamespace(get_vocab_size=lambda: 256),
        output_processor=SimpleNamespace(tokenizer=tokenizer),
    )
    first = IncrementalDetokenizer.from_new_request(tokenizer, request)
    first.update(ids[:cut], False)
    before = SoFar(tuple(ids[:cut]), first.get_next_output_text(finished=True, delta=False))

    second = _detokenizer(llm, request, Run("job", before, may_go_on=True))
    second.update(ids[cut:], False)

    assert second.get_next_output_text(finished=True, delta=False) == TEXT
    assert second.output_token_ids == ids


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(others)}
