"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;  // never innerHTML: a model's text stays text
  return node;
};
const show = (v, digits = 3) => (v === null || v === undefined ? "-" : v.toFixed(digits));

// Curves: a hair line and the values at the nearest update.
const curves = read("curves");
for (const plot of document.querySelectorAll(".plot")) {
  const chart = curves[plot.dataset.chart], svg = plot.querySelector("svg"), tip = plot.querySelector(".tip");
  const hover = svg.querySelector(".hover"), view = svg.viewBox.baseVal, at = chart.plot;
  const place = (x) => at.left + ((x - chart.box[0]) / (chart.box[1] - chart.box[0])) * (at.right - at.left);
  const leave = () => { tip.hidden = true; hover.replaceChildren(); };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const want = ((event.clientX - frame.left) / frame.width) * view.width;
    const xs = chart.x[0];
    let best = 0;
    xs.forEach((x, i) => { if (Math.abs(place(x) - want) < Math.abs(place(xs[best]) - want)) best = i; });
    const values = chart.labels.map((label, i) => [label, chart.y[i][chart.x[i].indexOf(xs[best])]]);
    tip.replaceChildren(make("div", "", "update " + xs[best]));
    for (const [label, v] of values) {
      tip.append(make("div", "", label + ": " + (v === null || v === undefined ? "-" : String(+v.toPrecision(4)))));
    }
    tip.hidden = false;
    const px = (place(xs[best]) / view.width) * frame.width;
    const room = frame.width - tip.offsetWidth;
    tip.style.left = Math.max(0, Math.min(room, px + (px > frame.width / 2 ? -tip.offsetWidth - 10 : 10))) + "px";
    const hair = document.createElementNS("http://www.w3.org/2000/svg", "line");
    hair.setAttribute("class", "hair");
    for (const [key, v] of [["x1", place(xs[best])], ["x2", place(xs[best])], ["y1", at.top], ["y2", at.bottom]]) {
      hair.setAttribute(key, v);
    }
    hover.replaceChildren(hair);
  });
}

// Completions: filter, order, search; tokens coloured by what they earn.
const PAGE = 10;
const pairs = read("pairs");
if (pairs.length) {
  const by = (id) => document.getElementById(id);
  const score = (side) => (side.gold === null ? side.proxy : side.gold);
  const gain = (p) => score(p.after) - score(p.before);
  const modes = [["rewards", "colour by the run's token rewards"], ["segments", "colour by the true credit"]]
    .filter(([key]) => pairs.some((p) => p.before[key] && p.before[key].length));
  for (const [value, text] of [...modes, ["none", "no colour"]]) {
    const option = make("option", "", text);
    option.value = value;
    by("colour").append(option);
  }
  const scale = {};  // the value that gets the full colour: nearly the largest
  for (const [mode] of modes) {
    const all = pairs.flatMap((p) => [p.before, p.after]).flatMap((side) => side[mode] || [])
      .map((v) => Math.abs(mode === "segments" ? v[2] : v || 0)).sort((a, b) => a - b);
    scale[mode] = all[Math.floor(0.98 * (all.length - 1))] || 1;
  }
  const paint = (node, value, mode, label) => {
    if (value === null || value === undefined) return node;
    const strength = Math.min(1, Math.abs(value) / scale[mode]) * 0.6;
    node.style.backgroundColor = "rgba(var(--" + (value < 0 ? "minus" : "plus") + "), " + strength.toFixed(3) + ")";
    node.title = (label ? label + " " : "") + (value > 0 ? "+" : "") + value.toFixed(4);
    return node;
  };
  const response = (side) => {
    const box = make("div", "response"), mode = by("colour").value;
    const end = side.ended ? "end" : "cut";
    if (mode === "rewards" && side.rewards) {
      side.pieces.forEach((piece, i) => {
        if (piece) box.append(paint(make("span", "", piece), side.rewards[i], mode));
      });
      const last = side.pieces.length - 1;
      const chip = make("span", "chip", end);
      box.append(side.pieces[last] === "" ? paint(chip, side.rewards[last], mode, "end token") : chip);
      return box;
    }
    if (mode === "segments" && side.segments) {
      let from = 0;
      const text = [...side.text], cut = (a, b) => text.slice(a, b).join("");  // offsets count code points
      for (const [start, stop, credit, label] of side.segments) {
        if (start > from) box.append(cut(from, start));
        if (stop > start) box.append(paint(make("span", "", cut(start, stop)), credit, mode, label));
        else box.append(paint(make("span", "chip", label), credit, mode, label));
        from = Math.max(from, stop);
      }
      box.append(cut(from, text.length));
      return box;
    }
    box.append(side.text, make("span", "chip", end));
    return box;
  };
  const sideOf = (side, name) => {
    const node = make("div", "side"), who = make("div", "who");
    who.append(make("b", "", name));
    if (side.gold !== null) who.append(make("span", "", "gold " + show(side.gold)));
    who.append(make("span", "", "proxy " + show(side.proxy)), make("span", "", side.tokens + " tokens"));
    node.append(who, response(side));
    return node;
  };
  const card = (p) => {
    const node = make("div", "pair"), sides = make("div", "sides");
    sides.append(sideOf(p.before, "start"), sideOf(p.after, "trained"));
    node.append(make("div", "prompt", p.prompt), sides);
    return node;
  };
  const keeps = {
    all: () => true, better: (p) => gain(p) > 0, worse: (p) => gain(p) < 0, same: (p) => gain(p) === 0,
    cut: (p) => !p.after.ended,
  };
  const orders = {
    data: () => 0, gain: (a, b) => gain(b) - gain(a), loss: (a, b) => gain(a) - gain(b),
    long: (a, b) => b.after.tokens - a.after.tokens,
  };
  let chosen = [], shown = 0;
  const more = () => {
    by("list").append(...chosen.slice(shown, shown + PAGE).map(card));
    shown = Math.min(chosen.length, shown + PAGE);
    by("next").hidden = shown === chosen.length;
    by("count").textContent = shown + " of " + chosen.length + " shown.";
  };
  const refresh = () => {
    const words = by("search").value.toLowerCase();
    const found = (p) => [p.prompt, p.before.text, p.after.text].some((t) => t.toLowerCase().includes(words));
    chosen = pairs.filter((p) => keeps[by("filter").value](p) && found(p)).sort(orders[by("order").value]);
    shown = 0;
    by("list").replaceChildren();
    more();
  };
  by("next").addEventListener("click", more);
  for (const id of ["search", "filter", "order", "colour"]) by(id).addEventListener("input", refresh);
  refresh();
}
