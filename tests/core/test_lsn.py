import pickle

import pytest

from realtime_core import LSN


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0/0", 0),
        ("0/1", 1),
        ("0/FFFFFFFF", 2**32 - 1),
        ("1/0", 2**32),
        ("16/B374D848", 0x16_B374D848),
        ("A9/1C2F178", 0xA9_01C2F178),
        ("FFFFFFFF/FFFFFFFF", 2**64 - 1),
    ],
)
def test_text_is_two_hexadecimal_halves(text: str, value: int) -> None:
    assert LSN.parse(text) == value
    assert str(LSN(value)) == text


@pytest.mark.parametrize("text", ["16/b374d848", "00000016/B374D848", "016/B374D848"])
def test_parse_takes_lower_case_and_leading_zeros(text: str) -> None:
    assert LSN.parse(text) == LSN(0x16_B374D848)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "0",
        "0/",
        "/0",
        "0/0/0",
        "0/G",
        "0x1/0",
        "-1/0",
        "+1/0",
        " 0/0",
        "0/0\n",
        "123456789/0",
        "0/123456789",
        "٣/٣",
        "1_0/0",
    ],
)
def test_parse_refuses_what_is_no_lsn(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        LSN.parse(text)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_an_lsn_has_64_bits(value: int) -> None:
    with pytest.raises(ValueError, match="between 0 and"):
        LSN(value)


def test_lsns_compare_as_numbers_not_as_text() -> None:
    assert LSN.parse("9/0") < LSN.parse("10/0")
    assert LSN.parse("0/FFFFFFFF") < LSN.parse("1/0")


def test_a_difference_is_in_bytes() -> None:
    assert LSN.parse("1/10") - LSN.parse("0/FFFFFFF0") == 0x20


def test_repr_shows_the_text() -> None:
    assert repr(LSN.parse("16/B374D848")) == "LSN('16/B374D848')"


def test_format_without_a_spec_is_the_text() -> None:
    assert f"{LSN.parse('16/B374D848')}" == "16/B374D848"


def test_format_with_a_spec_is_that_of_an_int() -> None:
    assert f"{LSN(255):#06x}" == "0x00ff"


def test_the_default_is_the_beginning_of_the_log() -> None:
    assert LSN() == LSN.parse("0/0")


def test_an_lsn_can_be_pickled() -> None:
    lsn = LSN.parse("16/B374D848")
    twin = pickle.loads(pickle.dumps(lsn))
    assert (type(twin), twin) == (LSN, lsn)
