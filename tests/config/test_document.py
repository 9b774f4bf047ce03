"""Values survive the way to YAML text and back, and notes stand where they belong."""

from medgpt_ray.config.document import Document, to_yaml


def test_values_survive_the_way_to_text_and_back() -> None:
    values = {
        "a": {"number": 1e-06, "text": "no", "date": "2024-01-01", "none": None, "yes": True},
        "list": [1, 2.5],
        "sections": [{"x": "a: b"}, {"x": "'"}],
        "empty": [],
    }
    assert Document("x", to_yaml(values, {})).values == values


def test_notes_follow_the_keys_that_have_one() -> None:
    text = to_yaml(
        {"a": {"b": 1, "c": None}, "d": [{"e": 2}]}, {"a.b": "from x.yaml:3", "d.0.e": "here"}
    )
    assert text == "a:\n  b: 1 # from x.yaml:3\n  c: null\nd:\n- e: 2 # here\n"


def test_an_anchor_can_be_used_again() -> None:
    document = Document("x.yaml", "a: &a {b: 1}\nc: *a\n")
    assert document.values == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.problems == []
