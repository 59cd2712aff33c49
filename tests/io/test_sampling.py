from lit_hour.io.sampling import evenly_spaced_indices, seed_of


def test_seed_never_changes() -> None:
    """Other numbers would change every random draw: initial weights, data order, forgetting."""
    assert seed_of("0 llm.embed") == 0x8F8B8987759EAB
    assert seed_of("a", 2) == 51863


def test_evenly_spaced_indices_have_the_first_and_the_last_item() -> None:
    for rounding in ("exact", "linspace", "nearest"):
        for num_items in (1, 2, 7, 100):
            for num_chosen in range(1, num_items + 1):
                indices = evenly_spaced_indices(num_items, num_chosen, rounding)
                assert len(set(indices)) == num_chosen and indices == sorted(indices)
                assert indices[0] == 0 and (num_chosen == 1 or indices[-1] == num_items - 1)


def test_evenly_spaced_indices_differ_by_their_rounding() -> None:
    assert evenly_spaced_indices(4, 3, "exact") == [0, 1, 3]
    assert evenly_spaced_indices(4, 3, "nearest") == [0, 2, 3]
    exact, linspace = (
        evenly_spaced_indices(1058, 512, rounding) for rounding in ("exact", "linspace")
    )
    differences = [one - other for one, other in zip(exact, linspace, strict=True)]
    assert set(differences) == {0, 1}
