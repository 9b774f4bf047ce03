"""`medgpt serve` as its callers see it: the official client on loopback."""

import json
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from medgpt_ray.config.schema import Model
from medgpt_ray.data.requests import render
from medgpt_ray.export import export
from medgpt_ray.guard.notices import ADVICE
from medgpt_ray.models.chat_model import ChatModel, Sampling
from medgpt_ray.serving.gate import MODEL_PATHS

pytestmark = pytest.mark.usefixtures("warm")

PROMPTS = ["Wash your hands today.", "Is a fever high?", "体温多少算高？", "The dose is 500 mg"]
WEIGH = {
    "type": "function",
    "function": {
        "name": "weigh",
        "parameters": {
            "type": "object",
            "properties": {"kg": {"enum": [3, 40]}},
            "required": ["kg"],
            "additionalProperties": False,
        },
    },
}


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    options = {"model": "tiny", "max_tokens": 16, "temperature": 0, **options}
    return client.chat.completions.create(messages=messages, **options)


def test_the_same_text_as_transformers(server, models):
    network = AutoModelForCausalLM.from_pretrained(models.base)
    tokenizer = AutoTokenizer.from_pretrained(models.base)
    texts = []
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            output = network.generate(**inputs, max_new_tokens=16, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(new, skip_special_tokens=True))
    served = [ask(server.client(), prompt).choices[0].message.content for prompt in PROMPTS]
    # Half a character at the end is not streamed.
    assert [text.rstrip("�") for text in served] == [text.rstrip("�") for text in texts]
    assert len(set(texts)) > 1
    assert all(texts)


def test_models_are_listed_and_shown(server):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny", "cardio"]
    assert client.models.retrieve("cardio").id == "cardio"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")
    with pytest.raises(openai.NotFoundError):
        ask(client, "hello", model="nobody")
    assert (
        str(Path(server.log).parent)
        not in httpx.get(
            f"{server.url}/v1/models", headers={"Authorization": "Bearer key-of-tests"}
        ).text
    )


def test_an_adapter_by_name_says_what_its_merged_model_says_in_the_terminal(
    server, models, tmp_path
):
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    shutil.copytree(models.adapters[0], adapter)
    described = json.loads((adapter / "adapter_config.json").read_text())
    described["base_model_name_or_path"] = str(models.base)
    (adapter / "adapter_config.json").write_text(json.dumps(described))
    export(str(adapter), str(merged), "float32", None, None)
    for name, folder in (("tiny", models.base), ("cardio", merged)):
        terminal = ChatModel(Model(path=str(folder), dtype="float32"), str(folder))
        for prompt in PROMPTS:
            tokens = render(terminal.tokenizer, [{"role": "user", "content": prompt}])
            said = terminal.answer(tokens, Sampling(max_tokens=16), lambda _: None).text
            served = ask(server.client(), prompt, model=name)
            assert served.model == name
            assert served.choices[0].message.content.rstrip("�") == said.rstrip("�")
    plain, adapted = (ask(server.client(), PROMPTS[0], model=name) for name in ("tiny", "cardio"))
    assert adapted.choices[0].message.content != plain.choices[0].message.content


def test_sampling_options(server):
    client = server.client()
    options = {"temperature": 1.0, "n": 3, "seed": 7, "max_tokens": 12}
    texts = [
        [choice.message.content for choice in ask(client, "Talk.", **options).choices]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3
    greedy = ask(client, PROMPTS[0]).choices[0].message.content
    for stop in (greedy[3:5], [greedy[3:5], "never"]):
        answer = ask(client, PROMPTS[0], stop=stop).choices[0]
        assert answer.finish_reason == "stop"
        assert answer.message.content == greedy[: greedy.index(greedy[3:5])]
    limited = ask(client, PROMPTS[0], max_tokens=2)
    assert limited.choices[0].finish_reason == "length"
    assert limited.usage.completion_tokens == 2
    logprobs = ask(client, PROMPTS[0], logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(logprobs) == 16
    assert all(token.top_logprobs[0].logprob >= token.logprob - 1e-6 for token in logprobs)


def test_seeds_of_many_at_once_do_not_crash_the_engine(server):
    """With parts of prompts in a batch, vLLM's CPU engine died of this."""
    client = server.client()

    def sample(number: int) -> list[str]:
        prompt = "The nurse measures the blood pressure. " * (5 + number % 4 * 20)
        answer = client.completions.create(
            model="tiny", prompt=prompt, n=8, seed=number % 3, max_tokens=10, temperature=1.0
        )
        return [choice.text for choice in answer.choices]

    with ThreadPoolExecutor(16) as pool:
        first, second = (list(pool.map(sample, range(16))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("model", ["tiny", "cardio"])
def test_plain_completions_with_logprobs_of_the_prompt(server, model):
    answer = server.client().completions.create(
        model=model, prompt=["The nurse", "A fever"], max_tokens=4, logprobs=1, echo=True
    )
    assert [choice.text[:7] for choice in answer.choices] == ["The nur", "A fever"]
    assert answer.choices[0].logprobs.token_logprobs[0] is None
    assert answer.usage.completion_tokens == 8


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weigh"}}]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_with_arguments_of_its_schema(server, models, choice, stream):
    options = {"tools": [WEIGH], "tool_choice": choice, "max_tokens": 80, "stream": stream}
    options["parallel_tool_calls"] = False
    # The untrained model would write spaces between the tokens of its JSON without end.
    tokens = AutoTokenizer.from_pretrained(models.base).get_vocab()
    spaces = {str(id): -100 for token, id in tokens.items() if token.strip("ĠĉĊč") == ""}
    answer = ask(server.client(), "How heavy is she?", logit_bias=spaces, **options)
    if stream:
        calls = [call for chunk in answer for call in chunk.choices[0].delta.tool_calls or ()]
        name = "".join(call.function.name or "" for call in calls)
        arguments = "".join(call.function.arguments or "" for call in calls)
    else:
        (call,) = answer.choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
    assert name == "weigh"
    assert json.loads(arguments)["kg"] in (3, 40)


def test_a_form_is_kept_or_refused(server):
    schema = {"name": "weight", "schema": WEIGH["function"]["parameters"]}
    form = {"type": "json_schema", "json_schema": schema}
    answer = ask(server.client(), "I have chest pain", response_format=form, max_tokens=40)
    assert json.loads(answer.choices[0].message.content)["kg"] in (3, 40)
    assert answer.model_extra["medgpt"]["guard"]["notices"] == [ADVICE["en"]]
    for pattern in ({"regex": r"[^\s\S]"}, {"grammar": "root ::= root"}):
        body = {"structured_outputs": pattern}
        with pytest.raises(openai.BadRequestError):
            ask(server.client(), "hello", extra_body=body)
        with pytest.raises(openai.APIError):  # perhaps with the first token
            list(ask(server.client(), "hello", extra_body=body, stream=True))


@pytest.mark.parametrize(
    "field", [{"logit_bias": {"999999": 1}}, {"extra_body": {"stop_token_ids": [-7]}}]
)
def test_a_wrong_field_has_its_status_in_a_stream_too(server, field):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as wrong:
            ask(server.client(), "hello", stream=stream, **field)
        assert wrong.value.body["type"] == "BadRequestError"


@pytest.mark.parametrize("field", [{"functions": [{"name": "dose"}]}, {"best_of": 3}])
def test_a_field_that_would_not_be_read_is_refused(server, field):
    with pytest.raises(openai.BadRequestError, match="is not read: send"):
        ask(server.client(), "hello", extra_body=field)


def test_a_role_that_a_template_may_leave_out_is_refused(server):
    messages = [{"role": "User", "content": "hello"}]
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\].role: is not one of system"):
        server.client().chat.completions.create(model="tiny", messages=messages)


def test_thirty_two_streams_at_once(server):
    client = server.client("key-of-crowd")
    whole = {p: ask(client, p, max_tokens=32).choices[0].message.content for p in PROMPTS}

    def stream(number: int) -> tuple[str, str, Any]:
        prompt = PROMPTS[number % len(PROMPTS)]
        options = {"include_usage": True}
        chunks = list(ask(client, prompt, max_tokens=32, stream=True, stream_options=options))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        return prompt, text, chunks[-1].usage

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(stream, range(32)))
    assert all(text == whole[prompt] for prompt, text, _ in answers)
    assert all(usage.completion_tokens == 32 for *_, usage in answers)


def test_overload_is_refused_and_all_that_is_accepted_is_answered(server):
    """The answers are long enough for all callers to be there at once."""
    client = server.client("key-of-crowd")

    def one(_: int) -> str:
        try:
            options = {"max_tokens": 400, "extra_body": {"ignore_eos": True}}
            answer = ask(client, "Talk.", **options)
        except openai.RateLimitError as error:
            return f"refused: {error.body['type']}"
        return "answered" if answer.usage.completion_tokens == 400 else "cut"

    with ThreadPoolExecutor(100) as pool:
        outcomes = Counter(pool.map(one, range(100)))
    assert outcomes["answered"] >= 40
    assert set(outcomes) == {"answered", "refused: rate_limit_error"}


def test_refusals_have_openai_errors(server):
    with pytest.raises(openai.AuthenticationError) as wrong:
        ask(server.client("wrong"), "hello")
    assert wrong.value.body["type"] == "authentication_error"
    with pytest.raises(openai.APIStatusError) as large:
        ask(server.client(), "x" * 20_000)
    assert large.value.status_code == 413
    with pytest.raises(openai.BadRequestError) as long:
        ask(server.client(), "x " * 4000)
    assert "context length" in long.value.body["message"]
    with pytest.raises(openai.BadRequestError):
        ask(server.client(), "hello", max_tokens=-1)


def test_a_caller_cannot_cut_an_answer_short(server):
    hurry = {"x-request-timeout-seconds": "0.001"}
    assert ask(server.client(), "hello", extra_headers=hurry).choices[0].message.content


def test_health_and_metrics(server):
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    headers = {"Authorization": "Bearer key-of-tests"}
    metrics = httpx.get(f"{server.url}/metrics", headers=headers).text
    assert "vllm:request_success_total" in metrics
    assert "medgpt_refused_requests_total" in metrics


def test_the_guard_speaks_and_the_log_hides(server):
    text = "My name is John Smith, 415-555-0134. I have chest pain."
    answer = ask(server.client(), text)
    assert answer.choices[0].message.content.startswith(ADVICE["en"])
    assert answer.model_extra["medgpt"]["guard"]["emergency"] == ["chest pain"]
    chinese = list(ask(server.client(), "我胸痛", stream=True))
    assert chinese[0].choices[0].delta.content.startswith(ADVICE["zh"])
    assert chinese[-1].model_extra["medgpt"]["guard"]["emergency"] == ["胸痛"]
    calm = ask(server.client(), PROMPTS[0])
    assert calm.model_extra["medgpt"]["guard"]["notices"] == []
    raw = server.client().completions.create(model="tiny", prompt=text, max_tokens=4)
    assert raw.model_extra["medgpt"]["guard"]["notices"] == [ADVICE["en"]]
    assert ADVICE["en"] not in raw.choices[0].text
    deadline, logged = time.monotonic() + 20, ""
    while "/v1/completions" not in logged and time.monotonic() < deadline:
        time.sleep(0.1)  # a thread of its own writes the log
        logged = "".join(file.read_text() for file in server.requests.iterdir())
    assert "My name is [name], [phone]. I have chest pain." in logged
    for secret in ("John", "555-0134", "key-of-tests"):
        assert secret not in logged + server.log.read_text()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
# fmt: off
FIELDS = [
    "model", "messages", "prompt", "input", "max_tokens", "temperature", "top_p", "top_k", "n",
    "stop", "seed", "logprobs", "top_logprobs", "stream", "stream_options", "tools",
    "tool_choice", "response_format", "logit_bias", "echo", "suffix", "user", "min_tokens",
    "presence_penalty", "repetition_penalty", "bad_words", "stop_token_ids", "allowed_token_ids",
    "priority", "structured_outputs", "prompt_logprobs", "chat_template", "add_generation_prompt",
    "use_beam_search", "truncate_prompt_tokens", "cache_salt", "request_id", "kv_transfer_params",
    "vllm_xargs", "documents", "reasoning_effort", "parallel_tool_calls", "thinking_token_budget",
    "prompt_embeds",
]
# fmt: on


@st.composite
def nearly_right(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A request that would be answered, but for one to three fields."""
    path = draw(st.sampled_from(MODEL_PATHS[:2]))
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 2}
    if "chat" in path:
        body["messages"] = [{"role": "user", "content": "Hello"}]
    else:
        body["prompt"] = "Hello"
    for field in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3)):
        body[field] = draw(json_values | st.sampled_from([0, -1, 1, 2**31, 2**62, 1.5, "", [], {}]))
    return path, body


def test_bad_input_is_never_the_servers_fault(server):
    headers = {"Authorization": "Bearer key-of-fuzz", "Content-Type": "application/json"}
    codes: Counter[int] = Counter()
    with httpx.Client(base_url=server.url, headers=headers, timeout=300) as http:

        def send(path: str, content: bytes) -> None:
            answer = http.post(path, content=content)
            codes[answer.status_code] += 1
            assert answer.status_code < 500, (path, content, answer.text)

        @settings(
            max_examples=200,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(nearly_right())
        def fields(request: tuple[str, dict[str, Any]]) -> None:
            send(request[0], json.dumps(request[1]).encode())

        @settings(max_examples=50, database=None, derandomize=True)
        @given(st.sampled_from(MODEL_PATHS[:2]), st.binary(max_size=50))
        def raw(path: str, content: bytes) -> None:
            send(path, content)

        fields()
        raw()
    assert codes[400] > 100
    assert ask(server.client(), PROMPTS[0]).choices[0].message.content
