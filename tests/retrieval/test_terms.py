from medgpt_ray.retrieval.terms import question_terms, terms


def test_chinese_characters_alone_and_in_pairs_beside_words() -> None:
    assert terms("高血压DNA 5mg") == ["高", "血", "压", "高血", "血压", "dna", "5mg"]


def test_full_width_letters_are_the_same_term() -> None:
    assert terms("HBV") == ["hbv"]


def test_a_question_leaves_its_form_behind() -> None:
    assert question_terms("What is the dose of the dose?") == ["dose"]
    assert question_terms("痛风怎么治疗?") == ["痛", "风", "痛风", "治", "疗", "治疗"]
