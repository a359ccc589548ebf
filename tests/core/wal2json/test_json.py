"""JSON texts to objects, exactly, and what wal2json writes that is not JSON."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_core import DecodeError, Insert, TruncatedMessageError
from realtime_core.wal2json import parse
from realtime_core.wal2json._json import load, message_content
from realtime_core.wal2json._repair import repair


@pytest.mark.parametrize(
    "number",
    ["12345678901234567890.123456789", "9007199254740993", "1.50", "-0", "0.000", "1e+400", "1E-7"],
)
def test_a_number_stays_its_text(number: str) -> None:
    assert load(f"[{number}]") == [number]


def test_white_space_around_a_text_does_not_matter() -> None:
    assert load(' \r\n\t{"a":"b"}\n') == {"a": "b"}


@pytest.mark.parametrize(
    "text", ["", " ", "{", '{"a', '{"a"', '{"a":', '{"a":1', '{"a":[{}', '{"a":"\\', "[[[", '"a\\"']
)
def test_a_text_that_ends_too_early_is_truncated(text: str) -> None:
    with pytest.raises(TruncatedMessageError, match="ends after"):
        load(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}}", "a second value at character 2"),
        ("{}\n{}", "a second value at character 3"),
        ("{a:1}", "property name"),
        ('{"a":NaN}', "NaN"),
        ('{"a":-Infinity}', "Infinity"),
        ('{"a":"\x01"}', "control character"),
        ('{"a":"\\q"}', "escape"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_one_json_text_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        load(text)


def test_an_error_does_not_quote_the_data() -> None:
    with pytest.raises(DecodeError) as caught:
        load('{"secret":"hunter2"')
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ['{"a":"\\ud800"}', '{"a":"\\uDC00x"}', '{"\\udc00":1}', '{"a":[["\ud800"]]}', b'"\xff"'],
)
def test_what_is_not_unicode_is_an_error(text: Any) -> None:
    with pytest.raises(DecodeError, match="not UTF-8"):
        load(text)


def test_a_surrogate_pair_is_a_character() -> None:
    assert load(r'["\ud83d\ude80"]') == ["🚀"]
    assert load(r'["\\ud800"]') == [r"\ud800"]


def test_undecodable_bytes_of_a_messages_content_are_kept() -> None:
    value = load(b'{"content":"AB\xff\xfe\xc3"}')
    assert message_content(value["content"]) == b"AB\xff\xfe\xc3"


def test_half_a_surrogate_pair_in_a_messages_content_is_an_error() -> None:
    value = load(r'{"content":"\ud800"}')
    with pytest.raises(DecodeError, match="surrogate"):
        message_content(value["content"])


# Written by wal2json 2.6 on PostgreSQL 17.

FORMAT_1 = r"""{"change":[{"kind":"insert","schema":"public","table":"Odd","columnnames":["id","a",
"b","c","d","e","f","r","t","w"],"columntypes":["integer","My schema"."My Type",
"My schema".plain,"plain.\"Quoted\"","we""ird","\"Mixed\"[]","numeric(5,2)","jsonb","text","text"],
"columndefaults":["nextval('"Odd_id_seq"'::regclass)","'a'::"My schema"."My Type"",null,null,null,
null,null,"'[{"a": "b"}]'::jsonb","'x
y"}],'::text","'\d'::text"],"columnvalues":[1,"a","a","a","a","{a}",1.50,"[{\"a\": \"b\"}]",
"x\ny\"}],","\\d"],"pk":{"pknames":["id"],"pktypes":["Mixed"[]]}}]}"""
FORMAT_2 = r"""{"action":"I","schema":"public","table":"Odd","columns":[{"name":"id","type":
"integer","value":1,"default":"nextval('"Odd_id_seq"'::regclass)"},{"name":"a","type":"My schema".
"My Type","value":"a","default":"'a'::"My schema"."My Type""},{"name":"b","type":"My schema".plain,
"value":"a","default":null},{"name":"c","type":"plain.\"Quoted\"","value":"a","default":null},
{"name":"d","type":"we""ird","value":"a","default":null},{"name":"e","type":"\"Mixed\"[]","value":
"{a}","default":null},{"name":"f","type":"numeric(5,2)","value":1.50,"default":null},{"name":"r",
"type":"jsonb","value":"[{\"a\": \"b\"}]","default":"'[{"a": "b"}]'::jsonb"},{"name":"t","type":
"text","value":"x\ny\"}],","default":"'x
y"}],'::text"},{"name":"w","type":"text","value":"\\d","default":"'\d'::text"}],"pk":[{"name":"id",
"type":"Mixed"."x"}]}"""


def as_written(text: str) -> str:
    """Undo the lines of this file, but for the one line end that is in a default."""
    return text.replace("\n", "").replace("'xy", "'x\ny")


@pytest.mark.parametrize("text", [as_written(FORMAT_1), as_written(FORMAT_2)])
def test_what_wal2json_does_not_escape_is_read_all_the_same(text: str) -> None:
    """A default expression, and a type's name that starts with a quoted identifier."""
    (change,) = parse(text)
    assert isinstance(change, Insert)
    assert change.record.as_text() == {
        "id": "1",
        "a": "a",
        "b": "a",
        "c": "a",
        "d": "a",
        "e": "{a}",
        "f": "1.50",
        "r": '[{"a": "b"}]',
        "t": 'x\ny"}],',
        "w": "\\d",
    }
    assert [(column.type_schema, column.type_name) for column in change.relation.columns][1:6] == [
        ("My schema", "My Type"),
        ("My schema", "plain"),
        ("plain", "Quoted"),
        ("", 'we"ird'),
        ("", "_Mixed"),
    ]


def test_a_text_without_mistakes_is_left_alone_by_the_repair() -> None:
    text = r'{"columns":[{"name":"a","type":"text","value":",\"default\":\"x\"}]"}]}'
    assert repair(text) == text


def test_a_default_that_never_ends_is_an_error() -> None:
    with pytest.raises(DecodeError):
        load('{"columns":[{"name":"a","default":"a"b"}]' + ',"default":"' * 1000)
