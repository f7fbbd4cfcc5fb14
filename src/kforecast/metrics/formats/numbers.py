"""Numbers as other tools print them: with units, thousands separators, or a decimal comma."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Spellings of a missing value; any other text that is not a number is an error.
MISSING = ["", "NaN", "nan", "NA", "N/A", "null", "NULL", "None"]
_OF_GRAFANA = ["undefined"]

_PARTS = (
    r"^(?P<number>[-+]?(?:[0-9]{1,3}(?: [0-9]{3})+(?:[.,][0-9]+)?|[0-9][0-9.,]*|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]+)?)(?P<suffix>.*)$"
)
_EXPONENT = r"[eE][-+]?[0-9]+$"

# Kinds of numbers with separators, without sign and exponent. Three digits after a single separator are
# ambiguous: 1,234 is 1234 in English and 1.234 in German.
_GROUPS_COMMA = r"^[0-9]{1,3}(,[0-9]{3})+\.[0-9]+$|^[0-9]{1,3}(,[0-9]{3}){2,}$"
_GROUPS_POINT = r"^[0-9]{1,3}(\.[0-9]{3})+,[0-9]+$|^[0-9]{1,3}(\.[0-9]{3}){2,}$"
_EITHER_COMMA = r"^[1-9][0-9]{0,2},[0-9]{3}$"
_EITHER_POINT = r"^[1-9][0-9]{0,2}\.[0-9]{3}$"
_ONE_COMMA, _ONE_POINT = r"^[0-9]*,[0-9]+$", r"^[0-9]*\.[0-9]*$"

_PREFIXES = {"K": 3, "k": 3, "M": 6, "Mil": 6, "G": 9, "B": 9, "Bil": 9, "T": 12, "Tri": 12}
_SHORT = {name: power for name, power in _PREFIXES.items() if name != "B"} | {"Quadr": 15, "Quint": 18}
_SI = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SECONDS = {"ns": -9, "us": -6, "µs": -6, "μs": -6, "ms": -3} | dict.fromkeys(
    ("s", "sec", "secs", "second", "seconds"), 0
)
_LONGER = (
    dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0)
    | dict.fromkeys(("h", "hour", "hours"), 3600.0)
    | dict.fromkeys(("day", "days"), 86_400.0)
    | dict.fromkeys(("week", "weeks"), 604_800.0)
)
_COUNTS = (
    r"(?:r|reqs?|requests?|q|quer(?:y|ies)|c|counts?|ops?|operations?|io|rd|reads?|wr|writes?|evt|events?|"
    r"mess|messages?|msgs?|rec|records?|rows?|p|packets?|pkts?|hits?|errors?|calls?|jobs?|tasks?|tx|"
    r"transactions?|conns?|connections?|sessions?|users?|items?|pods?|cores?)"
)
_COUNT = re.compile(
    rf"^(?:{_COUNTS}(?:/(?:s|sec|m|min|h|hour|d|day))?|(?:r|q|t|req|io|o|c|p|e)?p[smhd]|i?ops)$"
)
_BYTES = re.compile(r"^([kKMGTPE]?)(i?)(B|bytes?|b|bits?)(/s|ps)?$")
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}
_OTHER = re.compile(r"^([kMG]?)(Hz|W)$")
_MOST_SUFFIXES = 256


class Numbers(NamedTuple):
    """Values as float64 ``[rows]``, NaN where missing, and their unit (empty for none)."""

    values: np.ndarray
    unit: str


class NotANumberError(ValueError):
    """A cell that cannot be read; ``column`` and ``row`` count from 0."""

    def __init__(self, column: int, row: int, cell: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.row, self.cell = column, row, cell


def numbers(
    columns: Sequence[pa.Array], *, decimal: str | None = None, regional: bool = False
) -> list[Numbers]:
    """Read columns of text as numbers; one decimal mark holds for all of them.

    Parameters
    ----------
    decimal:
        The decimal mark, ``.`` or ``,``; None decides by the cells.
    regional:
        Whether the file's separator is no comma, so that a comma may well be the decimal mark.

    Raises
    ------
    NotANumberError
        For the first cell that is no number, has an unknown or another unit, or is ambiguous.
    """
    cells = [_cleaned(column) for column in columns]
    parts = [_parts(number, column) for number, column in enumerate(cells)]
    mark = _decimal_mark([number for number, _ in parts], cells, decimal, regional)
    return [_read(at, cells[at], number, suffix, mark) for at, (number, suffix) in enumerate(parts)]


def unit_of(suffix: str) -> tuple[int, float, str] | None:
    """Decimal exponent, factor and base unit of a printed unit; None for an unknown one."""
    if suffix in _SHORT:
        return _SHORT[suffix], 1.0, ""
    if suffix in ("", "%"):
        return 0, 1.0, suffix
    if suffix in _BINARY:
        return 0, 2.0 ** _BINARY[suffix], ""
    if suffix in _SECONDS:
        return _SECONDS[suffix], 1.0, "s"
    if suffix in _LONGER:
        return 0, _LONGER[suffix], "s"
    if found := _BYTES.match(suffix):
        prefix, binary, base, rate = found.groups()
        unit = ("B" if base[0] == "B" or base.startswith("byte") else "b") + ("/s" if rate else "")
        if binary:
            return (0, 2.0 ** (10 * _SI[prefix] // 3), unit) if prefix else None
        return _SI[prefix], 1.0, unit
    if found := _OTHER.match(suffix):
        return _SI[found[1]], 1.0, found[2]
    prefix, _, base = suffix.partition(" ")
    if base and prefix in _PREFIXES and _COUNT.match(base.strip()):
        return _PREFIXES[prefix], 1.0, base.strip()
    return (0, 1.0, suffix) if _COUNT.match(suffix) else None


def _cleaned(column: pa.Array) -> pa.Array:
    """Trimmed text, null where missing."""
    column = column.cast(pa.string())
    text = pc.replace_substring_regex(column, "[\u00a0\u202f\u2009]", " ")
    text = pc.replace_substring_regex(text, "['\u2019]([0-9]{3})", r" \1")  # thousands in Switzerland
    text = pc.replace_substring(pc.utf8_trim_whitespace(text), "\u2212", "-")
    missing = pc.is_in(text, value_set=pa.array(MISSING + _OF_GRAFANA))
    return pc.if_else(missing, pa.scalar(None, pa.string()), text)


def _parts(at: int, cells: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The number of each cell, without blanks, and the trimmed text after it."""
    found = pc.extract_regex(cells, _PARTS)
    bad = pc.and_(pc.is_valid(cells), pc.is_null(found))
    infinite = pc.match_substring_regex(cells, r"(?i)^[-+]?inf(inity)?$")
    bad = pc.and_(bad, pc.invert(pc.fill_null(infinite, False)))
    _refuse_first(at, cells, bad, "not a number")
    number = pc.replace_substring(pc.struct_field(found, 0), " ", "")
    suffix = pc.utf8_trim_whitespace(pc.struct_field(found, 1))
    infinity = pc.fill_null(infinite, False)
    return pc.if_else(infinity, cells, number), pc.if_else(infinity, "", suffix)


def _decimal_mark(numbers: list[pa.Array], cells: list[pa.Array], decimal: str | None, regional: bool) -> str:
    """The decimal mark of all columns; the other sign separates thousands."""
    evidence: dict[str, tuple[int, int, str]] = {}
    either: tuple[int, int, str] | None = None
    plain_thousands = False
    for at, number in enumerate(numbers):
        bare = pc.replace_substring_regex(number, r"^[-+]", "")
        exponent = pc.fill_null(pc.match_substring_regex(bare, _EXPONENT), False)
        bare = pc.replace_substring_regex(bare, _EXPONENT, "")
        has = {mark: pc.fill_null(pc.match_substring(bare, mark), False) for mark in ",."}
        if not (pc.any(has[","]).as_py() or (regional and pc.any(has["."]).as_py())):
            if pc.any(has["."]).as_py():  # the usual case
                _note(evidence, ".", at, cells[at], has["."])
            continue
        plain_thousands |= bool(pc.any(pc.match_substring_regex(bare, r"^[0-9]{4,}$")).as_py())
        ambiguous = pc.match_substring_regex(bare, _EITHER_COMMA)
        if regional:
            ambiguous = pc.or_(ambiguous, pc.match_substring_regex(bare, _EITHER_POINT))
        ambiguous = pc.and_(pc.fill_null(ambiguous, False), pc.invert(exponent))
        if either is None and pc.any(ambiguous).as_py():
            row = pc.index(ambiguous, True).as_py()
            either = at, row, cells[at][row].as_py()
        certain = pc.invert(ambiguous)
        for mark, patterns in ((".", (_GROUPS_COMMA, _ONE_POINT)), (",", (_GROUPS_POINT, _ONE_COMMA))):
            for pattern in patterns:
                matched = pc.fill_null(pc.match_substring_regex(bare, pattern), False)
                _note(evidence, mark, at, cells[at], pc.and_(matched, certain))
    if decimal is not None:
        return decimal
    if len(evidence) == 2:
        (_, _, other), (column, row, cell) = sorted(evidence.values())
        raise NotANumberError(column, row, cell, f"but {other!r} has the other decimal mark")
    if evidence:
        return next(iter(evidence))
    if either is not None and (regional or plain_thousands):
        column, row, cell = either
        raise NotANumberError(
            column, row, cell, "which may mean thousands or decimals; give source.decimal=point or comma"
        )
    return "."


def _note(
    evidence: dict[str, tuple[int, int, str]], mark: str, at: int, cells: pa.Array, matched: pa.Array
) -> None:
    if mark not in evidence and pc.any(matched).as_py():
        row = pc.index(matched, True).as_py()
        evidence[mark] = at, row, cells[row].as_py()


def _read(at: int, cells: pa.Array, number: pa.Array, suffix: pa.Array, mark: str) -> Numbers:
    other = "," if mark == "." else "."
    bare = pc.replace_substring_regex(number, _EXPONENT, "")
    grouped = pc.fill_null(pc.match_substring(bare, other), False)
    if pc.any(grouped).as_py():
        well = pc.match_substring_regex(bare, rf"^[-+]?[0-9]{{1,3}}(\{other}[0-9]{{3}})+(\{mark}[0-9]+)?$")
        _refuse_first(at, cells, pc.and_(grouped, pc.invert(well)), "not a number")
        number = pc.replace_substring(number, other, "")
    if mark == ",":
        number = pc.replace_substring(number, ",", ".")
    encoded = suffix.dictionary_encode()
    texts = [text.as_py() for text in encoded.dictionary]
    if len(texts) > _MOST_SUFFIXES:
        _refuse_first(at, cells, pc.not_equal(suffix, ""), "not a number")
    units = [unit_of(text) for text in texts]
    codes = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    for code, found in enumerate(units):
        if found is None:
            row = int(np.argmax(codes == code))
            text = cells[row].as_py()
            raise NotANumberError(at, row, text, _why_unknown(texts[code]))
        if found[2] != units[0][2]:  # type: ignore[index]
            row = int(np.argmax(codes == code))
            raise NotANumberError(
                at,
                row,
                cells[row].as_py(),
                f"in another unit than {cells[int(np.argmax(codes == 0))].as_py()!r}",
            )
    known = [unit for unit in units if unit is not None]
    if any(power for power, _, _ in known):
        # The power of ten joins the text, so that the parser rounds once: 1.20 K is exactly 1200.
        powers = np.array([f"e{power}" if power else "" for power, _, _ in known] + [""])[codes]
        plain = pc.invert(pc.match_substring_regex(number, _EXPONENT))
        number = pc.if_else(
            pc.fill_null(plain, False),
            pc.binary_join_element_wise(number, pa.array(powers, pa.string()), ""),
            number,
        )
        late = ~pc.fill_null(plain, True).to_numpy(zero_copy_only=False)
        factors = np.where(late, np.array([10.0**power for power, _, _ in known] + [1.0])[codes], 1.0)
    else:
        factors = np.ones(len(codes))
    factors = factors * np.array([factor for _, factor, _ in known] + [1.0])[codes]
    number = pc.replace_substring_regex(number, r"^\+", "")
    try:
        values = pc.cast(number, pa.float64())
    except pa.ArrowInvalid:
        well = pc.match_substring_regex(number, r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$")
        _refuse_first(at, cells, pc.invert(well), "not a number")
        raise
    return Numbers(values.to_numpy(zero_copy_only=False) * factors, known[0][2] if known else "")


def _why_unknown(suffix: str) -> str:
    if suffix == "m":
        return "in 'm', which may be milli, minutes or metres"
    if re.fullmatch(r"[^0-9]{1,20}", suffix):
        return f"in an unknown unit, {suffix!r}; export values without units"
    return "not a number"


def _refuse_first(at: int, cells: pa.Array, bad: pa.Array, reason: str) -> None:
    row = pc.index(pc.fill_null(bad, False), True).as_py()
    if row >= 0:
        raise NotANumberError(at, row, cells[row].as_py(), reason)
