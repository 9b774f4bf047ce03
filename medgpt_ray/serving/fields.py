"""The type of every field of a request, before vLLM sees it.

vLLM's own checks begin with code that takes some types for granted, and fails on others with a 500.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from medgpt_ray.serving.errors import Refusal

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Others would go to the chat template as they are, which may leave them out."""
UNREAD = {"functions": "send tools", "function_call": "send tool_choice"}
"""Fields that OpenAI once had and vLLM takes no notice of, and those that took their place."""


class Fields:
    """Of one path, by vLLM's model of its request."""

    def __init__(self, request: Any, refusal: type[Exception]) -> None:
        """`refusal`: what its validators raise for a caller's fault."""
        self._refusal = refusal
        self._types = {
            field.alias or name: TypeAdapter(Annotated[field.annotation, field])
            for name, field in request.model_fields.items()
        }

    def check(self, body: Mapping[str, Any]) -> None:
        """Refuse with 400 what has a wrong type or would not be read; other unknown fields are
        vLLM's to judge."""
        messages = body.get("messages")
        for number, message in enumerate(messages if isinstance(messages, list) else ()):
            if isinstance(message, dict) and message.get("role", "") not in ROLES:
                told = f"messages[{number}].role: is not one of {', '.join(ROLES)}"
                raise Refusal(400, told, param="messages")
        for name, fix in UNREAD.items():
            if body.get(name) is not None:
                raise Refusal(400, f"{name}: is not read: {fix}", param=name)
        if body.get("best_of") not in (None, 1, body.get("n")):
            raise Refusal(400, "best_of: is not read: send n", param="best_of")
        for name, value in body.items():
            if name not in self._types:
                continue
            try:
                self._types[name].validate_python(value)
            except ValidationError as error:
                message = error.errors()[0]["msg"]
                raise Refusal(400, f"{name}: {message}", param=name) from None
            except self._refusal as error:
                raise Refusal(400, f"{name}: {error}", param=name) from None
            except (AttributeError, TypeError):  # of vLLM's validators, which do not expect it
                raise Refusal(400, f"{name}: has a wrong type", param=name) from None


def of_paths(paths: Collection[str]) -> dict[str, Fields]:
    """Of those of `paths` that have some."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.exceptions import VLLMClientError

    requests = {
        "/v1/chat/completions": ChatCompletionRequest,
        "/v1/completions": CompletionRequest,
    }
    return {
        path: Fields(request, VLLMClientError)
        for path, request in requests.items()
        if path in paths
    }
