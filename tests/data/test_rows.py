"""What makes two rows the same, and what nearly."""

from medgpt_ray.data.formats import parse
from medgpt_ray.data.rows import content_hash, near_hash
from medgpt_ray.types import Conversation, Document, Labelled, Preference, Row

ASK = {"role": "user", "content": "Which dose?"}
SAY = {"role": "assistant", "content": "5 mg."}
WORSE = {"role": "assistant", "content": "50 mg."}
TOOL = {"name": "dose", "parameters": {"type": "object"}}


def call(drug: str) -> dict[str, object]:
    function = {"name": "dose", "arguments": {"drug": drug}}
    calls = [{"type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def test_equal_rows_hash_alike_and_others_do_not() -> None:
    turns = [{"from": "human", "value": "Which dose?"}, {"from": "gpt", "value": "5 mg."}]
    one = parse({"conversations": turns, "tools": [TOOL]}, "sharegpt")
    wrapped = {"type": "function", "function": TOOL}
    same = parse({"messages": [ASK, SAY], "tools": [wrapped], "id": 5}, "messages")
    assert content_hash(one) == content_hash(same)
    pair = {"prompt": "Which dose?", "chosen": "5 mg.", "rejected": "50 mg."}
    margins = [content_hash(parse({**pair, "margin": margin}, "preference")) for margin in (2, 2.0)]
    assert margins[0] == margins[1]
    others: list[Row] = [
        Document("Fever."),
        Conversation((ASK, SAY)),
        Preference((ASK,), (SAY,), (WORSE,)),
        Labelled((ASK,), (SAY,), True),
        Conversation((ASK, WORSE)),
        Conversation(({"role": "system", "content": "Be brief."}, ASK, SAY)),
        Preference((ASK,), (WORSE,), (SAY,)),
        Preference((ASK,), (SAY,), (WORSE,), 1.0),
        Labelled((ASK,), (SAY,), False),
    ]
    assert len({content_hash(row) for row in [one, *others]}) == len(others) + 1


def test_near_rows_differ_in_case_punctuation_and_white_space_only() -> None:
    texts = ["Fever above 38 °C: call!", "fever, above 38°C\n(CALL)。", "fever above 39 °C: call!"]
    first, second, third = (near_hash(Document(text)) for text in texts)
    assert first == second != third
    assert near_hash(Document("pH < 7")) != near_hash(Document("pH > 7"))
    two = [near_hash(Conversation((ASK, {**SAY, "content": text}))) for text in ("5 mg", "5, mg")]
    assert two[0] == two[1] != near_hash(Conversation((ASK, call("a"))))
    assert near_hash(Conversation((ASK, call("a")))) != near_hash(Conversation((ASK, call("b"))))
