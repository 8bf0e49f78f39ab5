from hypothesis import given
from hypothesis import strategies as st

from kata.protocol.text import clean_text


@given(st.text(), st.sampled_from(["", "\t", "\n\t"]))
def test_what_is_left_is_printable_or_to_be_kept_and_as_long_as_before(text: str, keep: str) -> None:
    cleaned = clean_text(text, keep)
    assert all(character.isprintable() or character in keep for character in cleaned)
    assert len(cleaned) == len(text)
    assert all(after in (before, "?") for before, after in zip(text, cleaned, strict=True))


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_printable_text_of_any_script_stays(text: str) -> None:
    assert clean_text(text) == text
