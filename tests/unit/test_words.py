from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.module_utils._words import in_words


def test_many_names_are_counted():
    names = [f"w-{number}" for number in range(12)]
    assert in_words(names[:2]) == "w-0, w-1"
    assert in_words(names[:10]).endswith("w-8, w-9")
    assert in_words(names).endswith("w-9 and 2 more")
    assert in_words(names, 1) == "w-0 and 11 more"
