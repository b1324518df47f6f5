"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;  // never as markup: a model's text stays text
  return node;
};
const draw = (tag, attributes, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
};
const known = (v) => v !== null && v !== undefined;
const show = (v, digits = 3) => (known(v) ? v.toFixed(digits) : "-");
const short = (v) => (known(v) ? String(+v.toPrecision(4)) : "-");
const colourOf = (index) => "c" + (index < 0 ? "s" : index % 8);

// Charts: everything is decided in charts.py; here it is put on the screen's width.
const HEIGHT = 210, RIGHT = 14, TOP = 10, BOTTOM = 38;
const { xs, charts } = read("data-charts");
const hidden = new Set();
let chosen = "step";

const stretches = (n, whole) => {  // indices without a gap
  const out = [[]];
  for (let i = 0; i < n; i += 1) {
    if (whole(i)) out[out.length - 1].push(i); else out.push([]);
  }
  return out.filter((run) => run.length);
};
const line = (points) => "M" + points.map((p) => p[0].toFixed(1) + " " + p[1].toFixed(1)).join("L");

function render(plot) {
  const chart = charts[plot.dataset.chart], width = plot.clientWidth;
  if (!width) return;
  const name = chart.axes[chosen] ? chosen : Object.keys(chart.axes)[0];
  const [low, high, marks, title] = chart.axes[name], [bottom, top, rows] = chart.y;
  const left = Math.max(...rows.map(([, label]) => label.length)) * 6.3 + 12;  // room for the longest number
  const px = (x) => left + ((x - low) / (high - low)) * (width - left - RIGHT);
  const py = (y) => HEIGHT - BOTTOM - ((y - bottom) / (top - bottom)) * (HEIGHT - TOP - BOTTOM);
  const svg = draw("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` });
  for (const [y, label] of rows) {
    svg.append(draw("path", { class: y === 0 ? "zero" : "grid", d: `M${left} ${py(y).toFixed(1)}H${width - RIGHT}` }));
    svg.append(draw("text", { class: "y", x: left - 6, y: py(y) + 3.5 }, label));
  }
  for (const [x, label] of marks) svg.append(draw("text", { class: "x", x: px(x), y: HEIGHT - BOTTOM + 16 }, label));
  if (title) svg.append(draw("text", { class: "x name", x: (left + width - RIGHT) / 2, y: HEIGHT - 6 }, title));
  const shown = chart.curves.filter((c) => !hidden.has(c.colour) || !plot.dataset.keyed);
  for (const c of shown) {
    const x = xs[c.x][name] || [], at = (i, side) => [px(x[i]), py(side[i])];
    const runs = stretches(x.length, (i) => known(x[i]) && known(c.y[i]));
    const colour = colourOf(c.colour), dash = c.colour >= 8 ? { "stroke-dasharray": "7 4" } : {};  // colours come again
    if (chart.kind !== "dots") {
      if (c.low) {
        const d = runs.map((r) => line([...r.map((i) => at(i, c.high)), ...[...r].reverse().map((i) => at(i, c.low))]) + "Z");
        svg.append(draw("path", { class: "band " + colour, d: d.join("") }));
      }
      const d = runs.map((r) => line((r.length === 1 ? [r[0], r[0]] : r).map((i) => at(i, c.y))));
      svg.append(draw("path", { class: "line " + colour, d: d.join(""), ...dash }));
    }
    if (chart.kind === "line") continue;
    const dots = chart.kind === "trail" ? [c.y.length - 1] : c.y.map((_, i) => i);
    for (const i of dots) {
      const [cx, cy] = at(i, c.y);
      if (c.low && chart.kind === "dots") {
        svg.append(draw("path", { class: "line " + colour, d: line([at(i, c.low), at(i, c.high)]) }));
      }
      svg.append(draw("circle", { class: "dot " + colour, cx, cy, r: i === 0 || chart.kind === "trail" ? 5 : 3 }));
    }
    if (chart.kind === "trail") svg.append(draw("circle", { class: "dot cs", cx: px(x[0]), cy: py(c.y[0]), r: 4 }));
  }
  const hover = draw("g", {}), tip = make("div", "tip");
  svg.append(hover);
  tip.hidden = true;
  plot.replaceChildren(svg, tip);
  const leave = () => { tip.hidden = true; hover.replaceChildren(); };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect(), mx = event.clientX - frame.left, my = event.clientY - frame.top;
    const points = shown.flatMap((c) => (xs[c.x][name] || []).map((x, i) => ({ c, i, x, y: c.y[i] })))
      .filter((p) => known(p.x) && known(p.y));
    if (!points.length) return leave();
    const apart = (p) => Math.abs(px(p.x) - mx) + (chart.kind === "line" ? 0 : Math.abs(py(p.y) - my));
    const best = points.reduce((a, b) => (apart(b) < apart(a) ? b : a));
    tip.replaceChildren();
    if (chart.kind === "line") {
      tip.append(make("div", "", title + " " + short(best.x)));
      for (const c of shown) {
        const near = points.filter((p) => p.c === c);
        if (!near.length) continue;
        const p = near.reduce((a, b) => (Math.abs(b.x - best.x) < Math.abs(a.x - best.x) ? b : a));
        const band = c.low && c.low[p.i] !== c.high[p.i] ? ` (${short(c.low[p.i])} to ${short(c.high[p.i])})` : "";
        tip.append(make("div", "key " + colourOf(c.colour), c.label + ": " + short(p.y) + band));
      }
    } else {
      const band = best.c.low && best.c.low[best.i] !== best.c.high[best.i]
        ? ` (${short(best.c.low[best.i])} to ${short(best.c.high[best.i])})` : "";
      const place = chart.kind === "trail" ? ` at KL ${short(best.x)}` : "";
      tip.append(make("div", "key " + colourOf(best.c.colour), best.c.label + ": " + short(best.y) + band + place));
    }
    tip.hidden = false;
    const side = px(best.x), room = frame.width - tip.offsetWidth;
    tip.style.left = Math.max(0, Math.min(room, side + (side > frame.width / 2 ? -tip.offsetWidth - 10 : 10))) + "px";
    hover.replaceChildren(draw("path", { class: "hair", d: `M${side.toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}` }));
  });
}

const plots = [...document.querySelectorAll(".plot")];
const watch = new ResizeObserver((entries) => entries.forEach((entry) => {  // also when a closed section opens
  const plot = entry.target;
  if (plot.dataset.width !== String(plot.clientWidth)) { plot.dataset.width = plot.clientWidth; render(plot); }
}));
plots.forEach((plot) => watch.observe(plot));
const axis = document.getElementById("axis");
if (axis) axis.addEventListener("input", () => { chosen = axis.value; plots.forEach(render); });
const boxes = [...document.querySelectorAll("[data-arm]")];
for (const box of boxes) {
  box.addEventListener("input", () => {
    const arm = +box.dataset.arm;
    if (box.checked) hidden.delete(arm); else hidden.add(arm);
    for (const same of boxes) if (+same.dataset.arm === arm) same.checked = box.checked;
    plots.forEach(render);
  });
}
