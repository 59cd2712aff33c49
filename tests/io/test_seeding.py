from lit_hour.io.seeding import seed_of


def test_seed_never_changes() -> None:
    """Other numbers would change every random draw: initial weights, data order, forgetting."""
    assert seed_of("0 llm.embed") == 0x8F8B8987759EAB
    assert seed_of("a", 2) == 51863
