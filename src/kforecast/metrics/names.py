"""Names of workloads and metrics as users write them."""

# Blanks of Unicode, and characters that take no room: spreadsheets and web pages leave both around names.
_BLANKS = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u3000\u180e\u200b\u2060\ufeff"
)


def trimmed(name: str) -> str:
    """A name without blanks at its ends; those inside stay."""
    return name.strip(_BLANKS)
