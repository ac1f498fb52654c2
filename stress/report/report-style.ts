// The look of the report, in light and dark.
export const STYLE = `
:root {
  color-scheme: light dark;
  --page: #f9f9f7; --card: #ffffff; --text: #14140f; --muted: #6b6a63; --grid: #e7e6e0; --border: #e0dfd8;
  --live: #2a78d6; --live-fill: #2a78d62e; --committed: #e1571f; --pages4k: #128a5e; --pages16k: #6a4bc4;
  --good: #0a7a3d; --bad: #c62828;
  --l0: #e6e5df; --l1: #cde2fb; --l2: #94c0f2; --l3: #5598e7; --l4: #2a6fc4; --l5: #104281; --none: #cfcec6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131312; --card: #1c1c1a; --text: #f1f0ea; --muted: #9b9a92; --grid: #2c2c29; --border: #33332f;
    --live: #4c95ea; --live-fill: #4c95ea33; --committed: #f07c4a; --pages4k: #35b583; --pages16k: #a18df2;
    --good: #4cc27d; --bad: #ff7b72;
    --l0: #45453f; --l1: #123052; --l2: #1b4b82; --l3: #2a6cb8; --l4: #5598e7; --l5: #b7d6fb; --none: #33332f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 8px; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 0 0 12px; max-width: 78ch; }
.lead { font-size: 16px; }
.note { color: var(--muted); font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 20px 0; }
.tile, section {
  background: var(--card); border: 1px solid var(--border); border-radius: 10px; padding: 16px 18px;
}
section { margin: 16px 0; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 13px; display: block; }
.good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.tables { display: flex; flex-wrap: wrap; gap: 12px 56px; align-items: flex-start; }
.scroll { overflow-x: auto; }
th, td { text-align: right; padding: 5px 0 5px 22px; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; color: var(--muted); font-size: 13px; }
.plot { width: 100%; min-height: 310px; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 20px; }
.maps h3 { font-size: 14px; margin: 0; } .maps p { margin: 0 0 8px; }
.map { width: 100%; height: auto; display: block; }
.map text { font-size: 10px; fill: var(--muted); } .map rect { fill: none; pointer-events: all; }
.key { display: flex; flex-wrap: wrap; gap: 6px 16px; margin: 8px 0 14px; font-size: 13px; color: var(--muted); }
.key i { display: inline-block; width: 12px; height: 12px; margin-right: 5px; vertical-align: -1px; }
.l0 { fill: var(--l0); background: var(--l0); } .l1 { fill: var(--l1); background: var(--l1); }
.l2 { fill: var(--l2); background: var(--l2); } .l3 { fill: var(--l3); background: var(--l3); }
.l4 { fill: var(--l4); background: var(--l4); } .l5 { fill: var(--l5); background: var(--l5); }
.none { fill: none; stroke: var(--none); stroke-width: .6; }
i.none { border: 1px solid var(--none); }
dt { font-weight: 600; margin-top: 8px; } dd { margin: 0; max-width: 78ch; color: var(--muted); }
.u-legend { font-size: 13px; color: var(--text); font-variant-numeric: tabular-nums; }
.u-legend th { color: var(--text); font-weight: 400; border: 0; padding: 0; }
.u-legend td { border: 0; padding: 0; }
.u-legend tr, .u-inline tr { border: 0; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
`;
