import pytest

from medgpt_ray.retrieval.conversation import condense


@pytest.mark.parametrize(
    ("questions", "searched"),
    [
        (["What is gout?"], "What is gout?"),
        (["It hurts?"], "It hurts?"),
        (
            ["How is gout diagnosed?", "And how is it treated?"],
            "How is gout diagnosed? And how is it treated?",
        ),
        (["痛风怎么诊断?", "那怎么治疗呢?"], "痛风怎么诊断? 那怎么治疗呢?"),
        (["痛风怎么诊断?", "急性期用药?"], "痛风怎么诊断? 急性期用药?"),
        (
            [
                "Which signs does sepsis have in elderly patients?",
                "And in children?",
                "How is it treated?",
            ],
            "Which signs does sepsis have in elderly patients? How is it treated?",
        ),
        (
            ["痛风怎么诊断?", "高血压患者每天最多可以吃多少克食盐?"],
            "高血压患者每天最多可以吃多少克食盐?",
        ),
        (
            ["How is gout treated?", "Which vitamin can run low after years of metformin?"],
            "Which vitamin can run low after years of metformin?",
        ),
    ],
)
def test_follow_ups_take_their_subject_along_and_other_questions_do_not(
    questions, searched
) -> None:
    assert condense(questions) == searched
