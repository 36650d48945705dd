import re

from service.experiment.answer_id import new_answer_id, prefix_of


def test_id_has_32_digits_of_which_the_first_8_say_the_version():
    version = "306f1bf5c1779dbd"

    ids = {new_answer_id(version) for _ in range(1000)}

    assert len(ids) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)
    assert {each[:8] for each in ids} == {prefix_of(version)}
    assert prefix_of("0000000000000000") != prefix_of(version)
