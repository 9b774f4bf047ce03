import pytest

from medgpt_ray.retrieval.conversation import condense
from medgpt_ray.retrieval.names import names


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
        (["Dose of warfarin?", "And metformin?"], "Dose of ? And metformin?"),
        (["Dose of warfarin?", "Metformin dose?"], "Metformin dose?"),
        (
            ["Dose of warfarin?", "And is metformin taken at night?"],
            "And is metformin taken at night?",
        ),
        (["Is warfarin safe?", "With metformin?"], "Is warfarin safe? With metformin?"),
        (
            ["Dose of warfarin?", "Does it go well with metformin?"],
            "Dose of warfarin? Does it go well with metformin?",
        ),
        (
            ["Dose of warfarin?", "And metformin?", "Is it safe in children?"],
            "Dose of ? And metformin? Is it safe in children?",
        ),
        (["美托洛尔怎么吃?", "那硝苯地平呢?"], "美怎么吃? 那硝苯地平呢?"),
    ],
)
def test_follow_ups_take_their_subject_along_and_other_questions_do_not(
    embedder, questions, searched
) -> None:
    assert condense(questions, lambda text: names(text, embedder.count)) == searched
