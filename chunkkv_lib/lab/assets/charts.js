/* One metric by layer, as lines in an SVG: what is compared is thick, what it is compared with is faint. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  const WIDTH = 420, HEIGHT = 190, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 30;

  const element = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // lines: [{values, colour, kind}], kind one of "left", "right", "faint", "random".
  // whole: the axis runs from 0 to 1, else only where the lines run.
  Lab.chart = (svg, lines, layer, whole) => {
    const all = lines.flatMap(line => line.values), layers = lines[0].values.length;
    let low = whole ? 0 : Math.min(...all), high = whole ? 1 : Math.max(...all);
    const room = Math.max((high - low) * 0.06, 1e-4);
    if (!whole) { low = Math.max(0, low - room); high = Math.min(1, high + room); }
    const x = l => LEFT + (WIDTH - LEFT - RIGHT) * (layers > 1 ? l / (layers - 1) : 0.5);
    const y = v => TOP + (HEIGHT - TOP - BOTTOM) * (high - v) / (high - low || 1);
    const rule = (kind, x1, x2, y1, y2) => element("line", { class: `lab-${kind}`, x1, x2, y1, y2 });
    const label = (text, x, y, anchor = "middle") => element("text", { x, y, "text-anchor": anchor }, text);
    const parts = [rule("now", x(layer), x(layer), TOP, HEIGHT - BOTTOM)];
    const digits = high - low > 0.2 ? 1 : high - low > 0.02 ? 2 : 3;
    for (let i = 0; i <= 4; i++) {
      const value = low + (high - low) * i / 4;
      parts.push(rule("grid", LEFT, WIDTH - RIGHT, y(value), y(value)));
      parts.push(label(value.toFixed(digits + 1), LEFT - 5, y(value) + 4, "end"));
    }
    for (const l of new Set([0, Math.round((layers - 1) / 2), layers - 1]))
      parts.push(label(l, x(l), HEIGHT - BOTTOM + 16));
    parts.push(label("layer", (LEFT + WIDTH) / 2, HEIGHT - 2));
    for (const { values, colour, kind } of [...lines].reverse()) {
      const path = values.map((v, l) => `${l ? "L" : "M"}${x(l).toFixed(1)} ${y(v).toFixed(1)}`).join("");
      parts.push(element("path", { class: `lab-line lab-${kind}`, d: path, style: `--colour: ${colour}` }));
      if (kind === "left" || kind === "right")
        parts.push(element("circle", { class: "lab-dot", cx: x(layer), cy: y(values[layer]), r: 4,
          style: `--colour: ${colour}` }));
    }
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.replaceChildren(...parts);
    svg.onclick = event => {
      const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * WIDTH;
      const chosen = Math.round((at - LEFT) / (WIDTH - LEFT - RIGHT) * (layers - 1));
      const detail = Math.min(Math.max(chosen, 0), layers - 1);
      svg.dispatchEvent(new CustomEvent("layer", { bubbles: true, detail }));
    };
  };
}
