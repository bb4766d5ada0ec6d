"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;
const config = () => ({
  responsive: true, displayModeBar: touch ? false : "hover", displaylogo: false, showSendToCloud: false, plotlyServerURL: "", typesetMath: false,
  modeBarButtonsToRemove: ["toImage", "lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  modeBarButtonsToAdd: ["png", "svg"].map(format => ({
    name: `download as ${format.toUpperCase()}`, icon: Plotly.Icons.camera,
    click: plot => Plotly.downloadImage(plot, {format, filename: document.title, scale: format === "png" ? 2 : 1}),
  })),
});

/** Give a figure the page's colours. */
function dress({data, layout}) {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  const font = {color: colour("--ink"), family: getComputedStyle(document.body).fontFamily};
  layout.font = {...layout.font, ...font};
  layout.hoverlabel = {...layout.hoverlabel, bgcolor: colour("--raised"), bordercolor: colour("--line"), font};
  layout.modebar = {color: colour("--muted"), activecolor: colour("--accent"), bgcolor: "rgba(0,0,0,0)"};
  for (const key of Object.keys(layout).filter(key => /^[xy]axis\d*$/.test(key))) {
    Object.assign(layout[key], {gridcolor: colour("--line"), linecolor: colour("--line")});
  }
  const upwards = [[0, colour("--low")], [1, colour("--high")]];
  const bothWays = [[0, colour("--minus")], [.5, colour("--low")], [1, colour("--high")]];
  for (const map of data.filter(trace => trace.type === "heatmap")) {
    map.customdata ??= layout.meta?.cells;
    Object.assign(map, {colorscale: map.zmin < 0 ? bothWays : upwards, textfont: {color: font.color}});
  }
}

/** A figure of the page, which is drawn when it comes near to the window: a large study has hundreds of traces. */
class Chart {
  constructor(element) {
    this.element = element;
    this.selects = [...element.querySelectorAll("select")];
    for (const select of this.selects) select.addEventListener("change", () => this.draw());
  }

  draw() {
    this.figures ??= JSON.parse(this.element.querySelector("script").textContent);
    for (const [index, plot] of this.element.querySelectorAll(".plot").entries()) {
      const data = this.figures[index].data.filter(trace => this.shows(trace));
      // plotly writes into the layout that it is given
      const layout = structuredClone(this.figures[index].layout);
      dress({data, layout});
      // paper is narrower than the window, and plotly does not measure again by itself
      const size = document.documentElement.classList.contains("printing") ? {width: plot.clientWidth} : {};
      // on a touch screen a finger on a figure must scroll the page
      Plotly.react(plot, data, {...layout, ...size, dragmode: touch ? false : "zoom"}, config());
    }
    if (!this.drawn) document.documentElement.dataset.drawn = Number(document.documentElement.dataset.drawn) + 1;
    this.drawn = true;
  }

  shows(trace) {
    return this.selects.every(({dataset, value}) => [undefined, value].includes(trace.meta?.[dataset.control]));
  }
}

/** What a cell sorts by: a number where it begins with one, else its text; nothing for a dash. */
function key(cell) {
  const text = cell.textContent.trim();
  const number = text.replaceAll(",", "").match(/^[<+]?(-?\d+(\.\d+)?(e[+-]\d+)?)/);
  if (text === "–") return null;
  return number ? Number(number[1]) - (text.startsWith("<") ? 1e-9 : 0) : text;
}

function compare(one, other) {
  if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
  return typeof one === "number" ? one - other : one.localeCompare(other);
}

/** Let the reader sort a table by its columns, and see only the rows that say something. */
function sortable(grid) {
  const body = grid.querySelector("tbody"), rows = [...body.rows], heads = [...grid.querySelectorAll("thead th")];
  for (const [column, head] of heads.entries()) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const downwards = head.ariaSort ? head.ariaSort === "ascending" : rows.some(row => typeof key(row.cells[column]) === "number");
      for (const other of heads) other.ariaSort = null;
      head.ariaSort = downwards ? "descending" : "ascending";
      const keys = new Map(rows.map(row => [row, key(row.cells[column])]));
      const [missing, known] = [rows.filter(row => keys.get(row) === null), rows.filter(row => keys.get(row) !== null)];
      known.sort((one, other) => (downwards ? -1 : 1) * compare(keys.get(one), keys.get(other)));
      body.append(...known, ...missing);
    });
  }
  if (rows.length < 8) return;
  const bar = document.createElement("div"), label = document.createElement("label");
  const input = document.createElement("input"), count = document.createElement("output");
  Object.assign(input, {type: "search", autocomplete: "off", spellcheck: false});
  bar.className = "controls";
  label.append("only rows with", input);
  bar.append(label, count);
  grid.prepend(bar);
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    count.textContent = wanted ? `${rows.filter(row => !row.hidden).length} of ${rows.length}` : "";
  });
}

document.querySelectorAll(".sortable").forEach(sortable);
const charts = new Map([...document.querySelectorAll(".chart")].map(element => [element, new Chart(element)]));
const near = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    if (!charts.get(target).drawn) charts.get(target).draw();
  }
}, {rootMargin: "600px"});
// plotly.js comes after this script and takes a second to start: tables need not wait for it
addEventListener("DOMContentLoaded", () => {
  document.documentElement.dataset.drawn = 0;
  for (const element of charts.keys()) near.observe(element);
});

/** Draw what is on show again, or everything. */
const redraw = all => charts.forEach(chart => { if (all || chart.drawn) chart.draw(); });
const printing = yes => { document.documentElement.classList.toggle("printing", yes); redraw(yes); };
dark.addEventListener("change", () => redraw(false));
addEventListener("beforeprint", () => printing(true));
addEventListener("afterprint", () => printing(false));
