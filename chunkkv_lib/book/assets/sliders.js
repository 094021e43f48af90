// "Try it": makes the controls of figures/sliders.py work. No library, no network.
"use strict";
(() => {
  const numbers = text => new Uint16Array(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer);
  const missing = value => value === null || Number.isNaN(value);
  const digits = (value, count) => missing(value) ? "–" : value.toFixed(count).replace("-", "−");
  const interval = (low, high, count) => missing(low) ? "" : `[${digits(low, count)}, ${digits(high, count)}]`;

  function start(view) {
    const data = JSON.parse(view.querySelector(".sliders-data").textContent);
    const curves = numbers(data.curves), edges = numbers(data.edges);
    const { left, right, top, bottom } = data.frame, last = data.layers - 1;
    const find = selector => view.querySelector(selector), all = selector => [...view.querySelectorAll(selector)];
    const category = find('[data-control="category"]'), fit = find('[data-control="fit"]');
    const told = find(".sliders-told"), first = told.textContent;
    const sliders = data.axes.map(axis => find(`[data-axis="${axis.field}"]`));
    let moved = 0, layer = -1, pointed = 0; // the axis whose slider moved last; what is read out, and in which panel

    // The setting of each method: one axis decides, the others stand at the run's own value.
    const settings = () => data.axes[moved].series.map(places => places[Number(sliders[moved].value)]);
    const unpacked = (code, m) => {
      const [low, high] = data.metrics[m].range;
      return code === 65535 ? NaN : low + code / 65534 * (high - low);
    };
    const allLayers = [...Array(data.layers).keys()];
    const at = (m, setting, count) =>
      ((Number(category.value) * data.metrics.length + m) * count + setting) * data.layers;
    const curve = (m, setting) => allLayers.map(l => unpacked(curves[at(m, setting, data.settings) + l], m));
    const edge = (m, setting, which) => allLayers.map(l => // 0: lower, 1: upper; controls have none
      setting < data.bands ? unpacked(edges[2 * (at(m, setting, data.bands) + l) + which], m) : NaN);

    const across = l => left + (right - left) * l / Math.max(last, 1);
    function points(values, marks) {
      const low = marks[0], high = marks.at(-1);
      if (values.some(Number.isNaN)) return [];
      const height = v => bottom - (v - low) / (high - low) * (bottom - top);
      return values.map((v, l) => `${across(l).toFixed(1)},${height(v).toFixed(1)}`);
    }

    // Round numbers around the compared methods' lines and bands; without such a line, the axis of the slider.
    function fitted(m) {
      const values = settings().slice(0, data.compared)
        .flatMap(setting => [...curve(m, setting), ...edge(m, setting, 0), ...edge(m, setting, 1)])
        .filter(value => !Number.isNaN(value));
      if (!values.length) return data.axes[moved].marks[m];
      const low = Math.min(...values), high = Math.max(...values), rough = Math.max(high - low, 1e-4) / 5;
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 2.5, 5, 10].map(one => one * power).find(one => one > 0.999 * rough);
      const first = Math.floor(low / step), count = Math.max(Math.ceil(high / step) - first, 1) + 1;
      return [...Array(count).keys()].map(i => Number(((first + i) * step).toFixed(9)));
    }

    function drawAxis(plot, marks) {
      const group = plot.querySelector(".sliders-marks");
      const [line, text, note] = ["line", "text", ".sliders-note"].map(part => group.querySelector(part));
      note.setAttribute("visibility", marks[0] > 0 || marks.at(-1) < 0 ? "visible" : "hidden");
      group.replaceChildren(...points(marks, marks).flatMap((place, i) => {
        const y = Number(place.split(",")[1]), [newLine, newText] = [line.cloneNode(), text.cloneNode()];
        newLine.setAttribute("y1", y);
        newLine.setAttribute("y2", y);
        newText.setAttribute("y", y + 4);
        newText.textContent = String(marks[i]);
        return [newLine, newText];
      }), note);
    }

    function drawPanel(plot) {
      const m = Number(plot.dataset.metric), now = settings();
      const marks = fit.checked ? fitted(m) : data.axes[moved].marks[m];
      const set = (where, selector, values) => where.querySelector(selector).setAttribute("points", values.join(" "));
      drawAxis(plot, marks);
      set(plot, ".sliders-start", points(curve(m, data.axes[moved].series[0][data.axes[moved].base]), marks));
      for (const group of plot.querySelectorAll("[data-method]")) {
        const k = Number(group.dataset.method), line = points(curve(m, now[k]), marks);
        const band = [0, 1].map(which => points(edge(m, now[k], which), marks));
        set(group, ".sliders-line", line);
        set(group, ".sliders-dots", line.filter((_, l) => l % data.step === k % data.step));
        set(group, ".sliders-band", [...band[0], ...band[1].reverse()]);
      }
    }

    function drawTable(table) {
      const m = Number(table.dataset.metric), sign = data.metrics[m].sign, now = settings();
      [...table.tBodies[0].rows].forEach((row, c) => {
        const means = now.map(setting => data.means[c][m][setting]);
        const compared = means.slice(0, data.compared).map(mean => mean[0]).filter(value => value !== null);
        const best = sign && compared.length ? sign * Math.max(...compared.map(value => sign * value)) : null;
        means.forEach(([estimate, low, high], k) => {
          const cell = row.cells[k + 1];
          cell.children[0].textContent = digits(estimate, 4);
          cell.children[1].textContent = interval(low, high, 4);
          cell.classList.toggle("best", k < data.compared && estimate !== null && estimate === best);
          cell.classList.toggle("still", !data.axes[moved].varied.includes(data.methods[k]));
        });
      });
    }

    function describe(returned, refitted) {
      const axis = data.axes[moved], names = data.axes.map((a, i) => `${a.name} ${a.texts[Number(sliders[i].value)]}`);
      const still = data.methods.filter(method => !axis.varied.includes(method));
      let text = names.join(", ");
      text = text[0].toUpperCase() + text.slice(1);
      if (Number(sliders[moved].value) === axis.base) text = first;
      else if (still.length) text += `. ${still.join(", ")} do not depend on the ${axis.name}.`;
      else text += `. All methods depend on the ${axis.name}.`;
      if (returned) text += ` Back at the run's own ${returned}, since the run changed one parameter at a time.`;
      if (refitted && !fit.checked) text += ` The y axes now fit every ${axis.name}.`;
      told.textContent = text;
    }

    // What a layer's values are, in the panel that is pointed at.
    function read() {
      const place = find(".sliders-layer");
      for (const rule of all(".sliders-rule")) {
        rule.setAttribute("visibility", layer < 0 ? "hidden" : "visible");
        rule.setAttribute("x1", across(Math.max(layer, 0)));
        rule.setAttribute("x2", across(Math.max(layer, 0)));
      }
      if (layer < 0) {
        place.textContent = "Point at a layer, or use the arrow keys on a panel, to read its values.";
        return;
      }
      const values = settings().map((setting, k) => {
        const band = interval(edge(pointed, setting, 0)[layer], edge(pointed, setting, 1)[layer], 3);
        return `${data.methods[k]} ${digits(curve(pointed, setting)[layer], 3)} ${band}`.trim();
      });
      place.textContent = `Layer ${layer}, ${data.metrics[pointed].label}: ${values.join("; ")}.`;
    }

    function draw() {
      sliders.forEach((slider, i) => {
        const text = data.axes[i].texts[Number(slider.value)];
        slider.setAttribute("aria-valuetext", text);
        slider.parentElement.querySelector("output").textContent = text;
      });
      const c = Number(category.value), n = Math.max(...data.counts[c]);
      find(".sliders-subject").textContent = `${data.categories[c]}, n = ${n} sequence${n === 1 ? "" : "s"}`;
      all(".sliders-plot").forEach(drawPanel);
      all(".sliders-table").forEach(drawTable);
      read();
    }

    function move(i) {
      const others = data.axes.filter((axis, j) => j !== i && Number(sliders[j].value) !== axis.base);
      data.axes.forEach((axis, j) => { if (j !== i) sliders[j].value = axis.base; });
      const refitted = moved !== i;
      moved = i;
      draw();
      describe(others.map(axis => axis.name).join(" and "), refitted);
    }

    // The shown numbers as CSV: the lines of the chosen sub-category, then the tables.
    function csv() {
      const value = (axis, i) => axis.values[Number(sliders[i].value)];
      const number = x => missing(x) ? "" : x.toFixed(4);
      const fields = data.axes.map(axis => axis.field);
      const rows = [["metric", "category", "method", ...fields, "layer", "estimate", "low", "high", "n"]];
      const add = (m, c, k, l, found) => rows.push([
        data.metrics[m].name, data.categories[c], data.methods[k],
        ...data.axes.map((axis, i) => axis.varied.includes(data.methods[k]) ? value(axis, i) : ""),
        l, ...found.map(number), data.counts[c][m]]);
      data.metrics.forEach((_, m) => {
        settings().forEach((setting, k) => {
          const [line, low, high] = [curve(m, setting), edge(m, setting, 0), edge(m, setting, 1)];
          line.forEach((x, l) => add(m, Number(category.value), k, l, [x, low[l], high[l]]));
        });
        data.categories.forEach((_, c) => settings().forEach((setting, k) =>
          add(m, c, k, "mean", data.means[c][m][setting])));
      });
      const quoted = x => /[",\n]/.test(x) ? `"${String(x).replaceAll('"', '""')}"` : x;
      const name = data.axes.map((axis, i) => `${axis.field}-${value(axis, i)}`).join("-");
      return { name: `${name}.csv`, text: rows.map(row => row.map(quoted).join(",") + "\n").join("") };
    }

    function save() {
      const file = csv(), link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([file.text], { type: "text/csv" }));
      link.download = file.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }

    sliders.forEach((slider, i) => slider.addEventListener("input", () => move(i)));
    category.addEventListener("change", draw);
    fit.addEventListener("change", draw);
    find('[data-control="reset"]').addEventListener("click", () => {
      sliders.forEach((slider, i) => { slider.value = data.axes[i].base; });
      category.value = data.first;
      fit.checked = false;
      layer = -1;
      move(0);
      told.textContent = first;
    });
    find('[data-control="download"]').addEventListener("click", save);
    for (const plot of all(".sliders-plot")) {
      const show = l => {
        layer = Math.min(last, Math.max(0, l));
        pointed = Number(plot.dataset.metric);
        read();
      };
      plot.addEventListener("pointermove", event => {
        const box = plot.querySelector("svg").getBoundingClientRect();
        const x = (event.clientX - box.left) / box.width * plot.querySelector("svg").viewBox.baseVal.width;
        show(Math.round((x - left) / (right - left) * last));
      });
      plot.addEventListener("keydown", event => {
        const target = { ArrowRight: layer + 1, ArrowLeft: layer - 1, Home: 0, End: last }[event.key];
        if (target === undefined) return;
        event.preventDefault();
        show(target);
      });
    }
    find(".sliders-still").remove();
    find(".sliders-controls").hidden = false;
    draw();
    view.dataset.ready = "true";
  }

  const begin = () => document.querySelectorAll(".sliders").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
