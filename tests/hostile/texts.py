"""Deceptive YAML, and names that no file of the suite may contain."""


def laughs(first: str, wrap: str) -> str:
    """Nine times nine times nine: a text of a few hundred bytes that stands for 9^20 values."""
    levels = (f"a{n}: &a{n} {wrap % ', '.join([f'*a{n - 1}'] * 9)}" for n in range(1, 20))
    return "\n".join([f"a0: &a0 {first}", *levels])


TWICE = (
    ("a: 1\na: 2", "'a' is given twice"),
    ("x:\n  b: {c: 1, c: 2}", "x.b: 'c' is given twice"),
    ('a: 1\n"a": 2', "'a' is given twice"),
    ("b: &b {x: 1}\na: {<<: *b, <<: *b}", "a: '<<' is given twice"),
)
AMBIGUOUS = tuple(
    (f"stage: {{iterations: {value}}}", f"stage.iterations: '{value[:40]}' is ambiguous")
    for value in (
        *("yes", "No", "on", "OFF", "010", "-017", "0x1F", "0b1", "1:30", "1:30.5", "2024-01-01"),
        *(".nan", ".inf", "-.inf", "9" * 5000, "2024-99-99"),
    )
)
ENDLESS = (
    ("[" * 100_000, "levels deep"),
    ("a: " + "{a: " * 5000, "levels deep"),
    ("".join(f"{' ' * n}a:\n" for n in range(600)), "levels deep"),
    ("- " * 50_000, "levels deep"),
    (laughs("[x, x, x, x]", "[%s]"), "more than 5000 values"),
    (laughs("{x: 1}", "{<<: [%s]}"), "more than 5000 values"),
    ("a: &a [*a]", "a: *a repeats itself"),
    ("a: &a {b: *a}", "a.b: *a repeats itself"),
    ("\n".join(f"k{n}: v" for n in range(10_000)), "more than 5000 values"),
    ("# " * 2**18, "is larger than 256 KiB"),
)
OTHER = (
    *(
        (f"a: {tag} {{x: 1}}", "a: a tag")
        for tag in ("!!python/object:os.system", "!mine", "!!set")
    ),
    ("a: !!python/object/apply:os.system [touch proof]", "a: a tag"),
    ("a: !!binary aGVsbG8=", "a: a tag"),
    *(
        (f"{key}: x", "a key must be a short text")
        for key in ("1", "true", "2.5", "null", "k" * 300)
    ),
    ("? [a]\n: 1", "a key must be a short text"),
    ("a:\n\tb: 1", "line 2, column 1"),
    ("a: b\tc", "line 1, column 5"),
    ("a:\n- \tb", "line 2, column 3"),
    ("a: \x00", "not valid YAML"),
    ("a: *nothing", "undefined alias"),
    ("a: [", "not valid YAML"),
    ("a: 1\n---\nb: 2", "another document"),
    ("", "must hold a mapping"),
    ("- a", "must hold a mapping"),
    ("null", "must hold a mapping"),
)
HOSTILE = (
    *(
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        ".hidden",
        "-x",
        "--out",
        "_x",
        "a b",
        "A",
        "Quick",
    ),
    *("a.b", "$(touch proof)", "`touch proof`", "a;b", "a|b", "a&b", "a>b", "a'b", 'a"b', "a\\b"),
    *(
        "a\nb",
        "a\n",
        "a\tb",
        "a\x00b",
        "a\x1b[31m",
        "é",
        "\uff41",
        "a*",
        "a?",
        "{a}",
        "x" * 65,
        "x" * 5000,
    ),
)
