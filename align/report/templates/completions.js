// Completions: filter, order, search; tokens coloured by what they earn.
const PAGE = 10;
const { runs, cards } = read("data-completions");
if (cards.length) {
  const by = (id) => document.getElementById(id);
  const choice = (select, value, text) => { const o = make("option", "", text); o.value = value; by(select).append(o); };
  const firsts = runs.map((_, i) => i).filter((i) => runs.findIndex((r) => r.arm === runs[i].arm) === i);
  const sets = {};
  if (firsts.length > 1) { sets.arms = firsts; choice("who", "arms", "a run of each arm"); }
  runs.forEach((run, i) => { sets[i] = [i]; choice("who", i, run.name); });
  if (runs.length > firsts.length) { sets.all = runs.map((_, i) => i); choice("who", "all", "all runs"); }
  by("who").hidden = runs.length === 1;
  const seen = (c) => sets[by("who").value].filter((i) => c.sides[i]).map((i) => c.sides[i]);
  const score = (side) => (known(side.gold) ? side.gold : side.proxy);
  // One response ties with itself, as in the win rate: its two scores may differ by a rounding.
  const one = (a, b) => a.text === b.text && a.tokens === b.tokens && a.ended === b.ended;
  const judged = (side) => known(score(side));
  const gained = (side, start) => (one(side, start) || !judged(side) || !judged(start) ? 0 : score(side) - score(start));
  const gain = (c) => seen(c).reduce((sum, side) => sum + gained(side, c.start), 0) / seen(c).length;
  const all = cards.flatMap((c) => [c.start, ...Object.values(c.sides)]);
  const modes = [["rewards", "colour by the run's token rewards"], ["segments", "colour by the true credit"]]
    .filter(([key]) => all.some((side) => side[key] && side[key].length));
  for (const [value, text] of [...modes, ["none", "no colour"]]) choice("colour", value, text);
  const scale = {};  // the value that gets the full colour: nearly the largest
  for (const [mode] of modes) {
    const sizes = all.flatMap((side) => side[mode] || [])
      .map((v) => Math.abs(mode === "segments" ? v[2] : v || 0)).filter((v) => v).sort((a, b) => a - b);
    scale[mode] = sizes[Math.floor(0.95 * (sizes.length - 1))] || 1;
  }
  const paint = (node, value, mode, label) => {
    if (!known(value)) return node;
    const strength = Math.min(1, Math.abs(value) / scale[mode]) * 0.6;
    if (value) node.style.backgroundColor = "rgba(var(--" + (value < 0 ? "minus" : "plus") + "), " + strength.toFixed(3) + ")";
    node.title = (label ? label + " " : "") + (value > 0 ? "+" : "") + value;
    return node;
  };
  const piecesOf = (side, text) => {  // lengths in code points, or the pieces themselves
    let at = 0;
    return side.pieces.map((p) => (typeof p === "string" ? p : text.slice(at, at += p).join("")));
  };
  const response = (side) => {
    const box = make("div", "response"), mode = by("colour").value, text = [...side.text];
    const end = side.ended ? "end" : "cut";
    if (mode === "rewards" && side.rewards) {
      const pieces = piecesOf(side, text), last = pieces.length - 1, chip = make("span", "chip", end);
      pieces.forEach((piece, i) => { if (piece) box.append(paint(make("span", "", piece), side.rewards[i], mode)); });
      box.append(pieces[last] === "" ? paint(chip, side.rewards[last], mode, "end token") : chip);
      return box;
    }
    if (mode === "segments" && side.segments) {
      let from = 0;
      const cut = (a, b) => text.slice(a, b).join("");
      for (const [start, stop, credit, label] of side.segments) {
        if (start > from) box.append(cut(from, start));
        box.append(paint(stop > start ? make("span", "", cut(start, stop)) : make("span", "chip", label), credit, mode, label));
        from = Math.max(from, stop);
      }
      box.append(cut(from, text.length));
      return box;
    }
    box.append(side.text, make("span", "chip", end));
    return box;
  };
  const sideOf = (side, name, colour) => {
    const node = make("div", "side"), who = make("div", "who"), label = make("b", "", name);
    label.prepend(make("span", "spot " + colour));
    who.append(label);
    if (known(side.gold)) who.append(make("span", "", "gold " + show(side.gold)));
    if (known(side.proxy)) who.append(make("span", "", "proxy " + show(side.proxy)));
    who.append(make("span", "", side.tokens + " tokens"));
    node.append(who, response(side));
    return node;
  };
  const card = (c) => {
    const node = make("div", "pair"), sides = make("div", "sides");
    sides.append(sideOf(c.start, "start model", "cs"));
    for (const i of sets[by("who").value]) {
      if (c.sides[i]) sides.append(sideOf(c.sides[i], runs.length > 1 ? runs[i].name : "trained", colourOf(runs[i].arm)));
    }
    node.append(make("div", "prompt", c.prompt), sides);
    return node;
  };
  const keeps = {
    all: () => true, better: (c) => gain(c) > 0, worse: (c) => gain(c) < 0, same: (c) => gain(c) === 0,
    cut: (c) => seen(c).some((side) => !side.ended),
  };
  const longest = (c) => Math.max(...seen(c).map((side) => side.tokens));
  const orders = {
    data: () => 0, gain: (a, b) => gain(b) - gain(a), loss: (a, b) => gain(a) - gain(b),
    long: (a, b) => longest(b) - longest(a),
  };
  let picked = [], done = 0;
  const more = () => {
    by("list").append(...picked.slice(done, done + PAGE).map(card));
    done = Math.min(picked.length, done + PAGE);
    by("next").hidden = done === picked.length;
    by("count").textContent = done + " of " + picked.length + " shown.";
  };
  const refresh = () => {
    const words = by("search").value.toLowerCase();
    const found = (c) => [c.prompt, c.start.text, ...seen(c).map((s) => s.text)].some((t) => t.toLowerCase().includes(words));
    picked = cards.filter((c) => seen(c).length && keeps[by("filter").value](c) && found(c)).sort(orders[by("order").value]);
    done = 0;
    by("list").replaceChildren();
    more();
  };
  by("next").addEventListener("click", more);
  for (const id of ["search", "who", "filter", "order", "colour"]) by(id).addEventListener("input", refresh);
  refresh();
}
