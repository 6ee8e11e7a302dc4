"""Text is read and written in UTF-8, whatever the locale says."""

import ast
from pathlib import Path

import sae_lens_poly

TEXT = {"read_text", "write_text", "open", "fdopen"}
SOURCES = sorted(Path(sae_lens_poly.__file__).parent.rglob("*.py"))


def without_encoding(path):
    """Calls that open text in the encoding of the locale."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        function = ast.unparse(call.func)
        name = function if "." not in function else function.rsplit(".", 1)[1]
        constants = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
        binary = any(isinstance(value, str) and "b" in value for value in constants)
        named = any(keyword.arg == "encoding" for keyword in call.keywords)
        # write_text alone is ours; other ways to open have no text.
        others = function in ("write_text", "read_text", "os.open")
        if name in TEXT and not (named or binary or others):
            yield f"{path}:{call.lineno}: {ast.unparse(call)}"


def test_every_file_is_opened_in_utf_8_or_as_bytes():
    assert [call for path in SOURCES for call in without_encoding(path)] == []
