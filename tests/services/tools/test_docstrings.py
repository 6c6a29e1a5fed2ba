from voicebus.services.tools import docstrings


def test_the_first_paragraph_in_one_line_is_what_the_model_reads() -> None:
    found = docstrings.read("Book a table\n    for tonight.\n\n    Never twice.\n    ")

    assert found.summary == "Book a table for tonight."


def test_google_arguments_may_have_types_and_go_over_lines() -> None:
    found = docstrings.read(
        """Book.

        Args:
            people (int): how many
                come to dinner
            when: tonight: or tomorrow

        Returns:
            nothing: much
        """
    )

    assert found.parameters == {
        "people": "how many come to dinner",
        "when": "tonight: or tomorrow",
    }


def test_sphinx_fields_name_parameters_with_or_without_a_type() -> None:
    found = docstrings.read(
        """Book.

        :param people: how many
            come
        :param str name: the guest's
        :returns: nothing
        """
    )

    assert found.parameters == {"people": "how many come", "name": "the guest's"}
    assert found.summary == "Book."


def test_no_docstring_says_nothing() -> None:
    assert docstrings.read(None) == docstrings.Documentation("", {})
