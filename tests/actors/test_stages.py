"""What a stage makes of a batch."""

import numpy as np

from medgpt_ray.actors.stages import mismatched
from medgpt_ray.models.packing import Sequence


def sequence(prompt: int, completion: int) -> Sequence:
    ids = tuple(range(5, 5 + prompt + completion))
    return Sequence(ids[:prompt], ids[prompt:], {"trained": np.ones(completion, np.float32)})


def test_prompts_meet_the_next_answer_within_the_limit() -> None:
    batch = [sequence(90, 10), sequence(5, 90), sequence(20, 7)]
    crossed = mismatched(batch, 100)
    assert [one.prompt_ids for one in crossed] == [one.prompt_ids for one in batch]
    assert [len(one.completion_ids) for one in crossed] == [10, 7, 10]
    assert crossed[0].completion_ids == batch[1].completion_ids[:10]
    assert all(len(one.fields["trained"]) == len(one.completion_ids) for one in crossed)


def test_an_example_alone_meets_nobody() -> None:
    assert mismatched([sequence(3, 2)], 100) == []
