"""What is masked in logs, and what must stay readable."""

import json
import time
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


RECORD = {
    "姓名": "张伟",
    "电话": "62345678",
    "住址": "中关村大街1号",
    "name": 'John "Jack" Smith',
    "dob": "1990-03-07",
    "birth_date": "1990-03-07T10:00",
    "date_of_birth": 19900307,
    "mrn": "12345678",
    "ssn": "123456789",
    "phone_number": "62345678",
    "id_card": "A1234567",
    "patient": "John Smith",
    "given": ["Jane"],
    "note": "Hello\nName: John Smith\n13800138000",
}
SECRETS = ("张", "伟", "6234", "中关村", "J", "Smith", "199", "1234", "6789", "1380", "8000")


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("nested", [0, 1, 2])
def test_nothing_is_left_of_what_a_tool_says_in_json(nested, ascii_only):
    said = json.dumps(RECORD, ensure_ascii=ascii_only)
    for _ in range(nested):
        said = json.dumps({"result": said}, ensure_ascii=ascii_only)
    for text in (said, f"Result: {said}"):
        masked = mask(text)
        assert [secret for secret in SECRETS if secret in masked] == []
        assert "Hello" in masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (r"138\u0030013\u0038000", "[phone]"),
        (r"\\u0031\\u0033800138000", "[phone]"),
        (r"{\u0022name\u0022: \u0022John Smith\u0022}", r"{\"name\": \"[name]\"}"),
        (r'{"dob": "03\/04\/1980"}', '{"dob": "[birth date]"}'),
        (str({"name": "O'Brien", "dob": 19800304}), """{'name': "[name]", 'dob': [birth date]}"""),
        ('{"name": "' + "x" * 500 + '", "dose": "5 mg"}', '{"name": "[name]", "dose": "5 mg"}'),
        (r"\ud83d\ude00 \ud83d", "\U0001f600 \ufffd"),
        (r"$\nu \times \beta$", r"$\nu \times \beta$"),
        ("\\u\uff10\uff11\uff12\uff13", "\\u\uff10\uff11\uff12\uff13"),
        ('{"drug_name": "aspirin", "dose": "5 mg"}', '{"drug_name": "aspirin", "dose": "5 mg"}'),
    ],
)
def test_escapes_are_read(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text", ["\\", '"', "'name'", '"name":', "\\u0031", '"name" ', '{"', "\\n"]
)
def test_no_text_keeps_the_mask_busy(text):
    began = time.process_time()
    mask(text * (10_000 // len(text)))
    assert time.process_time() - began < 2


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
