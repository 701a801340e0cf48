from scldm.pl._style import category_styles, natural


def test_sixty_types_look_different():
    styles = category_styles([str(i) for i in range(60)])
    assert len(set(styles.values())) == 60


def test_numbers_are_sorted_as_numbers_and_case_does_not_matter():
    assert sorted(["b", "10", "A", "9"], key=natural) == ["9", "10", "A", "b"]
    assert sorted(["c 10", "C 9", "c", "9 c"], key=natural) == ["9 c", "c", "C 9", "c 10"]
