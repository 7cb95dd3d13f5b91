"""A prompt that cannot fit into the model's context is refused before it is queued."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from api.order import Order
from api.problems import ContextExceeded
from api.prompt_length import PromptLength
from config.settings import Settings

CONTEXT = 8


def save_model(folder: Path, **config: Any) -> Path:
    """Write a model without weights: words are tokens, a completion begins with one more."""
    words = models.WordLevel({"<unk>": 0, "<bos>": 1, "a": 2}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    tokenizer.enable_truncation(max_length=4)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = config or {"max_position_embeddings": CONTEXT}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def measure(model: Path | str, **settings: Any) -> PromptLength:
    return PromptLength.of(Settings(model=str(model), **settings))


def order(model: str = "tiny", **body: Any) -> Order:
    return Order({"endpoint": "/v1/completions", "body": {"model": model, **body}}, "standard")


def prompt(words: int, max_tokens: int | None = None) -> Order:
    return order(prompt="a " * words, max_tokens=max_tokens)


def fits(length: PromptLength, wanted: Order, announced: int | None = None) -> bool:
    try:
        length.check(wanted.to_model(length.model), announced)
    except ContextExceeded:
        return False
    return True


@pytest.mark.parametrize(
    ("words", "max_tokens", "accepted"),
    [
        (6, None, True),  # with <bos> 7 tokens, and one of output
        (7, None, False),
        (100, None, False),
        (3, 4, True),
        (3, 5, False),
    ],
)
def test_a_prompt_and_its_output_must_fit_into_the_context(
    tmp_path: Path, words: int, max_tokens: int | None, accepted: bool
) -> None:
    length = measure(save_model(tmp_path / "tiny"))

    assert fits(length, prompt(words, max_tokens)) is accepted


def test_the_problem_names_the_field_and_the_numbers(tmp_path: Path) -> None:
    length = measure(save_model(tmp_path / "tiny"))

    with pytest.raises(ContextExceeded) as error:
        length.check(prompt(20, max_tokens=5), None)

    fault = error.value.errors[0]
    assert fault["field"] == "prompt"
    assert "21 tokens" in fault["message"]
    assert "5 more" in fault["message"]
    assert "8 tokens" in fault["message"]


def test_messages_are_counted_by_their_contents(tmp_path: Path) -> None:
    length = measure(save_model(tmp_path / "tiny"))
    messages = [{"role": "system", "content": "a a a"}, {"role": "user", "content": "a a a a a"}]

    with pytest.raises(ContextExceeded, match="messages: has at least 8 tokens"):
        length.check(order(messages=messages), None)

    assert fits(length, order(messages=messages[1:]))


def test_what_the_workers_announced_counts_more_than_the_models_files(tmp_path: Path) -> None:
    length = measure(save_model(tmp_path / "tiny"))

    assert fits(length, prompt(4), announced=16)
    assert fits(length, prompt(10), announced=16)
    assert not fits(length, prompt(4), announced=4)


@pytest.mark.parametrize(
    ("config", "accepted"),
    [
        ({"text_config": {"max_position_embeddings": CONTEXT}}, False),
        ({"max_position_embeddings": 8, "rope_scaling": {"rope_type": "llama3"}}, False),
        ({"max_position_embeddings": 8, "rope_parameters": {"rope_type": "default"}}, False),
        ({"max_position_embeddings": 8, "rope_scaling": {"rope_type": "yarn"}}, True),
        ({"max_position_embeddings": 8, "rope_scaling": {"type": "linear"}}, True),
        ({"model_type": "of another kind"}, True),
    ],
)
def test_the_context_is_read_from_the_models_own_configuration(
    tmp_path: Path, config: dict[str, Any], accepted: bool
) -> None:
    length = measure(save_model(tmp_path / "tiny", **config))

    assert fits(length, prompt(50)) is accepted


def test_a_model_of_another_name_is_not_measured(tmp_path: Path) -> None:
    length = measure(save_model(tmp_path / "tiny"))

    length.check(order("another", prompt="a " * 50), 8)  # raises nothing


@pytest.mark.parametrize("flags", ["--tokenizer other", "--revision v2", "--tokenizer=other"])
def test_nothing_is_measured_when_the_engine_reads_another_tokenizer(
    tmp_path: Path, flags: str
) -> None:
    length = measure(save_model(tmp_path / "tiny"), vllm_args=flags)

    assert fits(length, prompt(50))


@pytest.mark.parametrize("content", [None, "", "no json"])
def test_without_a_tokenizer_every_prompt_is_accepted(tmp_path: Path, content: str | None) -> None:
    folder = save_model(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)

    assert fits(measure(folder), prompt(50))


def test_text_without_tokens_is_left_to_the_engine(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    save_model(folder)
    strict = Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    strict.save(str(folder / "tokenizer.json"))

    assert fits(measure(folder), order(prompt="no such word"))


def test_a_model_of_the_hub_is_measured_from_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "c" * 40
    repository = tmp_path / "models--someone--tiny"
    save_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    length = measure("someone/tiny")

    assert not fits(length, prompt(50))
    assert fits(measure("someone/unknown"), prompt(50))
    assert fits(measure("/no/such/folder"), prompt(50))
