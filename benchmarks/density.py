"""How dense the code is: `python -m benchmarks.density [FOLDER ...]`, one line per folder and one for all.

Counted over the lines that hold code: no blank lines, comments or docstrings. Tokens are those of `tokenize` without
line ends and indentation. Comprehensions include generator expressions; conditional expressions are `a if b else c`;
`Any` is each use of the name. Statements with three or more comprehensions and conditional expressions, classes over
15 methods and functions over 60 lines are listed by place.
"""

import ast
import io
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MOST_METHODS = 15
MOST_LINES = 60


@dataclass
class Counts:
    """What one folder's code holds."""

    lines: int = 0
    tokens: int = 0
    comprehensions: int = 0
    conditionals: int = 0
    anys: int = 0

    def add(self, other: "Counts") -> None:
        """Count another file's too."""
        self.lines += other.lines
        self.tokens += other.tokens
        self.comprehensions += other.comprehensions
        self.conditionals += other.conditionals
        self.anys += other.anys

    def row(self, name: str) -> str:
        """One line of the table."""
        per_thousand = (1000 * count / self.lines for count in (self.comprehensions, self.conditionals, self.anys))
        rates = "  ".join(f"{rate:14.1f}" for rate in per_thousand)
        return f"{name:32} {self.lines:7,} {self.tokens / self.lines:12.2f}  {rates}"


def docstring_lines(tree: ast.Module) -> set[int]:
    """The lines of strings that stand alone as statements."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def count(path: Path) -> Counts:
    """One file's counts."""
    text = path.read_text()
    tree = ast.parse(text)
    documentation = docstring_lines(tree)
    counts, lines = Counts(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in NOT_CODE or token.start[0] in documentation:
            continue
        counts.tokens += 1
        lines.add(token.start[0])
    counts.lines = len(lines)
    for node in ast.walk(tree):
        counts.comprehensions += isinstance(node, COMPREHENSIONS)
        counts.conditionals += isinstance(node, ast.IfExp)
        counts.anys += isinstance(node, ast.Name) and node.id == "Any"
    return counts


def own(statement: ast.stmt) -> int:
    """Comprehensions and conditional expressions of a statement itself, not of those it contains."""
    total, waiting = 0, list(ast.iter_child_nodes(statement))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            continue
        total += isinstance(node, (*COMPREHENSIONS, ast.IfExp))
        waiting.extend(ast.iter_child_nodes(node))
    return total


def remarks(path: Path) -> list[str]:
    """Places in a file that are over a limit."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.stmt) and (number := own(node)) >= 3:
            found.append(f"{path}:{node.lineno}: {number} comprehensions and conditional expressions in a statement")
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(member, FUNCTIONS) for member in node.body)
            if methods > MOST_METHODS:
                found.append(f"{path}:{node.lineno}: class {node.name} has {methods} methods")
        if isinstance(node, FUNCTIONS):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MOST_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
    return found


def main() -> None:
    """Print the table and the places."""
    folders = [Path(name) for name in sys.argv[1:]] or [Path("edge_assets"), Path("resources")]
    print(f"{'':32} {'lines':>7} {'tokens/line':>12}  {'compr./1000':>14}  {'cond./1000':>14}  {'Any/1000':>14}")
    everything, places = Counts(), []
    for folder in folders:
        rooms: dict[Path, Counts] = {}
        for path in sorted(folder.rglob("*.py")):
            if "node_modules" in path.parts:
                continue
            room = folder / path.relative_to(folder).parts[0] if path.parent != folder else folder
            rooms.setdefault(room, Counts()).add(count(path))
            places += remarks(path)
        for room, counts in rooms.items():
            if counts.lines:
                print(counts.row(str(room)))
                everything.add(counts)
    print(everything.row("all"))
    print("\n".join(places))


if __name__ == "__main__":
    main()
