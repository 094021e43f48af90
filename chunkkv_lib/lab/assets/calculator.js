/* Chapter 1's calculator: a model's shape, a prompt and a budget in; cache, peak and users out.
   The same sums as report/arithmetic.py, `serving_memory`. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

/* Of [whole, compressed after the prefill, compressed layer by layer]: cache and peak in bytes, users. */
Lab.memory = (shape, tokens, kept, device, number, weight) => {
  const cache = n => 2 * shape.layers * shape.kv_heads * shape.head_dim * number * n;
  const whole = cache(tokens), stays = cache(kept);
  const fixed = shape.weights * weight + tokens * (4 * shape.hidden + 3 * shape.intermediate) * 2;
  const ways = [[whole, 0], [stays, whole - stays], [stays, (whole - stays) / shape.layers]];
  return ways.map(([held, doomed]) =>
    [held, fixed + held + doomed, Math.max(0, Math.floor((device - fixed - doomed) / held))]);
};

/* Python's round: a half goes to the even number. */
Lab.keptTokens = (tokens, share) => {
  const up = Math.round(tokens * share);
  return Math.max(1, up - tokens * share === 0.5 && up % 2 ? up - 1 : up);
};

Lab.readable = bytes => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(Math.max(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), 0), units.length - 1);
  return `${Number((bytes / 1024 ** power).toPrecision(3)).toLocaleString("en")} ${units[power]}`;
};

{
  const start = root => {
    const form = root.querySelector("form"), field = form.elements;
    const presets = JSON.parse(root.dataset.presets), names = Object.keys(Object.values(presets)[0]);
    const positive = name => Math.max(Number(field[name].value) || 0, Number(field[name].min));

    const fill = () => {
      const shape = presets[field.model.value] ?? {};
      for (const name in shape) field[name].value = name === "weights" ? shape[name] / 1e9 : shape[name];
    };
    const update = () => {
      const own = () => Object.fromEntries(
        names.map(name => [name, positive(name) * (name === "weights" ? 1e9 : 1)]));
      const shape = presets[field.model.value] ?? own();
      const tokens = Math.round(positive("tokens")), share = Number(field.budget.value) / 100;
      const kept = Lab.keptTokens(tokens, share), number = Number(field.number.value);
      const weight = Number(field.weight.value), device = positive("device") * 1024 ** 3;
      const found = Lab.memory(shape, tokens, kept, device, number, weight);
      root.querySelectorAll("td").forEach((cell, i) => {
        const row = Math.floor(i / 3), value = found[i % 3][row];
        const most = Math.max(...found.map(way => way[row]), 1);
        cell.querySelector("b").textContent = row < 2 ? Lab.readable(value) : value.toLocaleString("en");
        cell.querySelector("span").style.width = `${(100 * value) / most}%`;
      });
      field.share.value = `${field.budget.value} %`;
      root.querySelector("[role=status]").textContent =
        `One token takes ${Lab.readable(found[0][0] / tokens)}; of ${tokens.toLocaleString("en")} tokens ` +
        `${kept.toLocaleString("en")} stay. The weights take ${Lab.readable(shape.weights * weight)}.`;
    };
    form.addEventListener("input", event => {
      if (event.target === field.model) fill();
      else if (names.includes(event.target.name)) field.model.value = "";
      update();
    });
    form.addEventListener("submit", event => event.preventDefault());
    form.hidden = false;
    fill();
    update();
  };

  const all = () => document.querySelectorAll(".lab-calculator").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
}
