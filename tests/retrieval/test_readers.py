"""Every kind of file: its text, headings and places; and one clear error for one that is broken."""

from pathlib import Path
from zipfile import ZipFile

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsmap
from PIL import Image
from pypdf import PdfWriter

from medgpt_ray.retrieval.blocks import Block, Place, Remark
from medgpt_ray.retrieval.errors import RetrievalError
from medgpt_ray.retrieval.readers import read


def shown(blocks: list[Block]) -> list[tuple[str, str, Place]]:
    return [(" > ".join(block.heading), block.text, block.place(0)) for block in blocks]


def line(number: int) -> Place:
    return Place(line=number)


def test_markdown(tmp_path: Path) -> None:
    file = tmp_path / "note.md"
    file.write_text(
        "---\ntitle: no text\n---\n# Asthma\n\nA **mild**\n[attack](http://x).\n\n## Drugs\n\n"
        "- one\n- two\n\n| Drug | Dose |\n|---|---|\n| A | 5 mg |\n\n```\n# no heading\n```\n"
        "# 哮喘\n第一行\n第二行。\n"
    )
    assert shown(read(file)) == [
        ("Asthma", "A mild attack.", line(6)),
        ("Asthma > Drugs", "one", line(11)),
        ("Asthma > Drugs", "two", line(12)),
        ("Asthma > Drugs", "Drug: A; Dose: 5 mg", line(16)),
        ("Asthma > Drugs", "# no heading", line(19)),
        ("哮喘", "第一行第二行。", line(22)),
    ]
    assert read(file)[0].place(len("A mild a")) == line(7)


def test_text_with_wrapped_lines_and_capitals(tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    file.write_text(
        "IRON\n\nA ferritin below thirty proves that iron is\nlacking in the stores. More.\n\n"
        "TREATMENT\n\nOne tablet on alternate days is absorbed as\nwell as daily ones:\n"
        "- with juice\n- without tea\n"
    )
    assert shown(read(file)) == [
        (
            "IRON",
            "A ferritin below thirty proves that iron is lacking in the stores. More.",
            line(3),
        ),
        (
            "IRON > TREATMENT",
            "One tablet on alternate days is absorbed as well as daily ones:",
            line(8),
        ),
        ("IRON > TREATMENT", "- with juice", line(10)),
        ("IRON > TREATMENT", "- without tea", line(11)),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_chinese_text_with_numbered_headings(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "痛风.txt"
    text = (
        "痛风\n\n一、诊断\n关节突然红肿热痛。血尿酸可以正常。\n二、治疗\n1. 秋水仙碱\n2. 泼尼松\n"
    )
    file.write_text(text, encoding=encoding)
    assert shown(read(file)) == [
        ("痛风 > 一、诊断", "关节突然红肿热痛。血尿酸可以正常。", line(4)),
        ("痛风 > 二、治疗", "1. 秋水仙碱", line(6)),
        ("痛风 > 二、治疗", "2. 泼尼松", line(7)),
    ]


def test_jsonl_with_english_and_chinese_keys(tmp_path: Path) -> None:
    file = tmp_path / "faq.jsonl"
    file.write_text(
        '{"question": "How?", "answer": "So.\\nAnd so."}\n\n{"问": "怎么办?", "答": "休息。"}\n'
        '{"text": "Alone."}\n'
    )
    blocks = read(file)
    assert shown(blocks) == [
        ("How?", "So.", line(1)),
        ("How?", "And so.", line(1)),
        ("怎么办?", "休息。", line(3)),
        ("", "Alone.", line(4)),
    ]
    assert [block.section for block in blocks] == [1, 1, 2, 3]


def test_jsonl_keeps_what_stands_beside_an_instruction(tmp_path: Path) -> None:
    file = tmp_path / "alpaca.jsonl"
    file.write_text(
        '{"instruction": "Answer the patient.", "input": "May I drive?", "output": "Not yet."}\n'
        '{"question": "Dose?", "context": "Kidneys are weak.", "answer": "Half.", "input": ""}\n'
    )
    assert [(block.heading[0], block.text) for block in read(file)] == [
        ("Answer the patient.", "May I drive?"),
        ("Answer the patient.", "Not yet."),
        ("Dose?", "Kidneys are weak."),
        ("Dose?", "Half."),
    ]
    file.write_text('{"instruction": "Alone", "input": "no answer"}\n')
    with pytest.raises(
        RetrievalError, match=r"no text under any of .* \(has: instruction, input\)"
    ):
        read(file)


def test_jsonl_tells_every_bad_row(tmp_path: Path) -> None:
    file = tmp_path / "faq.jsonl"
    file.write_text('{"text": "ok"}\n{"text"\n{"body": "x"}\n[1]\n')
    with pytest.raises(RetrievalError) as refused:
        read(file)
    problems = [problem.removeprefix(str(file)) for problem in refused.value.problems]
    assert [problem[:2] for problem in problems] == [":2", ":3", ":4"]
    assert "(has: body)" in problems[1]
    file.write_text("[]\n" * 40)
    with pytest.raises(RetrievalError, match=r"\.\.\. and 35 more such rows") as refused:
        read(file)
    assert len(refused.value.problems) == 6


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (r'{"text": "\ud83d"}', "half of a surrogate pair"),
        ('{"text": "x", "more": ' + "[" * 200_000 + "]" * 200_000 + "}", "not readable JSON: maxi"),
        ('{"text": "x", "more": ' + "1" * 6_000 + "}", "not readable JSON: Exceeds"),
    ],
)
def test_a_row_that_is_more_than_python_or_a_model_takes(
    tmp_path: Path, row: str, reason: str
) -> None:
    (tmp_path / "faq.jsonl").write_text(f'{row}\n{{"text": "ok"}}\n[1]\n')
    with pytest.raises(RetrievalError) as refused:
        read(tmp_path / "faq.jsonl")
    first, last = refused.value.problems
    assert f"faq.jsonl:1: {reason}" in first
    assert "faq.jsonl:3: no text" in last


def test_word(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Sepsis", 1)
    document.add_heading("First hour", 2)
    document.add_paragraph("Take cultures.")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(table._cells, ["Situation", "Within", "Shock", "one hour"], strict=True):
        cell.text = text
    document.save(str(tmp_path / "sepsis.docx"))
    assert shown(read(tmp_path / "sepsis.docx")) == [
        ("Sepsis > First hour", "Take cultures.", line(3)),
        ("Sepsis > First hour", "Situation: Within", line(4)),
        ("Sepsis > First hour", "Shock: one hour", line(4)),
    ]


def _word(tmp_path: Path, body: str) -> list[str]:
    """The texts that are read from a Word file with this body in it."""
    names = " ".join(f'xmlns:{name}="{nsmap[name]}"' for name in ("w", "wp", "a"))
    document = docx.Document()
    for element in parse_xml(f"<w:body {names}>{body}</w:body>"):
        document.element.body.insert_element_before(element, "w:sectPr")
    document.save(str(tmp_path / "note.docx"))
    return [block.text for block in read(tmp_path / "note.docx")]


def _run(text: str, properties: str = "") -> str:
    space = 'xml:space="preserve"'
    return f"<w:r><w:rPr>{properties}</w:rPr><w:t {space}>{text}</w:t></w:r>"


def test_word_is_read_with_its_changes_accepted(tmp_path: Path) -> None:
    deleted = "<w:del><w:r><w:delText>10 mg</w:delText></w:r></w:del>"
    body = (
        f"<w:p>{_run('Give ')}<w:ins>{_run('5 mg')}</w:ins>{deleted}{_run(' daily.')}</w:p>"
        f"<w:p><w:moveFrom>{_run('Moved away.')}</w:moveFrom></w:p>"
        f"<w:p><w:moveTo>{_run('Moved here.')}</w:moveTo></w:p>"
    )
    assert _word(tmp_path, body) == ["Give 5 mg daily.", "Moved here."]


def test_content_controls_and_text_boxes_of_word(tmp_path: Path) -> None:
    def control(content: str) -> str:
        return f"<w:sdt><w:sdtPr/><w:sdtContent>{content}</w:sdtContent></w:sdt>"

    box = f"<w:txbxContent><w:p>{_run('In the box.')}</w:p></w:txbxContent>"
    body = (
        control(f"<w:p>{_run('A whole paragraph.')}</w:p>")
        + f"<w:p>{_run('Dose: ')}{control(_run('5 mg'))}</w:p>"
        + f"<w:p>{_run('Beside a box.')}<w:r><w:pict>{box}</w:pict></w:r></w:p>"
    )
    assert _word(tmp_path, body) == [
        "A whole paragraph.",
        "Dose: 5 mg",
        "Beside a box.",
        "In the box.",
    ]


def _table(*rows: list[str], header: str = "") -> str:
    """Of cells that are text or the XML of a cell."""

    def cell(content: str) -> str:
        known = content.startswith("<w:tc>")
        return content if known else f"<w:tc><w:p>{_run(content)}</w:p></w:tc>"

    marks = [header, *[""] * (len(rows) - 1)]
    cells = ["".join(map(cell, row)) for row in rows]
    pairs = zip(marks, cells, strict=True)
    inner = "".join(f"<w:tr><w:trPr>{mark}</w:trPr>{row}</w:tr>" for mark, row in pairs)
    return f"<w:tbl><w:tblPr/><w:tblGrid/>{inner}</w:tbl>"


def test_tables_of_word(tmp_path: Path) -> None:
    labels = _table(["Drug", "Warfarin"], ["Dose:", "5 mg"])
    assert _word(tmp_path, labels) == ["Drug: Warfarin", "Dose: 5 mg"]
    marked = _table(["Drug", "Most"], ["Warfarin", "5 mg"], header="<w:tblHeader/>")
    assert _word(tmp_path, marked) == ["Drug: Warfarin; Most: 5 mg"]
    nested = f"<w:tc><w:p>{_run('See')}</w:p>{labels}<w:p/></w:tc>"
    three = _table(["Name", "Age", "Plan"], ["Li", "40", nested])
    assert _word(tmp_path, three) == ["Name: Li; Age: 40; Plan: See Drug: Warfarin Dose: 5 mg"]


def test_merged_cells_of_word(tmp_path: Path) -> None:
    def merged(text: str, mark: str) -> str:
        return f"<w:tc><w:tcPr>{mark}</w:tcPr><w:p>{_run(text)}</w:p></w:tc>"

    begins, goes_on = '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    wide = '<w:gridSpan w:val="2"/>'
    body = _table(
        ["Drug", "Use", "Dose"],
        [merged("Aspirin", begins), "pain", "500 mg"],
        [merged("", goes_on), "heart", "75 mg"],
        [merged("Any other", wide), "ask"],
    )
    assert _word(tmp_path, body) == [
        "Drug: Aspirin; Use: pain; Dose: 500 mg",
        "Drug: Aspirin; Use: heart; Dose: 75 mg",
        "Drug: Any other; Dose: ask",
    ]


def test_numbers_of_lists(tmp_path: Path) -> None:
    document = docx.Document()
    for text in ("Wash hands.", "Draw up."):
        document.add_paragraph(text, style="List Number")
    document.add_paragraph("No number.", style="List Bullet")
    document.add_paragraph("Inject.", style="List Number")
    document.save(str(tmp_path / "steps.docx"))
    texts = [block.text for block in read(tmp_path / "steps.docx")]
    assert texts == ["1. Wash hands.", "2. Draw up.", "No number.", "3. Inject."]
    (tmp_path / "steps.md").write_text("3. Wash\n   hands.\n\n   More.\n4. Inject.\n\n- dot\n")
    texts = [block.text for block in read(tmp_path / "steps.md")]
    assert texts == ["3. Wash hands.", "More.", "4. Inject.", "dot"]


@pytest.mark.parametrize("content", [b"not a zip", b"PK\x03\x04 cut off", b""])
def test_broken_word_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.docx").write_bytes(content)
    with pytest.raises(RetrievalError, match=r"x\.docx: not a readable \.docx"):
        read(tmp_path / "x.docx")


def test_damaged_word_file(tmp_path: Path) -> None:
    docx.Document().save(str(tmp_path / "whole.docx"))
    with ZipFile(tmp_path / "whole.docx") as whole, ZipFile(tmp_path / "x.docx", "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, whole.read(name).replace(b"w:body", b"w:bodx"))
    with pytest.raises(RetrievalError, match=r"x\.docx: not a readable \.docx"):
        read(tmp_path / "x.docx")
    listed = '<w:numPr><w:ilvl w:val="?"/><w:numId w:val="1"/></w:numPr>'
    with pytest.raises(RetrievalError, match=r"note\.docx: not a readable \.docx"):
        _word(tmp_path, f"<w:p><w:pPr>{listed}</w:pPr>{_run('Give 5 mg.')}</w:p>")


def test_pdf_has_pages_and_a_sentence_may_go_over_one(tmp_path: Path, write_pdf) -> None:
    pages = [
        [
            "Acute stroke",
            "1. Drugs",
            "Alteplase is given within four and a half hours of the first",
        ],
        ["symptoms. It is not given after sur-", "gery of the brain in the last month.", "- 2 -"],
    ]
    blocks = read(write_pdf(tmp_path / "stroke.pdf", pages))
    assert [block.heading for block in blocks] == [("Acute stroke", "1. Drugs")] * len(blocks)
    text = " ".join(block.text for block in blocks)
    assert text == (
        "Alteplase is given within four and a half hours of the first symptoms. "
        "It is not given after surgery of the brain in the last month."
    )
    assert blocks[0].place(0) == Place(page=1)
    assert blocks[0].place(blocks[0].text.index("symptoms")) == Place(page=2)


def test_encrypted_pdf(tmp_path: Path, write_pdf) -> None:
    source = write_pdf(tmp_path / "open.pdf", [["Secret dose."]])
    for password, readable in (("", True), ("key", False)):
        writer = PdfWriter(clone_from=source)
        writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
        writer.write(tmp_path / "closed.pdf")
        if readable:  # only printing and the like is restricted
            assert [block.text for block in read(tmp_path / "closed.pdf")] == ["Secret dose."]
        else:
            with pytest.raises(RetrievalError, match=r"closed\.pdf: encrypted, decrypt it first"):
                read(tmp_path / "closed.pdf")


@pytest.mark.parametrize("content", [b"", b"%PDF-1.4\n garbage", b"plain text"])
def test_broken_pdf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pdf").write_bytes(content)
    with pytest.raises(RetrievalError, match=r"x\.pdf: not a readable PDF"):
        read(tmp_path / "x.pdf")


def test_damaged_pdf(tmp_path: Path, write_pdf) -> None:
    data = write_pdf(tmp_path / "x.pdf", [["Give 5 mg."]]).read_bytes()
    (tmp_path / "x.pdf").write_bytes(data.replace(b"<< /Length", b"<< /Filter /Ascii /Length"))
    with pytest.raises(RetrievalError, match=r"x\.pdf: not a readable PDF: .*Ascii"):
        read(tmp_path / "x.pdf")


def test_half_a_character_of_a_pdf_is_told_to_be_one(tmp_path: Path, write_pdf) -> None:
    file = write_pdf(tmp_path / "x.pdf", [["Give 5 mg AB A."]])
    halves = b"<< /Differences [65 /uniD83D /uniDE00] >>"
    file.write_bytes(file.read_bytes().replace(b"/WinAnsiEncoding", halves))
    assert [block.text for block in read(file)] == ["Give 5 mg 😀 �."]


def test_pdf_without_text(tmp_path: Path, write_pdf) -> None:
    with pytest.raises(RetrievalError, match=r"scan\.pdf: no text in it .*ocrmypdf"):
        read(write_pdf(tmp_path / "scan.pdf", [[]]))


def test_a_scanned_page_among_others_is_told(tmp_path: Path, write_pdf) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "scan.pdf")
    writer = PdfWriter(clone_from=write_pdf(tmp_path / "text.pdf", [["Give 5 mg."], []]))
    writer.append(tmp_path / "scan.pdf")
    writer.write(tmp_path / "mixed.pdf")
    remark, block = read(tmp_path / "mixed.pdf")
    assert block.text == "Give 5 mg."
    assert isinstance(remark, Remark)
    assert "mixed.pdf, p. 3: only a picture" in remark.text
    assert "ocrmypdf --skip-text" in remark.text


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    for data in (b"\x00\x81\xff", b"\xff\xfe\x00", b"\xff\xfe\x00\x00"):
        (tmp_path / "x.txt").write_bytes(data)
        with pytest.raises(RetrievalError, match=r"x\.txt: neither UTF-8, UTF-16 nor GB18030"):
            read(tmp_path / "x.txt")


@pytest.mark.parametrize(
    "text",
    [
        "Give 5 mg once daily for a week and then stop.\n\nDr A. Smith\n",
        "每次5毫克,每日一次,一周后停药。\n\n2026年3月修订\n",
        "Digoxin is given once daily\n",
    ],
)
def test_a_short_last_line_is_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "note.txt").write_text(text)
    assert [block.text for block in read(tmp_path / "note.txt")] == text.strip().split("\n\n")


def test_a_first_section_is_not_above_the_second(tmp_path: Path) -> None:
    file = tmp_path / "fasting.txt"
    file.write_text("(一)成人\n清饮料2小时后方可手术。\n\n(二)婴幼儿\n母乳4小时。\n")
    assert [block.heading for block in read(file)] == [("(一)成人",), ("(二)婴幼儿",)]


def test_lines_of_fact_are_no_headings(tmp_path: Path) -> None:
    file = tmp_path / "plan.txt"
    file.write_text(
        "Walk after a day, and bathe after two if walking.\nNo driving: 6 weeks\n"
        "The wound clips are removed on the tenth day by the nurse.\n10 mg at night\n"
        "2.5 mg tablets\nThe dose is the same for all.\n"
    )
    text = " ".join(block.text for block in read(file))
    assert all(fact in text for fact in ("No driving: 6 weeks", "10 mg at night", "2.5 mg tablets"))


def test_a_form_feed_is_no_line(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("First page here.\n\f\nSecond page here.\n")
    assert [block.place(0) for block in read(tmp_path / "two.txt")] == [line(1), line(3)]


def test_html_in_markdown_loses_no_dose(tmp_path: Path) -> None:
    file = tmp_path / "note.md"
    file.write_text(
        "| Drug | Dose |\n|---|---|\n| Amlodipine | 5<br>10 mg |\n\n10<sup>9</sup> cells.\n\n"
        "<table><tr><th>Drug</th><th>Dose</th></tr>\n"
        "<tr><td>Meropenem</td><td>500 mg every 12 h</td></tr></table>\n\n<!-- hidden -->\n\nEnd.\n"
    )
    assert [block.text for block in read(file)] == [
        "Drug: Amlodipine; Dose: 5 10 mg",
        "10^9 cells.",
        "Drug; Dose Meropenem; 500 mg every 12 h",
        "End.",
    ]


@pytest.mark.parametrize(
    "head",
    [
        "<!DOCTYPE html>\n",
        "<!DOCTYPE html>\n<html>\n<head>\n<title>Plan</title>\n</head>\n\n",
        "<html>\n\n",
    ],
)
def test_html_saved_as_markdown(tmp_path: Path, head: str) -> None:
    (tmp_path / "note.md").write_text(f"{head}<body>\f<p>Give 5 mg.</p>\n</body>\n")
    assert [block.text for block in read(tmp_path / "note.md")] == ["Give 5 mg."]


def test_raised_numbers_in_word(tmp_path: Path) -> None:
    document = docx.Document()
    paragraph = document.add_paragraph("Neutrophils below 0.5 x 10")
    paragraph.add_run("9").font.superscript = True
    paragraph.add_run("/l")
    cell = document.add_table(1, 1).cell(0, 0).paragraphs[0]
    cell.add_run("10")
    cell.add_run("6").font.superscript = True
    document.save(str(tmp_path / "note.docx"))
    texts = [block.text for block in read(tmp_path / "note.docx")]
    assert texts == ["Neutrophils below 0.5 x 10^9/l", "10^6"]
