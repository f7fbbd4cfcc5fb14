"""The colours that figures and HTML pages share."""

# Each name has one colour for a light page and one for a dark page. Figures are drawn in the light colours;
# an inlined figure refers to them by name, so that it follows the page.
COLOURS = {
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#59636e", "#9aa4af"),
    "grid": ("#e1e5e9", "#2b323b"),
    "shade": ("#d8dde3", "#39424d"),
    "model": ("#1d6fd1", "#5aa2f7"),
    "on-model": ("#ffffff", "#0d1117"),
    "model-band": ("#a9cbf5", "#24508a"),
    "model-band-wide": ("#d6e7fb", "#1a3253"),
    "second": ("#0f8f84", "#3fbfb2"),
    "baseline": ("#c8620c", "#f0954a"),
    "other": ("#8a5cc7", "#b48df0"),
    "bad": ("#cf222e", "#ff7b72"),
}
