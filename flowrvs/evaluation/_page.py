"""The report's style and script, inline: a page that asks nothing of the network."""

from __future__ import annotations

__all__ = ["POLICY", "SCRIPT", "STYLE"]

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --text: #1d2329; --soft: #5b6570; --back: #fff;
  --card: #f4f6f8; --line: #d5dbe1; --j: #0067a5; --f: #b35900; --bad: #b00020; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #a3adb8;
  --back: #14181c; --card: #1e242a; --line: #39424b; --j: #6db8f2; --f: #f0a35c;
  --bad: #ff7d8a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.soft, figcaption, small { color: var(--soft); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; }
dl div { background: var(--card); border-radius: 6px; padding: .5rem .8rem; }
dt { color: var(--soft); font-size: .85rem; } dd { margin: 0; font-size: 1.25rem; }
dd small { display: block; font-size: .75rem; line-height: 1.2; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
.text { white-space: normal; min-width: 12rem; overflow-wrap: anywhere; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--j); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
svg { width: 100%; max-width: 44rem; height: auto; }
svg text { fill: var(--soft); font-size: 11px; }
.bar { fill: var(--j); } .axis, .grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 1.6; } polyline.j { stroke: var(--j); }
polyline.f { stroke: var(--f); } circle.j { fill: var(--j); } circle.f { fill: var(--f); }
circle.missing { fill: var(--bad); }
.key { padding: 0 .35em; border-radius: 3px; color: #000; }
.key.truth { background: #00d5ff; } .key.found { background: #ff9d2e; }
.word-j { color: var(--j); font-weight: 600; } .word-f { color: var(--f); font-weight: 600; }
article { border-top: 1px solid var(--line); padding: .6rem 0; display: grid;
  grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 1rem; }
article h3 { grid-column: 1 / -1; margin: .2rem 0 0; font-size: 1rem; overflow-wrap: anywhere; }
article p { grid-column: 1 / -1; margin: 0; overflow-wrap: anywhere; }
figure { margin: 0; } figure img { width: 100%; height: auto; border-radius: 4px; }
@media (max-width: 42rem) { article { grid-template-columns: minmax(0, 1fr); } }
"""

SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending", column = head.cellIndex;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].textContent;
    const compare = (a, b) => {
      const one = key(a), other = key(b);
      if (head.dataset.kind === "text")
        return one.localeCompare(other, "en", {numeric: true});
      const x = parseFloat(one), y = parseFloat(other);
      return (isNaN(x) ? -1e9 : x) - (isNaN(y) ? -1e9 : y);
    };
    const rows = [...body.rows].sort((a, b) => up ? compare(a, b) : compare(b, a));
    body.append(...rows);
  });
}
"""
