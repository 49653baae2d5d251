from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.module_utils._text import failed_after, join_names


def test_many_names_are_counted():
    names = [f"w-{number}" for number in range(12)]
    assert join_names(names[:2]) == "w-0, w-1"
    assert join_names(names[:10]).endswith("w-8, w-9")
    assert join_names(names).endswith("w-9 and 2 more")
    assert join_names(names, 1) == "w-0 and 11 more"


def test_a_failure_reports_what_was_changed_before():
    error = ValueError("Rejected.")
    assert failed_after(error, []) == {"msg": "Rejected.", "changed": False}
    done = {"msg": "Rejected. Before, this run removed a, b.", "changed": True}
    assert failed_after(error, ["a", "b"], "removed") == done
