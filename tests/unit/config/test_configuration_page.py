"""docs/configuration.md says what the program knows."""

from tools.generate_configuration_page import PAGE, page


def test_configuration_page__is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python tools/generate_configuration_page.py"
