"""Prompt length: a prompt that cannot fit into the model's context is refused at the door.

The web process reads the tokenizer and the configuration that lie beside the model's weights, and
never the weights. How much fits is what the workers announced; before one did, the model's own
`max_position_embeddings`. A conversation is counted by its contents alone, to which a chat
template adds its own tokens. Where the tokenizer is not at hand, or the engine was told to use
another, every prompt is accepted, and the worker fails the job whose prompt is too long.

Known sharp edge: a chat template that leaves messages out would have room for conversations that
are refused here.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from tokenizers import Tokenizer

from api.order import Order
from api.problems import ContextExceeded
from config.settings import Settings

logger = logging.getLogger(__name__)

_OTHER_TOKENIZER = ("--tokenizer", "--revision", "--hf-overrides", "--hf_overrides")
_STRETCHED = {"linear", "dynamic", "yarn"}
"""Kinds of rope scaling that make the context longer than `max_position_embeddings`."""


@dataclass(frozen=True, slots=True)
class PromptLength:
    """The length of prompts for one model; `max_positions` in tokens, None where it is unknown."""

    model: str
    tokenizer: Tokenizer | None = None
    max_positions: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the measure for the served model, loaded from its folder or the local cache."""
        model = settings.served_model
        if any(flag in settings.vllm_args for flag in _OTHER_TOKENIZER):
            return cls(model)
        try:
            return cls(model, *_load(settings.model))
        except Exception as error:  # what tokenizers raises has no class of its own
            extra = {"event": "prompt_length.unknown", "model": model, "error": error}
            logger.warning("prompts are not measured", extra=extra)
            return cls(model)

    def check(self, order: Order, max_model_len: int | None) -> int | None:
        """Return the tokens of the prompt, None where they were not counted.

        Raises ContextExceeded for a prompt too long; `max_model_len` as its workers said.
        """
        limit, body = max_model_len or self.max_positions, order.request["body"]
        if limit is None or self.tokenizer is None or body["model"] != self.model:
            return None
        length = self._length(self.tokenizer, body)
        if length + (order.max_tokens or 1) > limit:
            raise ContextExceeded([_fault(order, length, limit)])
        return length or None

    def _length(self, tokenizer: Tokenizer, body: dict[str, Any]) -> int:
        """Return the number of tokens, for a conversation at least that of its contents."""
        try:
            if isinstance(prompt := body.get("prompt"), str):
                return len(tokenizer.encode(prompt).ids)
            messages = body.get("messages") or []
            texts = [_kept(m["content"]) for m in messages if isinstance(m.get("content"), str)]
            return sum(len(tokenizer.encode(t, add_special_tokens=False).ids) for t in texts)
        except Exception as error:  # text the tokenizer has no token for: the engine will say so
            extra = {"event": "prompt_length.failed", "error": type(error).__name__}
            logger.warning("prompt not measured", extra=extra)
            return 0


def _kept(content: str) -> str:
    """Return what every chat template keeps of a message: not its margins, nor past thoughts."""
    return content.rpartition("</think>")[2].strip()


def _fault(order: Order, length: int, limit: int) -> Any:
    is_prompt = "prompt" in order.request["body"]
    field, least = ("prompt", "") if is_prompt else ("messages", "at least ")
    asked = f" and max_tokens asks for {order.max_tokens} more" if order.max_tokens else ""
    text = f"has {least}{length} tokens{asked}; the model's context is {limit} tokens, with output"
    return {"field": field, "message": text}


def _load(model: str) -> tuple[Tokenizer | None, int | None]:
    """Return tokenizer and context length, None for what is not at hand."""
    tokenizer, config = _file(model, "tokenizer.json"), _file(model, "config.json")
    if tokenizer is None:
        return None, None
    loaded = Tokenizer.from_file(str(tokenizer))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded, _max_positions(json.loads(config.read_bytes())) if config else None


def _file(model: str, name: str) -> Path | None:
    """Return the path of a file of the model's, in its folder or the local Hub cache."""
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    try:
        cached = try_to_load_from_cache(model, name)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def _max_positions(config: dict[str, Any]) -> int | None:
    text = config.get("text_config") or config
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if scaling.get("rope_type", scaling.get("type")) in _STRETCHED:
        return None
    positions = text.get("max_position_embeddings")
    return positions if isinstance(positions, int) else None
