// A figure as a file: the drawing as it stands, with its title, legend and colours inside. Nothing leaves the machine.
const INLINED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "opacity",
  "font-size", "text-anchor"];
const SCALE = 3;  // of a PNG: pixels to a pixel of the page

function standing(plot) {
  const chart = charts[plot.dataset.chart], page = plot.querySelector("svg"), copy = page.cloneNode(true);
  const style = getComputedStyle(document.body), card = getComputedStyle(plot.parentNode).backgroundColor;
  const nodes = copy.querySelectorAll("*");
  page.querySelectorAll("*").forEach((node, i) => {
    const computed = getComputedStyle(node);
    for (const name of INLINED) nodes[i].setAttribute(name, computed.getPropertyValue(name));
    nodes[i].removeAttribute("class");
  });
  const width = +page.getAttribute("width"), text = { "font-size": 11, fill: style.color };
  const head = [draw("text", { x: 10, y: 18, "font-size": 14, fill: style.color }, plot.getAttribute("aria-label"))];
  const shown = new Map(chart.curves.filter((c) => !hidden.has(c.colour) || !plot.dataset.keyed)
    .map((c) => [chart.kind === "trail" ? c.label.replace(/, seed [^,]*$/, "") : c.label, c.colour]));
  let x = 10, y = 36;
  if (shown.size > 1) {
    for (const [label, colour] of shown) {
      const long = 30 + 6.3 * label.length;
      if (x > 10 && x + long > width) { x = 10; y += 16; }
      const probe = make("span", colourOf(colour));
      plot.append(probe);
      head.push(draw("rect", { x, y: y - 6, width: 14, height: 3, fill: getComputedStyle(probe).getPropertyValue("--c") }));
      probe.remove();
      head.push(draw("text", { ...text, x: x + 19, y }, label));
      x += long;
    }
    y += 16;
  }
  const height = HEIGHT + y - 8, moved = draw("g", { transform: `translate(0 ${y - 8})` });
  moved.append(...copy.childNodes);
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "system-ui, sans-serif" });
  svg.append(draw("rect", { width, height, fill: card }), ...head, moved);
  return { width, height, data: "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(svg)) };
}

function save(plot, kind) {
  const file = standing(plot), link = make("a");
  link.download = charts[plot.dataset.chart].title.toLowerCase().replace(/[^a-z0-9]+/g, "_") + "." + kind;
  if (kind === "svg") { link.href = file.data; link.click(); return; }
  const image = new Image();
  image.onload = () => {
    const canvas = make("canvas");
    canvas.width = file.width * SCALE;
    canvas.height = file.height * SCALE;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    link.href = canvas.toDataURL("image/png");
    link.click();
  };
  image.src = file.data;
}
for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", () => save(button.closest("figure").querySelector(".plot"), button.dataset.save));
}
