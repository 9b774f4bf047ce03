"""Write notes_train.jsonl and notes_heldout.jsonl: `python make_notes.py [DIRECTORY]`.

Each row is a made-up clinical note, one question about one fact, and the shortest answer in the
words of the note, or "not stated" where the note does not hold that fact. The cases of cases.csv
and the sentences below were written for this project; people are invented. Training and held-out
notes share no person, condition, medicine, value, answer (but "not stated") or wording. The output
depends on nothing but these two files.
"""

import csv
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NOT_STATED = "not stated"
ABSTENTION_SHARE = 0.16
ROWS = {"train": 400, "heldout": 102}


@dataclass(frozen=True)
class Wording:
    """How one of the two sets speaks. A sentence is a template over the facts of a note."""

    surnames: str
    chronic: tuple[str, ...]
    acute: tuple[str, ...]
    reviews: tuple[str, ...]
    allergies: dict[str, tuple[str, ...]]
    """Allergen -> possible reactions."""
    sentences: dict[str, tuple[str, ...]]
    """Kind of sentence -> variants. `_bare` kinds name a thing without its fact."""
    questions: dict[str, tuple[str, ...]]
    """Kind of fact -> variants."""


TRAIN = Wording(
    surnames=(
        "Adeyemi Baker Chowdhury Dixon Evans Fofanah Grant Hussain Ivanov Jensen Kaur Lewis Mensah "
        "Novak Ortega Patel Quinn Reid Singh Tanaka Usman Varga Walsh Xu Yilmaz Zielinski Abbott "
        "Brennan Costa Demir Ellis Farah Gupta Holt Ito Jovic Khan Lindqvist Moreau Nkosi"
    ),
    chronic=("two months", "three months", "six months", "six weeks", "four weeks", "eight weeks"),
    acute=("two days", "three days", "four days", "one week"),
    reviews=("in one week", "in two weeks", "in four weeks", "in six weeks", "in three months"),
    allergies={
        "penicillin": ("rash", "wheeze"),
        "trimethoprim": ("rash", "hives"),
        "codeine": ("vomiting", "hives"),
        "latex": ("itching", "hives"),
        "peanuts": ("lip swelling", "wheeze"),
        "shellfish": ("vomiting", "lip swelling"),
        "eggs": ("itching", "rash"),
    },
    sentences={
        "opening": (
            "{person}, {age}, has had {complaint} for {duration}.",
            "{person}, aged {age}, came in with {complaint} for {duration}.",
            "{person} is {age} and reports {complaint} for {duration}.",
        ),
        "opening_bare": (
            "{person} has had {complaint} for {duration}.",
            "{person} came in with {complaint} for {duration}.",
        ),
        "diagnosis": (
            "The diagnosis is {condition}.",
            "This is {condition}.",
            "Findings fit {condition}.",
        ),
        "medicine": (
            "Started {medicine} {dose} {frequency}.",
            "Takes {medicine} {dose} {frequency}.",
            "Plan: {medicine} {dose} {frequency}.",
        ),
        "medicine_bare": (
            "Also takes {medicine}.",
            "{Medicine} continues unchanged.",
            "Keeps taking {medicine}.",
        ),
        "allergy": ("Allergic to {allergen} ({reaction}).", "Reaction to {allergen}: {reaction}."),
        "allergy_bare": ("Allergic to {allergen}.", "Has an allergy to {allergen}."),
        "measure": ("{Measure} {value}.", "{Measure} was {value}.", "{Measure} is {value} today."),
        "test": ("{Test} requested.", "Arranged: {test}.", "Booked for {test}."),
        "review": ("Review {review}.", "Will be seen again {review}.", "Follow-up {review}."),
    },
    questions={
        "age": ("How old is the patient?", "What is the patient's age?"),
        "complaint": ("What is the complaint?", "What symptom does the patient have?"),
        "duration": ("How long have the symptoms lasted?", "For how long has this been going on?"),
        "condition": ("What is the diagnosis?", "What condition does the patient have?"),
        "dose": ("What is the dose of {medicine}?", "What dose of {medicine} is given?"),
        "frequency": (
            "How often is {medicine} taken?",
            "When or how often should {medicine} be taken?",
        ),
        "allergen": ("What is the patient allergic to?", "Which allergy does the patient have?"),
        "reaction": ("What does the allergy cause?", "What reaction does the allergy give?"),
        "value": ("What is the {measure}?", "What was the {measure}?"),
        "test": ("Which test was ordered?", "What investigation is planned?"),
        "review": ("When is the follow-up?", "When will the patient be reviewed?"),
    },
)

HELDOUT = Wording(
    surnames=(
        "Achterberg Bellamy Castellano Dlamini Eriksson Fitzroy Georgiou Hargreaves Ibekwe "
        "Jankowski Kowalczyk Laurent Mbeki Nakamura Olufsen Pereira Rasmussen Sorensen Takahashi "
        "Vandenberg Whitlock Yamada"
    ),
    chronic=("five months", "nine weeks", "seven months", "eleven weeks"),
    acute=("five days", "six days", "nine days"),
    reviews=("on 9 May", "on 17 November", "on Tuesday", "on 23 March", "on Thursday morning"),
    allergies={
        "erythromycin": ("stomach cramps", "facial swelling"),
        "wasp stings": ("fainting", "facial swelling"),
        "adhesive plasters": ("blisters",),
        "kiwi fruit": ("a tight throat", "mouth tingling"),
        "morphine": ("fainting", "stomach cramps"),
        "cashews": ("a tight throat", "facial swelling"),
    },
    sentences={
        "opening": (
            "Seen today: {person} ({age} years) who describes {complaint}, present for {duration}.",
            "{age}-year-old {person} attends because of {complaint} over the past {duration}.",
        ),
        "opening_bare": (
            "Seen today: {person}, who describes {complaint}, present for {duration}.",
            "{person} attends because of {complaint} over the past {duration}.",
        ),
        "diagnosis": ("Assessed as {condition}.", "We agreed that it is {condition}."),
        "medicine": (
            "Prescribed {medicine}, {dose}, {frequency}.",
            "Uses {medicine} at {dose} {frequency}.",
        ),
        "medicine_bare": ("Stays on {medicine}.", "No change to {medicine}."),
        "allergy": (
            "Must avoid {allergen} because of {reaction}.",
            "Reacts to {allergen} with {reaction}.",
        ),
        "allergy_bare": ("Must avoid {allergen}.", "Known sensitivity: {allergen}."),
        "measure": ("{Measure} measured at {value}.", "{Measure} came back at {value}."),
        "test": ("Referred for {test}.", "Next step: {test}."),
        "review": ("Next visit {review}.", "Comes back {review}."),
    },
    questions={
        "age": ("Give the patient's age in years.",),
        "complaint": ("Why did the patient attend?", "Which problem brought the patient in?"),
        "duration": ("State how long the problem has been present.",),
        "condition": ("Which illness was identified?", "Name the patient's illness."),
        "dose": ("How much {medicine} does the patient get?", "State the {medicine} dose."),
        "frequency": ("At what times is {medicine} used?", "State the timing of {medicine}."),
        "allergen": ("What must the patient avoid because of an allergy?", "Name the allergy."),
        "reaction": ("What happens on contact with the allergen?",),
        "value": ("Give the {measure}.", "Report the result for {measure}."),
        "test": ("Which examination comes next?", "Name the test the patient is referred for."),
        "review": ("On which day is the next visit?", "State the date of the next visit."),
    },
)

SENTENCE_OF = {
    "age": "opening",
    "complaint": "opening",
    "duration": "opening",
    "condition": "diagnosis",
    "dose": "medicine",
    "frequency": "medicine",
    "allergen": "allergy",
    "reaction": "allergy",
    "value": "measure",
    "test": "test",
    "review": "review",
}
"""Kind of fact -> kind of the sentence that holds it."""
BARE = {"age": "opening_bare", "dose": "medicine_bare", "reaction": "allergy_bare"}
"""Facts whose sentence can name the thing and leave the fact out: the harder abstention."""
ABSENT = ("dose", "reaction", "value", "test", "review", "allergen", "age")
"""Facts that can be missing from a note. A complaint and its duration are always there."""
ORDER = ("opening", "diagnosis", "measure", "medicine", "other", "allergy", "test", "review")
"""Order of the sentences of a note."""


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    with (HERE / "cases.csv").open(encoding="utf-8", newline="") as file:
        cases = list(csv.DictReader(file))
    for name, wording in (("train", TRAIN), ("heldout", HELDOUT)):
        own = [case for case in cases if case["split"] == name]
        text = "".join(
            json.dumps(row, ensure_ascii=False) + "\n"
            for row in make_rows(own, wording, ROWS[name])
        )
        (directory / f"notes_{name}.jsonl").write_text(text, encoding="utf-8")


def make_rows(cases: list[dict[str, str]], wording: Wording, count: int) -> list[dict[str, str]]:
    """`count` distinct questions, the cases and kinds of fact in turn."""
    generator = random.Random(count)
    kinds = list(SENTENCE_OF)
    absent_every = round(1 / ABSTENTION_SHARE)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        index = len(rows)
        case = cases[index % len(cases)]
        absent = index % absent_every == absent_every - 1
        kind = ABSENT[index // absent_every % len(ABSENT)] if absent else generator.choice(kinds)
        row = make_row(case, wording, kind, absent, generator)
        rows[row["question"]] = row
    return list(rows.values())


def make_row(
    case: dict[str, str], wording: Wording, kind: str, absent: bool, generator: random.Random
) -> dict[str, str]:
    """One note of three or four sentences and a question about its fact `kind`."""
    facts, other = _draw(case, wording, generator)
    needed = SENTENCE_OF[kind]
    body = [part for part in ORDER if part not in ("opening", needed)]
    chosen = {"opening", *generator.sample(body, 2 if needed == "opening" or absent else 1)}
    chosen.add(needed)
    template_of = {part: part for part in chosen} | {"other": generator.choice(
        ("medicine", "medicine", "medicine_bare")
    )}  # fmt: skip
    if absent and kind in BARE and (kind == "age" or generator.random() < 0.7):
        template_of[needed] = BARE[kind]
    elif absent:
        chosen.remove(needed)
    sentences = []
    for part in ORDER:
        if part in chosen:
            sentence = generator.choice(wording.sentences[template_of[part]])
            sentences.append(_fill(sentence, other if part == "other" else facts))
    question = _fill(generator.choice(wording.questions[kind]), facts)
    return {
        "question": f"{' '.join(sentences)}\n{question}",
        "answer": NOT_STATED if absent else facts[kind],
        "kind": kind,
    }


def _draw(
    case: dict[str, str], wording: Wording, generator: random.Random
) -> tuple[dict[str, str], dict[str, str]]:
    """The facts of a note, and the same with the case's other medicine."""
    pick = generator.choice
    first, last = (int(age) for age in case["ages"].split("-"))
    medicines = f"{case['medicine']} {case['other_medicine']}"
    unsafe = {"penicillin": "cillin"}
    allergen = pick([name for name in wording.allergies if unsafe.get(name, name) not in medicines])
    facts = {
        "person": f"{pick('ABCDEFGHJKLMNPRSTW')}. {pick(wording.surnames.split())}",
        "age": str(pick(range(first, last + 1, 2))),
        "complaint": case["complaint"],
        "duration": pick(wording.chronic if case["course"] == "chronic" else wording.acute),
        "condition": case["condition"],
        "medicine": case["medicine"],
        "dose": pick(case["doses"].split(";")),
        "frequency": pick(case["frequencies"].split(";")),
        "allergen": allergen,
        "reaction": pick(wording.allergies[allergen]),
        "measure": case["measure"],
        "value": pick(case["values"].split(";")),
        "test": case["test"],
        "review": pick(wording.reviews),
    }
    other = {
        "medicine": case["other_medicine"],
        "dose": pick(case["other_doses"].split(";")),
        "frequency": pick(case["other_frequencies"].split(";")),
    }
    return facts, other


def _fill(template: str, facts: dict[str, str]) -> str:
    """The template with its facts; `{Medicine}` is the fact `medicine` with a capital."""
    capitals = {key.capitalize(): value[0].upper() + value[1:] for key, value in facts.items()}
    return template.format(**facts, **capitals)


if __name__ == "__main__":
    main()
