"""vLLM's engine and its OpenAI application, in this process and the engine's own."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.load import inference_dtype, open_tokenizer, resolve_model
from medgpt_ray.serving import tools, versions
from medgpt_ray.serving.adapters import Adapters
from medgpt_ray.serving.gate import PATHS
from medgpt_ray.serving.settings import Settings

ERROR = re.compile(
    r"^(?:\(.*?\) ERROR .*?\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)", re.MULTILINE
)
"""The last line of a traceback, also as vLLM's log has it."""
ANSWER_TOKENS = 256
"""Kept free for an answer whose length the caller leaves open; of a short context a quarter."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes that vLLM has kernels for."""


def served_name(settings: Settings) -> str:
    if settings.name:
        return settings.name
    if settings.model.startswith("embedded:"):
        return settings.model.partition(":")[2]
    path = Path(settings.model).resolve()
    return path.parent.name if path.name == "model" else path.name


class Engine:
    """A running engine; `app` is vLLM's FastAPI application, closed but for the gate's `paths`."""

    def __init__(
        self, client: Any, app: Any, version: str, adapters: Adapters | None, shows_tools: bool
    ) -> None:
        self.client, self.app, self.version, self.adapters = client, app, version, adapters
        self.shows_tools = shows_tools
        routes = {route.path for route in app.routes}
        self.paths = [path for path in PATHS if path in routes]

    @classmethod
    async def start(cls, settings: Settings) -> "Engine":
        """Load the model; fails where the directory no longer holds `settings.version`."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.v1.engine.async_llm import AsyncLLM

        directory = resolve_model(settings.model)
        version = versions.of_directory(directory)
        if settings.version not in (None, version):
            raise ModelError(
                f"{directory}: holds version {version}, not {settings.version} as when it was "
                "deployed: deploy it again"
            )
        template = open_tokenizer(str(directory)).chat_template
        args = _arguments(settings, directory, version, template)
        output = _Output()
        try:
            client = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args))
        except Exception as error:
            cause = str(error)
            if "See root cause above" in cause:
                cause = output.first_error() or cause
            fix = ""
            if re.search("cache blocks|KV cache", cause):
                names = ["max_context"] if settings.gpus else ["kv_cache_gib", "max_context"]
                fix = f" Settings: {', '.join(names)}."
            raise ModelError(f"{directory}: vLLM does not start: {cause}{fix}") from error
        tasks = await client.get_supported_tasks()
        app = build_app(args, tasks, client.model_config)
        await init_app_state(client, app.state, args, tasks)
        app.state.server = None  # no server of vLLM's own, which its error handlers look at
        app.router.routes = [route for route in app.routes if route.path in PATHS]
        models = app.state.openai_serving_models
        adapters = None
        if settings.lora:
            patience = settings.limits.request_seconds
            adapters = Adapters(client, models, settings.lora.slots, patience)
        _show_plain_names(app, models)
        return cls(client, app, version, adapters, tools.shows_tools(template))

    async def fits(self, body: Mapping[str, Any]) -> bool:
        """Whether a chat leaves room for its answer; of what is malformed vLLM tells when asked."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.exceptions import VLLMClientError, VLLMValidationError

        context = self.client.model_config.max_model_len
        try:
            request = ChatCompletionRequest.model_validate(body)
            asked = request.max_completion_tokens or request.max_tokens
            renderer = self.app.state.online_renderer
            _, (prompt,) = await renderer.render_chat(request, skip_mm_cache=True)
            room = context - len(prompt["prompt_token_ids"])
            return room >= (asked or min(ANSWER_TOKENS, context // 4))
        except VLLMValidationError as error:
            return error.parameter not in ("input_text", "input_tokens")
        except (VLLMClientError, ValueError, TypeError, TemplateError):  # vLLM meets it again
            return True

    def shutdown(self) -> None:
        self.client.shutdown(timeout=10)


class _Output:
    """What this process and those below it write from now on, where that goes into files."""

    def __init__(self) -> None:
        files = {number: os.fstat(number) for number in (1, 2)}
        self._ends = {n: file.st_size for n, file in files.items() if stat.S_ISREG(file.st_mode)}

    def first_error(self) -> str | None:
        """What the first traceback ends with: vLLM's engine says in its own process why it does not
        start."""
        for number, end in self._ends.items():
            with open(f"/proc/self/fd/{number}", encoding="utf-8", errors="replace") as file:
                file.seek(end)
                if found := ERROR.search(file.read()):
                    return found[1]
        return None


def _arguments(settings: Settings, directory: Path, version: str, template: str | None) -> Any:
    """What `vllm serve` would parse."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    options: list[Any] = ["--model", directory, "--served-model-name", served_name(settings)]
    dtype = inference_dtype() if settings.dtype == "auto" else settings.dtype
    options += ["--dtype", dtype, "--seed", settings.seed]
    options += ["--fingerprint-mode", "custom", "--fingerprint-value", version]
    # A weak model would else write spaces in JSON without end.
    options += ["--structured-outputs-config.backend", "xgrammar"]
    options += ["--structured-outputs-config.disable_any_whitespace", "true"]
    # Sequences beyond this wait in the engine: one request can be many.
    options += ["--max-num-seqs", max(settings.limits.concurrent_requests, 32)]
    if settings.max_context:
        options += ["--max-model-len", settings.max_context]
    if parser := settings.tool_parser or tools.parser_for(template):
        options += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
        options += ["--tool-strict-level", "parameter"]  # arguments always fit their schema
    if settings.lora:
        rank = next((size for size in LORA_RANKS if size >= settings.lora.max_rank), None)
        if rank is None:
            raise ModelError(f"an adapter of rank {settings.lora.max_rank}: at most 512 is served")
        options += ["--enable-lora", "--max-lora-rank", rank, "--max-loras", settings.lora.slots]
        options += ["--lora-target-modules", *settings.lora.target_modules]
    if settings.gpus:
        options += ["--tensor-parallel-size", settings.gpus]
    else:
        options += ["--enforce-eager", "--kv-cache-memory-bytes"]
        options += [int(settings.kv_cache_gib * 2**30)]
        # A prompt read in parts makes vLLM rewind the generator of a request with a seed, which
        # a CPU generator cannot do: the engine would die (vLLM 0.32).
        options += ["--no-enable-chunked-prefill"]
    parser = make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args([str(option) for option in options])
    validate_parsed_serve_args(args)
    return args


def _show_plain_names(app: Any, models: Any) -> None:
    """An adapter is `name` to callers and `name@version` to vLLM; no paths of this machine."""
    from fastapi.responses import JSONResponse

    def plain(internal: str) -> str:
        adapter = internal in models.lora_requests
        return internal.rpartition("@")[0] if adapter else internal

    base = models.base_model_paths[0].name
    models.model_name = lambda lora=None: plain(lora.lora_name) if lora else base
    list_all = models.show_available_models

    async def show_available_models() -> Any:
        listed = await list_all()
        for card in listed.data:
            card.id = card.root = plain(card.id)
        listed.data = list({card.id: card for card in listed.data}.values())
        return listed

    models.show_available_models = show_available_models

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> JSONResponse:
        listed = await show_available_models()
        for card in listed.data:
            if card.id == name:
                return JSONResponse(card.model_dump())
        error = (await models.registry.check_model(name)).model_dump()
        return JSONResponse(error, status_code=404)
