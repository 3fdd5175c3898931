import ast
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEXT = (HERE.parent / "docs" / "reliability.md").read_text()


def functions(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_row_with_a_test_that_is_there():
    rows = dict(re.findall(r"^\| (\d+) \| (.*)$", TEXT, re.M))
    assert [int(number) for number in rows] == list(range(1, 55))
    for number, row in rows.items():
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named or "the same" in row, number
        for file, function in named:
            assert function in functions(HERE / file), (number, file, function)
