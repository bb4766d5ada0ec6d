"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;
const config = {
  responsive: true, displayModeBar: touch ? false : "hover", displaylogo: false, showSendToCloud: false, plotlyServerURL: "", typesetMath: false,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
};

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
  for (const map of data.filter(trace => trace.type === "heatmap")) {
    Object.assign(map, {colorscale: [[0, colour("--low")], [1, colour("--high")]], textfont: {color: font.color}});
  }
}

async function draw(chart) {
  const {figures, controls} = JSON.parse(chart.querySelector("script").textContent);
  const plots = [...chart.querySelectorAll(".plot")];
  for (const [index, plot] of plots.entries()) {
    const {data, layout} = figures[index];
    dress({data, layout});
    // on a touch screen a finger on a figure must scroll the page
    await Plotly.newPlot(plot, data, {...layout, dragmode: touch ? false : "zoom"}, config);
  }
  for (const [index, select] of chart.querySelectorAll("select").entries()) {
    select.addEventListener("change", () => {
      controls[index][select.selectedIndex].forEach((update, figure) => Plotly.restyle(plots[figure], update));
    });
  }
}

const charts = [...document.querySelectorAll(".chart")];
const repaint = () => document.querySelectorAll(".plot").forEach(plot => { dress(plot); Plotly.redraw(plot); });
(async () => {
  for (const chart of charts) await draw(chart);
  document.documentElement.dataset.drawn = charts.length;
})();
dark.addEventListener("change", repaint);
addEventListener("beforeprint", () => { document.documentElement.classList.add("printing"); repaint(); });
addEventListener("afterprint", () => { document.documentElement.classList.remove("printing"); repaint(); });
