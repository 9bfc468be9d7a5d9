# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The style of the pages: light, dark, print and mobile. It is part of the page, which fetches nothing.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

# The number of hues for pods before they repeat.
HUES = 6

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f6f9; --panel: #ffffff; --ink: #17202b; --soft: #536070; --line: #d5dce5; --sunk: #eaeef4;
  --red: #b3261e; --red-soft: #fdeceb; --green: #17723a; --green-soft: #e4f4e9;
  --amber: #8a5a00; --amber-soft: #fdf1d8; --grey: #536070; --grey-soft: #eaeef4; --link: #0a55b8;
  --p0: #2f6fde; --p1: #0f8a7e; --p2: #8a4fd0; --p3: #a86400; --p4: #c0377f; --p5: #4d7c0f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1319; --panel: #161d26; --ink: #e8edf3; --soft: #a3b0bf; --line: #2c3745; --sunk: #0a0e13;
    --red: #ff938a; --red-soft: #3a1a1a; --green: #74d694; --green-soft: #12301d;
    --amber: #f0bd5b; --amber-soft: #36290d; --grey: #a3b0bf; --grey-soft: #222c37; --link: #86bbff;
    --p0: #6ea8ff; --p1: #3cc9b8; --p2: #b98cf5; --p3: #e5a13c; --p4: #f07ab2; --p5: #98cc4a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; scroll-padding-top: 1rem; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main, header.top, footer { max-width: 72rem; margin: 0 auto; padding: 0 1.25rem; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 4px; }
.vh { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: -100vw; padding: .5rem 1rem; background: var(--panel); }
.skip:focus { left: 1rem; top: 1rem; z-index: 1; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: clamp(1.5rem, 4vw, 2.1rem); letter-spacing: -.015em; }
h2 { margin: 2.5rem 0 .9rem; font-size: 1.3rem; }
h3 { margin: 1.6rem 0 .5rem; font-size: 1rem; }
h4 { margin: 1.5rem 0 .5rem; font-size: .82rem; font-weight: 650; letter-spacing: .02em; }
code, pre, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .875em; overflow-wrap: anywhere; }
pre { margin: .4rem 0; padding: .75rem .9rem; background: var(--sunk); border-radius: 8px; white-space: pre-wrap; }
p { margin: .4rem 0; }
.soft, caption, dt, .unit { color: var(--soft); }

header.top { padding-top: 2.2rem; }
.headline { display: flex; flex-wrap: wrap; gap: .8rem 1.2rem; align-items: center; margin: .3rem 0 .5rem; }
.headline h1 { flex: 0 1 auto; }
.badge { display: inline-flex; gap: .4em; align-items: center; padding: .12em .7em .16em; border-radius: 99px;
  font-weight: 650; font-size: .85rem; white-space: nowrap; }
.headline .badge { font-size: 1.05rem; }
.badge.red { background: var(--red-soft); color: var(--red); }
.badge.green { background: var(--green-soft); color: var(--green); }
.badge.waived { background: var(--amber-soft); color: var(--amber); }
.badge.not_applicable { background: var(--grey-soft); color: var(--grey); }
.lead { font-size: 1.1rem; max-width: 46rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .8rem; margin: 1.4rem 0 0; padding: 0; list-style: none; }
.figures li { padding: .8rem 1rem; background: var(--panel); border: 1px solid var(--line); border-radius: 12px; }
.figures b { display: block; font-size: 1.65rem; line-height: 1.15; font-variant-numeric: tabular-nums; letter-spacing: -.01em; }
.figures .red b { color: var(--red); } .figures .green b { color: var(--green); } .figures .waived b { color: var(--amber); }
.figures span { color: var(--soft); font-size: .85rem; }

.tiles { display: flex; flex-wrap: wrap; gap: 5px; margin: 0 0 1.2rem; padding: 0; list-style: none; }
.tiles a { display: grid; place-items: center; width: 28px; height: 28px; border-radius: 7px;
  font-weight: 700; font-size: .85rem; text-decoration: none; border: 1px solid transparent; }
.tiles .red { background: var(--red); color: var(--panel); }
.tiles .green { background: var(--green-soft); color: var(--green); }
.tiles .waived { background: var(--amber-soft); color: var(--amber); }
.tiles .not_applicable { background: var(--grey-soft); color: var(--grey); }
.tiles a:hover { border-color: currentColor; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { padding: 0 0 .45rem; text-align: left; font-size: .88rem; }
th, td { padding: .42rem .9rem .42rem 0; text-align: left; vertical-align: middle; border-top: 1px solid var(--line); font-weight: 400; }
thead th { border-top: 0; color: var(--soft); font-size: .8rem; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
.panel { margin: 0 0 1rem; padding: 1.1rem 1.3rem; background: var(--panel); border: 1px solid var(--line); border-radius: 14px; }
.overview { min-width: 47rem; }
.overview th, .overview td { overflow-wrap: normal; }
article > h3 { margin-top: 0; }
.number { white-space: nowrap; }
.nowrap { white-space: nowrap; }

details > summary { cursor: pointer; }
article.panel { border-left: 5px solid var(--line); }
article.red { border-left-color: var(--red); } article.green { border-left-color: var(--green); } article.waived { border-left-color: var(--amber); }
article > details > summary { display: flex; flex-wrap: wrap; gap: .4rem .9rem; align-items: center; list-style-position: outside; }
article > details > summary h3 { margin: 0; font-size: 1.1rem; }
article .verdict { color: var(--soft); }
article .strip { margin-left: auto; }
.why { margin: .7rem 0 0; max-width: 60rem; overflow-wrap: anywhere; }
.since { font-weight: 650; color: var(--red); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 2.4rem; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) minmax(8rem, 1fr); gap: .15rem 1rem; margin: 0; font-size: .92rem; }
dd { margin: 0; overflow-wrap: anywhere; }

.map td:last-child { width: 68%; }
.map th, .map td { padding-top: .2rem; padding-bottom: .2rem; border-top: 0; }
.map thead th { padding-bottom: .35rem; }
.map th { white-space: nowrap; }
.lane { display: block; width: 100%; height: 26px; background: var(--sunk); border-radius: 4px; forced-color-adjust: none; }
.lane .p0 { fill: var(--p0); } .lane .p1 { fill: var(--p1); } .lane .p2 { fill: var(--p2); }
.lane .p3 { fill: var(--p3); } .lane .p4 { fill: var(--p4); } .lane .p5 { fill: var(--p5); }
.lane .moved { fill: var(--red); } .lane .explained { fill: var(--amber); }
.lane .off { fill: none; stroke: var(--ink); stroke-width: 2; vector-effect: non-scaling-stroke; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .4rem 0 0; padding: 0; list-style: none; font-size: .85rem; color: var(--soft); }
.keys i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; vertical-align: -.05em;
  background: linear-gradient(90deg, var(--p0) 33%, var(--p1) 33% 66%, var(--p2) 66%); }
.keys .moved { background: var(--red); } .keys .explained { background: var(--amber); } .keys .off { background: none; border: 2px solid var(--ink); }
.bar { display: block; height: 9px; min-width: 2px; border-radius: 0 4px 4px 0; background: var(--p0); }
.track { display: block; width: 100%; min-width: 5rem; background: var(--sunk); border-radius: 0 4px 4px 0; }
.strip { display: block; width: 11rem; max-width: 100%; height: 22px; }
.strip .red { fill: var(--red); } .strip .green { fill: var(--green); } .strip .waived { fill: var(--amber); } .strip .not_applicable { fill: var(--grey); }
.overview .strip { width: 8rem; }
.state-passed { color: var(--green); } .state-failed { color: var(--red); } .state-not_applicable { color: var(--soft); }
.panel, .note { overflow-wrap: anywhere; }
.note, .why { white-space: pre-line; }
.finding { margin: .8rem 0 0; padding: .8rem 1rem; border-radius: 10px; background: var(--sunk); border-left: 4px solid var(--grey); }
.finding pre { background: var(--panel); }
.finding.error { border-left-color: var(--red); } .finding.warning { border-left-color: var(--amber); }
.data { margin-top: 1rem; font-size: .92rem; }
.data > summary { color: var(--link); width: fit-content; }
.note { padding: .7rem 1rem; border-radius: 10px; background: var(--amber-soft); color: var(--ink); }
.note.bad { background: var(--red-soft); }
ul.plain { margin: .3rem 0; padding-left: 1.1rem; }
footer { padding-top: 1.5rem; padding-bottom: 3rem; color: var(--soft); font-size: .88rem; }

@media (max-width: 40rem) {
  body { font-size: 15px; }
  main, header.top, footer { padding-left: .9rem; padding-right: .9rem; }
  .panel { padding: .9rem .9rem; border-radius: 12px; }
  .map td:last-child { width: 58%; }
  .map tr > :nth-child(3), .map tr > :nth-child(4) { display: none; }
  article .strip { margin-left: 0; width: 100%; }
  .lane { height: 26px; }
  th, td { padding-right: .6rem; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print {
  :root {
    color-scheme: light;
    --page: #ffffff; --panel: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --sunk: #f0f0f0;
    --red: #a3130c; --red-soft: #fdeceb; --green: #0f6a31; --green-soft: #e4f4e9; --amber: #7a4f00; --amber-soft: #fdf1d8;
    --grey: #444444; --grey-soft: #eeeeee; --link: #000000;
    --p0: #2f6fde; --p1: #0f8a7e; --p2: #8a4fd0; --p3: #a86400; --p4: #c0377f; --p5: #4d7c0f;
  }
  @page { margin: 14mm; }
  body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main, header.top, footer { max-width: none; padding: 0; }
  .skip, .data { display: none; }
  .panel { border-radius: 0; }
  article > details:not([open])::details-content { display: block; content-visibility: visible; block-size: auto; }
  article > details > summary { list-style: none; }
  tr, .finding, .figures li, dl, .map { break-inside: avoid; }
  h2, h3, summary { break-after: avoid; }
  .scroll { overflow: visible; }
  .columns { grid-template-columns: 1fr 1fr; }
  dl { grid-template-columns: auto 1fr; }
  table { font-size: 9pt; }
  .overview { min-width: 0; }
  .overview th { min-width: 7rem; overflow-wrap: anywhere; }
  .overview thead th { min-width: 0; }
  .overview .nowrap { white-space: normal; }
  th, td { padding-right: .5rem; }
  .overview tr > :nth-child(7) { display: none; }
  .map td:last-child { width: 55%; }
}
"""
