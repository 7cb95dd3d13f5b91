"""Embeddings: the adder as a model that embeds, behind gunicorn, asked with OpenAI's SDK."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.other_model import served
from tests.openai_sdk import Sdk, sdk

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

MODEL = "adder"
FLAGS = "--runner pooling --convert embed"


@pytest.fixture(scope="module")
def port(_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server whose worker embeds."""
    url = _server.removesuffix("/0") + "/10"
    with served(url, tmp_path_factory.mktemp("embed"), FLAGS) as port:
        yield port


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, port: int) -> Iterator[Sdk]:
    with sdk(request.param, port) as made:
        yield made


def test_each_input_has_its_vector_in_either_form(ask: Sdk) -> None:
    texts = ["1+1=", "22+22="]

    packed = ask(lambda c: c.embeddings.create(model=MODEL, input=texts))
    plain = ask(lambda c: c.embeddings.create(model=MODEL, input=texts, encoding_format="float"))

    vectors = [item.embedding for item in packed.data]
    assert [len(vector) for vector in vectors] == [128, 128]
    assert vectors[0] != vectors[1]
    for vector, item in zip(vectors, plain.data, strict=True):
        assert vector == pytest.approx(item.embedding, abs=1e-6)
    assert packed.usage.prompt_tokens > 0


def test_the_service_tier_serves_embeddings_too(ask: Sdk) -> None:
    extra = {"service_tier": "flex", "stream": True}

    answer = ask(lambda c: c.embeddings.create(model=MODEL, input="1+1=", extra_body=extra))

    assert answer.service_tier == "flex"


@pytest.mark.parametrize(
    "wrong",
    [{"input": []}, {"input": 5.5}, {"encoding_format": "bytes"}, {"dimensions": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_cannot_be_embedded_is_a_bad_request(ask: Sdk, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(lambda c: c.embeddings.create(**{"model": MODEL, "input": "1+1=", **wrong}))

    assert error.value.code == "invalid_request"


def test_a_model_that_embeds_does_not_chat(ask: Sdk) -> None:
    messages = [{"role": "user", "content": "1+1"}]

    with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
        ask(lambda c: c.chat.completions.create(model=MODEL, messages=messages))
