"""What is masked in logs, and what must stay readable."""

import json
from pathlib import Path

import pytest

from medgpt_ray.guard.personal import mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("My name is John Smith.", "My name is [name]."),
        ("Ask Dr. Watson", "Ask Dr. [name]"),
        ("mail j.s+x@mail.example.org now", "mail [email] now"),
        ("call 415-555-0134 or +44 20 7946 0958", "call [phone] or [phone]"),
        ("my phone is 5550134567", "my phone is [phone]"),
        ("SSN 123-45-6789", "SSN [identity]"),
        ("MRN: 12345678", "MRN: [record]"),
        ("card 4111 1111 1111 1111", "card [card]"),
        ("DOB 03/04/1980", "DOB [birth date]"),
        ("I was born on March 4, 1980", "I was born on [birth date]"),
        ("I live at 221 Baker Street", "I live at [address]"),
        ("我叫张三丰，", "我叫[name]，"),
        ("姓名：欧阳明，男", "姓名：[name]，男"),
        ("患者李四，男，45岁", "患者[name]，男，45岁"),
        ("电话13812345678", "电话[phone]"),
        ("座机010-62345678", "座机[phone]"),
        ("身份证110101199003078515", "身份证[identity]"),
        ("病历号：20231234", "病历号：[record]"),
        ("出生日期：1980年3月4日", "出生日期：[birth date]"),
        ("家住北京市海淀区中关村大街1号。", "家住[address]。"),
        ("Medical record 12345678", "Medical record [record]"),
        ("6222 0212 3456 7890 123", "[card]"),
        ("卡 6222021234567890123", "卡 [card]"),
    ],
)
def test_personal_data_is_masked(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "BP 120/80, pulse 72, 500 mg three times a day, HbA1c 7.2%",
        "platelets 150000-450000, WBC 11500, potassium 3.5 to 5.0 mmol/L",
        "seen on 2024-05-06, glucose 180 250 300 310 at 8 12 16 20",
        "体温38.5，血压120/80，每日3次，每次0.5g，患者高热三天",
        "What name has the vessel? I am tired and live alone.",
        "我是学生，想问布洛芬怎么吃",
        "Address the pain with 5 mg ibuprofen daily.",
        "我住院了三天，老婆左侧胸痛",
        "Mother: Breast Cancer. Patient: Diabetes, Hypertension",
        "主任医师查房",
    ],
)
def test_medicine_stays(text):
    assert mask(text) == text


LINES = [json.loads(line) for line in Path(__file__).with_name("personal.jsonl").open()]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line["text"][:30])
def test_what_patients_and_clinicians_write(line):
    masked = mask(line["text"])
    assert [secret for secret in line["secrets"] if secret in masked] == []
    assert [kept for kept in line["kept"] if kept not in masked] == []
